"""The figure of the question of pooling: each measure, intact and exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from evaluation.questions.answer import AnswerFigure, Row, interval_of
from evaluation.questions.fidelity_figures import CONTROL, INK


def pooling_figure(
    rows: Sequence[Row], measures: Mapping[str, str], n_windows: int, n_frames: int
) -> AnswerFigure:
    """Return the figure of all populations."""
    names = list(dict.fromkeys(str(row["population"]) for row in rows))
    titles = "; ".join(f"{name}: {text}" for name, text in measures.items())
    return AnswerFigure(
        "differences",
        f"Windows as they were recorded (filled) and with repeats exchanged between units (open). "
        f"n = {n_windows} windows of {n_frames} frames. Lines: 95 % intervals over frames and "
        f"exchanges. {titles}. Right of each: the difference, exchanged less intact.",
        (11, 1.4 + 0.28 * len(names)),
        partial(_draw, rows=rows, names=names, measures=list(measures)),
    )


def _draw(figure: Any, rows: Sequence[Row], names: Sequence[str], measures: Sequence[str]) -> None:
    panels = figure.subplots(1, 2 * len(measures), sharey=True)
    for at, measure in enumerate(measures):
        values, less = panels[2 * at : 2 * at + 2]
        for row in rows:
            if row["measure"] != measure:
                continue
            y = names.index(str(row["population"]))
            _point(values, row, "intact", y - 0.15, INK)
            _point(values, row, "exchanged", y + 0.15, "white")
            _point(less, row, "difference", y, INK)
        for axes in (values, less):
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            axes.locator_params(axis="x", nbins=3)
        values.set_title(measure)
        less.set_title("difference", color=CONTROL)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()


def _point(axes: Any, row: Row, name: str, y: float, colour: str) -> None:
    found = interval_of(row, name)
    axes.plot([found.low, found.high], [y, y], color=INK, linewidth=1)
    axes.plot(found.value, y, "o", mfc=colour, mec=INK, ms=4)
