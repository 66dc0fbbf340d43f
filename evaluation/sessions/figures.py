"""The figures of several sessions: each session thin, the mean over sessions thick."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from evaluation.questions.answer import AnswerFigure
from evaluation.questions.fidelity_figures import CONTROL, INK, NO_INFORMATION, NULL
from evaluation.questions.scaling_figure import TICKS, growth_panels, growth_size_in
from evaluation.sessions.means import SessionMean
from evaluation.sessions.results import APART, FIDELITY, GROWTH, SLOPE, Measure

ROW_IN, HEAD_IN = 0.3, 1.3

LABELS = {
    FIDELITY: "cosine with the own caption, less circular shifts",
    SLOPE: "what ten times as many units add, less circular shifts",
    APART: "how much further from the others than they are among themselves",
}

HOW_TO_READ = (
    "Small points: sessions, with 95 % intervals over their frames. Large: the mean, with its 95 % "
    "interval over sessions (Student's t)."
)
ZERO = "Dotted: 0. Grey: narrators without the frame."
RANDOM = "Grey: where 95 % of populations of random units lie, the mean of the sessions' bands."


def session_figures(means: Sequence[SessionMean], n_sessions: int) -> tuple[AnswerFigure, ...]:
    """Return a figure for each measure that has one and was found in two sessions or more."""
    found = [
        AnswerFigure(
            f"{measure.question}-{measure.column}",
            f"{measure.name} of {n_sessions} sessions. {HOW_TO_READ} "
            f"{RANDOM if measure.null else ZERO}",
            (7.5, HEAD_IN + ROW_IN * len(of)),
            partial(_forest, means=of, measure=measure),
        )
        for measure in LABELS
        if (of := [one for one in means if one.measure == measure])
    ]
    curves = _curves(means)
    if curves:
        found.append(
            AnswerFigure(
                "growth",
                f"Lead by number of units in {n_sessions} sessions, one encoder of each masked. "
                "Grey: sessions. Black: the mean of those that have as many units, with its 95 % "
                "interval over sessions. Dotted: 0. Controls are in the figure of fidelity.",
                growth_size_in(len(curves)),
                partial(_growth, curves=curves),
            )
        )
    return tuple(found)


def _forest(figure: Any, means: Sequence[SessionMean], measure: Measure) -> None:
    axes = figure.subplots()
    for at, one in enumerate(means):
        if one.null is not None:
            low, high = one.null
            axes.barh(at, high - low, left=low, height=0.7, color=NULL, alpha=0.5)
        colour = CONTROL if one.of[0] in NO_INFORMATION else INK
        step = 0.5 / max(1, len(one.values) - 1)
        for number, value in enumerate(one.values):
            height = at - 0.25 + step * number
            axes.plot([value.value.low, value.value.high], [height] * 2, color=NULL, linewidth=1.5)
            axes.plot(value.value.value, height, "o", ms=3, color=CONTROL)
        axes.plot([one.mean.low, one.mean.high], [at, at], color=colour, linewidth=1.6)
        axes.plot(one.mean.value, at, "o", ms=6.5, color=colour)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    # With two sessions an interval over sessions can be a hundred times the spread of the points
    every = [end for one in means for v in one.values for end in (v.value.low, v.value.high)]
    reach = max(max(every) - min(every), 1e-3)
    axes.set_xlim(min(*every, 0) - 0.3 * reach, max(*every, 0) + 0.3 * reach)
    axes.set_ylim(len(means) - 0.4, -0.6)
    axes.set_yticks(range(len(means)), [f"{one.name} (n = {len(one.values)})" for one in means])
    axes.set_xlabel(LABELS[measure])


def _curves(means: Sequence[SessionMean]) -> dict[str, list[SessionMean]]:
    """Return the growth of each population, by number of units; of masked encoders."""
    curves: dict[str, list[SessionMean]] = defaultdict(list)
    for one in means:
        if one.measure == GROWTH and one.of[1] == "masked":
            curves[one.of[0]].append(one)
    return {
        name: sorted(of, key=lambda one: int(one.of[2]))
        for name, of in curves.items()
        if len(of) > 1
    }


def _growth(figure: Any, curves: dict[str, list[SessionMean]]) -> None:
    panels = growth_panels(figure, len(curves))
    for axes, (name, of) in zip(panels, curves.items(), strict=True):
        _curve(axes, name, of)
    every = [value.value.value for of in curves.values() for one in of for value in one.values]
    panels[0].set_ylim(min(*every, 0) - 0.05, max(*every, 0) + 0.1)  # of all: they share it


def _curve(axes: Any, name: str, of: Sequence[SessionMean]) -> None:
    sizes = [int(one.of[2]) for one in of]
    each: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for size, one in zip(sizes, of, strict=True):
        for value in one.values:
            each[value.session].append((size, value.value.value))
    for points in each.values():
        axes.plot(*zip(*points, strict=True), color=CONTROL, linewidth=0.8, alpha=0.6)
    low, high = ([getattr(one.mean, end) for one in of] for end in ("low", "high"))
    axes.fill_between(sizes, low, high, color=INK, alpha=0.12, linewidth=0)
    axes.plot(sizes, [one.mean.value for one in of], "o-", color=INK, ms=4, linewidth=1.4)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.set_title(f"{name} (n = {len(each)})", fontsize=8.5)
