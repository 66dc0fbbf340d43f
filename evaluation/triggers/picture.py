"""The picture of a dry run: for each rule its score over time, its latencies, its thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S
from contracts.errors import UserError
from evaluation.triggers.intervals import Spans
from evaluation.triggers.report import RuleScore, ScoredRule, number
from evaluation.triggers.score_trace import best_of

if TYPE_CHECKING:
    from evaluation.triggers.report import DryRun

THERE = "#bcd8c1"
HIT = "#2f7d4f"
REPEAT = "#9aa5b1"
FALSE = "#c8553d"
TRACE = "#2a6f97"
INK = "#33383d"
UNKNOWN = "#eeeeee"

WIDTH_IN = 12.0
ROW_IN = 2.0
MAX_RULES = 12
"""Rules that are drawn; more make a picture that nobody can look at."""

ENDINGS = (".png", ".svg", ".pdf")


def check_picture(path: Path | None) -> None:
    """Refuse early what would fail late.

    Raises
    ------
    UserError
        If the picture is of no known kind, or cannot be written.
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
    """Draw the rules, one below the other.

    Parameters
    ----------
    path : Path
        Its ending says which format.
    report : DryRun
    """
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
        for each, (over_time, latency, thresholds) in zip(rules, axes, strict=True):
            _over_time(over_time, each, report)
            _latency(latency, each)
            _thresholds(thresholds, each)
        axes[-1, 0].set_xlabel("session time, s")
        figure.legend(
            handles=_legend(), ncols=8, fontsize=7, frameon=False, loc="outside lower left"
        )


def _over_time(axes: Any, each: RuleScore, report: DryRun) -> None:
    """Draw the score, its threshold, what was there, and where the rule fired."""
    held, level = each.held, each.rule.level
    edges_s = [edge / NS_PER_S for edge in report.seen]
    axes.set_xlim(*edges_s)
    score = each.trace.score[np.isfinite(each.trace.score)]
    low = min(0.0, float(score.min(initial=0.0)))
    axes.set_ylim(low - 0.03, 1.24)
    axes.axvspan(*edges_s, color=UNKNOWN, zorder=0, linewidth=0)
    _shade(axes, report.known, "white")
    if not isinstance(held, str):
        _shade(axes, held.scene.events, THERE)
    drawn = "steps-post" if each.rule.condition.kind.value == "word" else "default"
    order = np.argsort(each.trace.stop_ns, kind="stable")  # narrations may overtake each other
    times_s = each.trace.stop_ns[order] / NS_PER_S
    axes.plot(times_s, each.trace.score[order], color=TRACE, linewidth=0.6, drawstyle=drawn)
    axes.axhline(level.threshold, color=INK, linewidth=0.8)
    if level.release != level.threshold:
        axes.axhline(level.release, color=INK, linewidth=0.8, linestyle=":")
    fired_s = np.array(each.times_ns, dtype=np.float64) / NS_PER_S
    for rows, colour, size in _markers(each):
        axes.plot(fired_s[list(rows)], np.full(len(rows), 1.13), linestyle="", marker="v",
                  color=colour, markersize=size)  # fmt: skip
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("cosine" if each.rule.condition.kind.value == "likeness" else "score")
    axes.set_title(_title(each), loc="left", fontsize=8)


def _markers(each: RuleScore) -> list[tuple[Sequence[int], str, float]]:
    if isinstance(each.held, str):
        return [(range(len(each.times_ns)), REPEAT, 4)]
    outcome = each.held.outcome
    hits = [hit for hit in outcome.hit if hit is not None]
    rest = (*outcome.repeats, *outcome.unknown)
    return [(rest, REPEAT, 3), (hits, HIT, 4), (outcome.false_alarms, FALSE, 4)]


def _shade(axes: Any, spans: Spans, colour: str) -> None:
    bars = [(start / NS_PER_S, (stop - start) / NS_PER_S) for start, stop in spans]
    low, high = axes.get_ylim()
    axes.broken_barh(bars, (low, high - low), color=colour, linewidth=0, zorder=0.5)


def _title(each: RuleScore) -> str:
    name = f"{each.rule.name}:  {each.rule.text}"
    if isinstance(each.held, str):
        return f"{name}   not scored"
    scores, found = each.held.scores, each.held.luck
    by_luck = f", by luck {found.f1:.2f}" if found else ""
    precision, recall, f1 = (number(scores[score].value) for score in ("precision", "recall", "f1"))
    return f"{name}   precision {precision}, recall {recall}, F1 {f1}{by_luck}"


def _latency(axes: Any, each: RuleScore) -> None:
    seconds = each.heard_after_s
    if not seconds:
        axes.text(0.5, 0.5, "no hits", ha="center", va="center", fontsize=8, color=INK)
        axes.set_axis_off()
        return
    axes.hist(seconds, bins=20, color=HIT)
    middle = float(np.median(seconds))
    axes.axvline(middle, color=INK, linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_title(f"hits, s after onset; median {middle:.2f}", fontsize=8)


def _thresholds(axes: Any, each: RuleScore) -> None:
    held = each.held
    if isinstance(held, str) or not held.swept:
        axes.text(0.5, 0.5, "no thresholds", ha="center", va="center", fontsize=8, color=INK)
        axes.set_axis_off()
        return
    known = [swept for swept in held.swept if swept.counts.n_hits + swept.counts.n_false_alarms]
    axes.plot(
        [swept.counts.recall for swept in known],
        [swept.counts.precision for swept in known],
        color=TRACE, linewidth=0.8, marker=".", markersize=3,
    )  # fmt: skip
    _mark(axes, held, each.rule.level.threshold)
    axes.set_xlim(-0.03, 1.05)
    axes.set_ylim(-0.03, 1.08)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.set_title("precision over recall", fontsize=8)


def _mark(axes: Any, held: ScoredRule, own: float) -> None:
    """Mark the rule's own threshold, and the one of the best F1."""
    best = best_of(held.swept, own)
    for swept in held.swept:
        is_own, is_best = swept.threshold == own, best is not None and swept is best
        if not (is_own or is_best):
            continue
        at = (swept.counts.recall, swept.counts.precision)
        axes.plot(*at, marker="o", markersize=7 if is_best else 5, color=INK,
                  markerfacecolor="none" if is_best else INK)  # fmt: skip
        if is_own and is_best:
            axes.plot(*at, marker="o", markersize=4, color=INK)
        beside = (-6, -9) if is_best else (-6, 4)
        axes.annotate(f"{swept.threshold:g}", at, beside, textcoords="offset points",
                      fontsize=7, ha="right", color=INK)  # fmt: skip


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = {"hit": HIT, "repeat": REPEAT, "false alarm": FALSE}
    return [
        Patch(color=THERE, label="it was there"),
        Patch(color=UNKNOWN, label="not known"),
        *(
            Line2D([], [], linestyle="", marker="v", color=colour, markersize=5, label=name)
            for name, colour in marks.items()
        ),
        Line2D([], [], color=INK, linewidth=0.8, label="threshold"),
        Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="release"),
        Line2D([], [], linestyle="", marker="o", color=INK, markerfacecolor="none", markersize=7,
               label="best F1 (dot: its own)"),
    ]  # fmt: skip
