"""What a question gives: numbers as tables, figures, and sentences for who reads them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from contracts.atomic_files import write_text
from encoder_training.evaluation.bootstrap import Interval
from encoder_training.pictures import report_figure

Row = Mapping[str, object]

FORMATS = (".png", ".svg")
DPI = 150


@dataclass(frozen=True, slots=True)
class AnswerFigure:
    """A figure that can be read alone."""

    name: str
    caption: str  # n, what the intervals and the null are
    size_in: tuple[float, float]
    draw: Callable[[Any], None]  # Given an empty figure of matplotlib


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question."""

    name: str
    title: str
    findings: tuple[str, ...]  # Sentences, each with its numbers
    tables: Mapping[str, Sequence[Row]]  # Tidy: one row an observation
    figures: tuple[AnswerFigure, ...] = ()
    pages: Mapping[str, str] = field(default_factory=dict)  # HTML of further pages, by name


def write_answer(answer: Answer, folder: Path) -> None:
    """Write tables as CSV, figures as PNG and SVG, and pages, all named after the question."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in answer.tables.items():
        write_text(folder / f"{answer.name}-{name}.csv", csv_text(rows))
    for name, html in answer.pages.items():
        write_text(folder / f"{answer.name}-{name}.html", html)
    for figure in answer.figures:
        for suffix in FORMATS:
            path = folder / f"{answer.name}-{figure.name}{suffix}"
            with report_figure(path, figure.size_in, dpi=DPI) as empty:
                figure.draw(empty)


def csv_text(rows: Sequence[Row]) -> str:
    """Return rows as CSV; the columns are the keys of the first. NaN is an empty cell."""
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else value for key, value in row.items()})
    return text.getvalue()


def with_interval(name: str, found: Interval) -> dict[str, float]:
    """Return a value and the ends of its interval as three columns."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def interval_of(row: Row, name: str) -> Interval:
    """Return the value and the interval of three columns that `with_interval` made."""
    return Interval(*(float(str(row[f"{name}{end}"])) for end in ("", "_low", "_high")))


def p_text(p: float) -> str:
    """Return a p-value for people.

    >>> p_text(0.0004), p_text(0.25), p_text(float("nan"))
    ('p < 0.001', 'p = 0.25', 'no p: too few frames')
    """
    if p != p:
        return "no p: too few frames"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
