"""The picture of a dry run: for each rule its score over time, its delays, its thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S
from contracts.errors import UserError
from evaluation.scores import number
from evaluation.triggers.intervals import TimeIntervals
from evaluation.triggers.report import RuleScore
from evaluation.triggers.score_trace import Swept, best_of

if TYPE_CHECKING:
    from evaluation.triggers.report import DryRun

PRESENT = "#bcd8c1"
HIT = "#2f7d4f"
REPEAT = "#9aa5b1"
FALSE_ALARM = "#c8553d"
TRACE = "#2a6f97"
INK = "#33383d"
UNANNOTATED = "#eeeeee"

WIDTH_IN = 12.0
ROW_IN = 2.0
MAX_RULES = 12  # More rules would make the picture too tall to read; the rest are left out
ENDINGS = (".png", ".svg", ".pdf")


def check_picture(path: Path | None) -> None:
    """Refuse, before the replay, a picture that could not be written after it.

    Raises
    ------
    UserError
        If the suffix is not one of `ENDINGS`, or cannot be written.
    DependencyError
        If matplotlib is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"--picture must end in {', '.join(ENDINGS)}, got {path}.")
    check_writable(path)
    from encoder_training.pictures import check_matplotlib

    check_matplotlib()


def write_picture(path: Path, report: DryRun) -> None:
    """Draw a row for each rule; the suffix of `path` selects the format."""
    from encoder_training.pictures import report_figure

    rules = report.rules[:MAX_RULES]
    with report_figure(path, (WIDTH_IN, 0.7 + ROW_IN * len(rules)), dpi=100) as figure:
        left_out = len(report.rules) - len(rules)
        figure.suptitle(
            f"Dry run of rules at --speed {report.speed}; the truth: {report.truth}"
            + (f"; {left_out} rules more are not drawn" if left_out else ""),
            fontsize=9,
        )
        axes = figure.subplots(len(rules), 3, squeeze=False, width_ratios=(5.2, 1.4, 1.4))
        for scored, (over_time, delays, thresholds) in zip(rules, axes, strict=True):
            _over_time(over_time, scored, report)
            _delays(delays, scored)
            _thresholds(thresholds, scored)
        axes[-1, 0].set_xlabel("session time, s")
        figure.legend(
            handles=_legend(), ncols=8, fontsize=7, frameon=False, loc="outside lower left"
        )


def _over_time(axes: Any, scored: RuleScore, report: DryRun) -> None:
    """Draw the score, its threshold, the concept's intervals, and where the rule fired."""
    result, level, trace = scored.result, scored.rule.level, scored.trace
    edges_s = [edge / NS_PER_S for edge in report.played]
    axes.set_xlim(*edges_s)
    score = trace.score[np.isfinite(trace.score)]
    low = min(0.0, float(score.min(initial=0.0)))
    axes.set_ylim(low - 0.03, 1.24)
    axes.axvspan(*edges_s, color=UNANNOTATED, zorder=0, linewidth=0)
    _shade(axes, report.annotated, "white")
    if not isinstance(result, str):
        _shade(axes, result.concept.events, PRESENT)
    drawn = "steps-post" if scored.rule.condition.kind.value == "word" else "default"
    order = np.argsort(trace.stop_ns, kind="stable")  # narrations may overtake each other
    times_s = trace.stop_ns[order] / NS_PER_S
    axes.plot(times_s, trace.score[order], color=TRACE, linewidth=0.6, drawstyle=drawn)
    axes.axhline(level.threshold, color=INK, linewidth=0.8)
    if level.release != level.threshold:
        axes.axhline(level.release, color=INK, linewidth=0.8, linestyle=":")
    fired_s = np.array(scored.times_ns, dtype=np.float64) / NS_PER_S
    for rows, colour, size in _markers(scored):
        axes.plot(fired_s[list(rows)], np.full(len(rows), 1.13), linestyle="", marker="v",
                  color=colour, markersize=size)  # fmt: skip
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("cosine" if scored.rule.condition.kind.value == "likeness" else "score")
    axes.set_title(_title(scored), loc="left", fontsize=8)


