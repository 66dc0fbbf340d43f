"""The figure of the question of scaling: a panel for each population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from evaluation.questions.answer import AnswerFigure, p_text
from evaluation.questions.fidelity_figures import CONTROL, INK, NULL, SHOWN

if TYPE_CHECKING:
    from evaluation.questions.growth import Fit, Levels

COLUMNS = 4
LONGEST_TITLE = 30
"""Letters that are as wide as a panel."""

TICKS = (3, 10, 30, 100, 300)


def scaling_figure(
    fits: Sequence[Fit], levels: Levels, n_windows: int, n_frames: int
) -> AnswerFigure:
    """Return the figure of all populations; a trained fit is drawn beside the masked one."""
    trained = {fit.population: fit for fit in fits if fit.encoder == "trained"}
    masked = [fit for fit in fits if fit.encoder == "masked"]
    open_points = (
        "Open, dashed: an encoder trained for each subset, in fewer orders. " if trained else ""
    )
    return AnswerFigure(
        "units",
        f"Lead (own caption less others) by number of units, one encoder masked. n = {n_windows} "
        f"windows of {n_frames} frames. Small points: random orders of the units; large: their "
        "mean, with 95 % intervals over frames and orders. Line: fit over the logarithm, with its "
        f"interval. {open_points}Horizontal dashes: the nearest caption, from all units; green: "
        "the true patches, the most that narrations can have. Grey: 95 % of the circular shifts "
        "of the largest set; p: of the slope, over circular shifts.",
        growth_size_in(len(masked)),
        partial(_draw, fits=masked, trained=trained, levels=levels),
    )


def _draw(figure: Any, fits: Sequence[Fit], trained: Mapping[str, Fit], levels: Levels) -> None:
    for axes, fit in zip(growth_panels(figure, len(fits)), fits, strict=True):
        _panel(axes, fit, levels)
        if fit.population in trained:
            _trained(axes, trained[fit.population])


def growth_size_in(n_panels: int) -> tuple[float, float]:
    """Return the size of a figure of `growth_panels`, inches."""
    return (9, 0.9 + 2.1 * -(-n_panels // COLUMNS))


def growth_panels(figure: Any, n_panels: int) -> Sequence[Any]:
    """Return panels of the lead over units, which share both axes."""
    n_rows = -(-n_panels // COLUMNS)
    panels = figure.subplots(n_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    flat: Sequence[Any] = panels.reshape(-1)
    for axes in flat[n_panels:]:
        axes.axis("off")
    for row in panels:
        row[0].set_ylabel("lead")
    for axes in flat[max(0, n_panels - COLUMNS) : n_panels]:
        axes.set_xlabel("units")
        axes.tick_params(labelbottom=True)
    return flat[:n_panels]


def _panel(axes: Any, fit: Fit, levels: Levels) -> None:
    sizes = list(fit.sizes)
    axes.axhspan(*fit.null, color=NULL, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(levels.nearest_caption.value, color=CONTROL, linewidth=1, linestyle="--")
    axes.axhline(levels.true_patches.value, color=SHOWN, linewidth=1)
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
    title = f"{fit.population} ({sizes[-1]}), {p_text(fit.test.p)}"
    # A session may have a long name, and the next panel a title too
    axes.set_title(title, fontsize=8.5 * min(1, LONGEST_TITLE / len(title)))


def _trained(axes: Any, fit: Fit) -> None:
    """Draw encoders trained for each subset, a little to the right of the masked ones."""
    sizes = fit.sizes[:-1]  # of all units it is the bundle's own
    for size in sizes:
        lead = fit.leads[size]
        axes.plot([1.15 * size] * 2, [lead.low, lead.high], color=INK, linewidth=0.8)
        axes.plot(1.15 * size, lead.value, "o", mfc="white", mec=INK, ms=4.5)
    line = [fit.line[size].value for size in fit.sizes]
    axes.plot(fit.sizes, line, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
