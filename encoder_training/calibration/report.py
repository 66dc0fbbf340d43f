"""``report.html`` of a calibration: one file with its pictures, to be read in a browser."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from contracts.atomic_files import write_text

REPORT = "report.html"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left; }
img { max-width: 100%; } h2 { margin-top: 2.2rem; }
"""


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as an HTML table; the first row's keys are the columns."""
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) + "</tr>\n"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def paragraphs(*texts: str) -> str:
    """Return texts as paragraphs."""
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)


def picture(path: Path, caption: str) -> str:
    """Return a PNG file as part of the page itself, so that the page can be sent on alone."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def write_page(path: Path, title: str, sections: Mapping[str, str]) -> None:
    """Write a page of sections, each HTML by its heading; without a heading it comes first."""
    body = "".join(
        (f"<h2>{escape(heading)}</h2>\n" if heading else "") + content
        for heading, content in sections.items()
    )
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}</html>\n",
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
