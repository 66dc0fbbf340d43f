"""A page of answers: one HTML file that holds its figures and the short tables."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from contracts.atomic_files import write_text
from evaluation.questions.answer import Answer, Row

PAGE = "report.html"
MOST_ROWS = 40
"""Longer tables are linked and not shown."""

STYLE = """
body { font: 15px/1.5 Inter, system-ui, sans-serif; color: #13171b; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { font-size: 1.15rem; } figure { margin: 1.5rem 0; } figcaption { color: #5d6771; }
img { max-width: 100%; } table { border-collapse: collapse; font-size: 12px;
  font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
td, th { padding: .15rem .5rem; text-align: left; border-bottom: 1px solid #d5dade; }
"""


@dataclass(frozen=True, slots=True)
class PageHead:
    """What stands above the answers."""

    title: str
    command: str
    origin: str  # Which bundle, which model, in a sentence
    notes: Sequence[str]  # What a reader of every number must know


def write_page(path: Path, answers: Sequence[Answer], head: PageHead) -> None:
    """Write the page beside the tables and figures of `write_answer`."""
    write_text(path, "\n".join(_page(path.parent, answers, head)) + "\n")


def _page(folder: Path, answers: Sequence[Answer], head: PageHead) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f"<title>{escape(head.title)}</title><style>{STYLE}</style></head><body>"
    yield f"<h1>{escape(head.title)}</h1>"
    yield f"<p>Made by <code>{escape(head.command)}</code>. {escape(head.origin)}</p>"
    yield _items(head.notes)
    for answer in answers:
        yield f'<h2 id="{answer.name}">{escape(answer.title)}</h2>'
        yield _items(answer.findings)
        for page in answer.pages:
            yield f'<p><a href="{answer.name}-{page}.html">{answer.name}-{page}.html</a></p>'
        for figure in answer.figures:
            name = f"{answer.name}-{figure.name}"
            picture = b64encode((folder / f"{name}.svg").read_bytes()).decode()
            yield f'<figure><img alt="{escape(figure.caption)}" '
            yield f'src="data:image/svg+xml;base64,{picture}">'
            yield f'<figcaption>{escape(figure.caption)} <a href="{name}.png">PNG</a>, '
            yield f'<a href="{name}.svg">SVG</a></figcaption></figure>'
        for table, rows in answer.tables.items():
            file = f"{answer.name}-{table}.csv"
            yield f'<p><a href="{file}">{file}</a>, {len(rows)} rows</p>'
            if len(rows) <= MOST_ROWS:
                yield _table(rows)
    yield "</body></html>"


def _items(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}.</li>" for sentence in sentences) + "</ul>"


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}"
    return str(value)
