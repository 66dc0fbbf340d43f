"""The figure of the question of scaling: a panel for each population."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from encoder_training.evaluation.bootstrap import Interval
from evaluation.questions.answer import AnswerFigure, p_text
from evaluation.questions.fidelity_figures import CONTROL, INK, NULL

if TYPE_CHECKING:
    from evaluation.questions.scaling import Fit

COLUMNS = 4
TICKS = (3, 10, 30, 100, 300)


def scaling_figure(
    fits: Sequence[Fit], baseline: Interval, n_windows: int, n_frames: int
) -> AnswerFigure:
    """Return the figure of all populations."""
    n_rows = -(-len(fits) // COLUMNS)
    return AnswerFigure(
        "units",
        f"Lead (own caption less others) by number of units, one encoder masked. n = {n_windows} "
        f"windows of {n_frames} frames. Small points: random orders of the units; large: their "
        "mean, with 95 % intervals over frames and orders. Line: fit over the logarithm, with its "
        "interval. Dashed: the nearest caption, from all units. Grey: 95 % of the circular shifts "
        "of the largest set; p: of the slope, over circular shifts.",
        (9, 0.9 + 2.1 * n_rows),
        partial(_draw, fits=fits, baseline=baseline),
    )


def _draw(figure: Any, fits: Sequence[Fit], baseline: Interval) -> None:
    n_rows = -(-len(fits) // COLUMNS)
    panels = figure.subplots(n_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    flat = panels.reshape(-1)
    for axes, fit in zip(flat, fits, strict=False):
        _panel(axes, fit, baseline)
    for axes in flat[len(fits) :]:
        axes.axis("off")
    for row in panels:
        row[0].set_ylabel("lead")
    for axes in flat[max(0, len(fits) - COLUMNS) : len(fits)]:
        axes.set_xlabel("units")
        axes.tick_params(labelbottom=True)


def _panel(axes: Any, fit: Fit, baseline: Interval) -> None:
    sizes = list(fit.sizes)
    axes.axhspan(*fit.null, color=NULL, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(baseline.value, color=CONTROL, linewidth=1, linestyle="--")
    line = [fit.line[size] for size in sizes]
    axes.fill_between(
        sizes, [at.low for at in line], [at.high for at in line], color=INK, alpha=0.12, linewidth=0
    )
    axes.plot(sizes, [at.value for at in line], color=INK, linewidth=1)
    for size in sizes:
        lead = fit.leads[size]
        axes.plot([size] * len(fit.of_orders[size]), fit.of_orders[size], ".", color=CONTROL, ms=3)
        axes.plot([size, size], [lead.low, lead.high], color=INK, linewidth=1.2)
        axes.plot(size, lead.value, "o", color=INK, ms=4.5)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.set_title(f"{fit.population} ({sizes[-1]}), {p_text(fit.test.p)}", fontsize=8.5)
