"""The figure of the question of false positives: a panel for each kind of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.questions.answer import Row, interval_of
from evaluation.questions.fidelity_figures import INK

NAIVE = ("any order", "frames")
"""Ends of the names of tests that take frames for independent."""


def draw_rates(figure: Any, rows: Sequence[Row], level: float) -> None:
    """Draw the rate of each test with its interval."""
    nulls = list(dict.fromkeys(str(row["labels"]) for row in rows))
    panels = figure.subplots(len(nulls), 1, sharex=True, squeeze=False)[:, 0]
    for axes, null in zip(panels, nulls, strict=True):
        of_null = [row for row in rows if row["labels"] == null]
        for at, row in enumerate(of_null):
            rate = interval_of(row, "rate")
            face = "white" if str(row["test"]).endswith(NAIVE) else INK
            axes.plot([rate.low, rate.high], [at, at], color=INK, linewidth=1.2)
            axes.plot(rate.value, at, "o", mfc=face, mec=INK, ms=5)
        axes.axvline(level, color=INK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(of_null)), [str(row["test"]) for row in of_null])
        axes.set_ylim(len(of_null) - 0.5, -0.5)
        axes.set_title(null)
    panels[-1].set_xlabel("share rejected")