def _markers(scored: RuleScore) -> list[tuple[Sequence[int], str, float]]:
    if isinstance(scored.result, str):
        return [(range(len(scored.times_ns)), REPEAT, 4)]
    outcome = scored.result.outcome
    hits = [hit for hit in outcome.hit if hit is not None]
    rest = (*outcome.repeats, *outcome.unscored)
    return [(rest, REPEAT, 3), (hits, HIT, 4), (outcome.false_alarms, FALSE_ALARM, 4)]


def _shade(axes: Any, intervals: TimeIntervals, colour: str) -> None:
    bars = [(start / NS_PER_S, (stop - start) / NS_PER_S) for start, stop in intervals]
    low, high = axes.get_ylim()
    axes.broken_barh(bars, (low, high - low), color=colour, linewidth=0, zorder=0.5)


def _title(scored: RuleScore) -> str:
    name = f"{scored.rule.name}:  {scored.rule.text}"
    if isinstance(scored.result, str):
        return f"{name}   not scored"
    scores, chance = scored.result.scores, scored.result.chance
    by_chance = f", by chance {chance.f1:.2f}" if chance else ""
    precision, recall, f1 = (number(scores[score].value) for score in ("precision", "recall", "f1"))
    return f"{name}   precision {precision}, recall {recall}, F1 {f1}{by_chance}"


def _delays(axes: Any, scored: RuleScore) -> None:
    seconds = scored.delays_s
    if not seconds:
        axes.text(0.5, 0.5, "no hits", ha="center", va="center", fontsize=8, color=INK)
        axes.set_axis_off()
        return
    axes.hist(seconds, bins=20, color=HIT)
    middle = float(np.median(seconds))
    axes.axvline(middle, color=INK, linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_title(f"hits, s after onset; median {middle:.2f}", fontsize=8)


def _thresholds(axes: Any, scored: RuleScore) -> None:
    result = scored.result
    if isinstance(result, str) or not result.swept:
        axes.text(0.5, 0.5, "no thresholds", ha="center", va="center", fontsize=8, color=INK)
        axes.set_axis_off()
        return
    defined = [swept for swept in result.swept if swept.counts.n_hits + swept.counts.n_false_alarms]
    axes.plot(
        [swept.counts.recall for swept in defined],
        [swept.counts.precision for swept in defined],
        color=TRACE, linewidth=0.8, marker=".", markersize=3,
    )  # fmt: skip
    _mark(axes, result.swept, scored.rule.level.threshold)
    axes.set_xlim(-0.03, 1.05)
    axes.set_ylim(-0.03, 1.08)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.set_title("precision over recall", fontsize=8)


def _mark(axes: Any, sweep: Sequence[Swept], own: float) -> None:
    """Mark the rule's own threshold, and the one with the best F1."""
    best = best_of(sweep, own)
    for swept in sweep:
        is_own, is_best = swept.threshold == own, swept is best
        if not (is_own or is_best):
            continue
        point = (swept.counts.recall, swept.counts.precision)
        axes.plot(*point, marker="o", markersize=7 if is_best else 5, color=INK,
                  markerfacecolor="none" if is_best else INK)  # fmt: skip
        if is_own and is_best:
            axes.plot(*point, marker="o", markersize=4, color=INK)
        offset = (-6, -9) if is_best else (-6, 4)
        axes.annotate(f"{swept.threshold:g}", point, offset, textcoords="offset points",
                      fontsize=7, ha="right", color=INK)  # fmt: skip


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = {"hit": HIT, "repeat": REPEAT, "false alarm": FALSE_ALARM}
    return [
        Patch(color=PRESENT, label="concept shown"),
        Patch(color=UNANNOTATED, label="not annotated"),
        *(
            Line2D([], [], linestyle="", marker="v", color=colour, markersize=5, label=name)
            for name, colour in marks.items()
        ),
        Line2D([], [], color=INK, linewidth=0.8, label="threshold"),
        Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="release"),
        Line2D([], [], linestyle="", marker="o", color=INK, markerfacecolor="none", markersize=7,
               label="best F1 (dot: its own)"),
    ]  # fmt: skip
