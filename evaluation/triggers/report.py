"""The report of a dry run: every number of every rule, as JSON and as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.clock import NS_PER_S, ns_to_second
from evaluation.scores import Score, json_values, number
from evaluation.triggers.intervals import TimeInterval, TimeIntervals, total_ns
from evaluation.triggers.score_trace import Swept, best_of
from evaluation.triggers.scoring import (
    MINUTE_NS,
    N_SHIFTS,
    AnnotatedConcept,
    MatchedEvents,
    ShiftNull,
)

if TYPE_CHECKING:
    from daemon.triggers.rules import Rule
    from evaluation.triggers.score_trace import Trace

VERSION = 1  # Of the JSON. Raised when a field changes its meaning or is removed
DASH = "-"


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRule:
    """The scores of a rule whose concept is annotated."""

    concept: AnnotatedConcept
    outcome: MatchedEvents
    scores: dict[str, Score]  # With intervals over events
    chance: ShiftNull | None  # None without events or without triggers
    swept: tuple[Swept, ...]  # The same at other thresholds


@dataclass(frozen=True, slots=True, eq=False)
class RuleScore:
    """One rule."""

    rule: Rule
    # Session nanoseconds at which the windows of its triggers end, in order
    times_ns: tuple[int, ...]
    # From the newest spike received to published: p50, p95, p99, max and n
    host_ms: dict[str, float] | None
    trace: Trace  # Its score over time
    n_fired: int  # Triggers that the daemon published
    n_again: int  # Triggers computed from the same scores in this process
    n_same: int  # Windows in which both fired
    # `times_ns` were computed in this process, because the daemon skipped some scores
    is_computed: bool
    result: ScoredRule | str  # Or why it is not scored

    @property
    def delays_s(self) -> tuple[float, ...]:
        """For each hit: from the first frame of its event to the end of the trigger's window."""
        if isinstance(self.result, str):
            return ()
        events = zip(self.result.concept.events, self.result.outcome.hit, strict=True)
        return tuple(
            ns_to_second(self.times_ns[hit] - start)
            for (start, _), hit in events
            if hit is not None
        )

    @property
    def suggestion(self) -> str:
        """A sentence on the threshold with the best F1 of the sweep; empty without a sweep."""
        if isinstance(self.result, str):
            return ""
        own, now = self.rule.level.threshold, self.result.scores["f1"].value
        best = best_of(self.result.swept, own)
        if best is None:
            return ""
        if best.threshold == own or not best.counts.f1 > now:
            return f"{self.rule.name}: its own threshold {own:g} has the best F1, {now:.2f}."
        sign = ">" if self.rule.condition.is_above else "<"
        return (
            f"{self.rule.name}: {sign} {best.threshold:g} would have the best F1 on this recording "
            f"({best.counts.f1:.2f}; {sign} {own:g} has {now:.2f}). A suggestion: try it on "
            "another recording before you trust it."
        )


@dataclass(frozen=True, slots=True, eq=False)
class DryRun:
    """A whole dry run."""

    command: str  # The command that repeats it
    recording: str
    bundle: str  # sha256 of the manifest
    truth: str  # Where the annotations are from
    speed: str
    mode: str  # Of the narrator
    played: TimeInterval  # Session nanoseconds
    annotated: TimeIntervals  # The annotated part of it
    # ``windows``, ``encoded``, ``narrated``, ``dropped`` by reason, ``likeness_dropped``
    counters: dict[str, Any]
    rules: tuple[RuleScore, ...]  # In the order of the file

    def to_json(self) -> dict[str, Any]:
        """Return every number; None for NaN."""
        start, stop = self.played
        tree = {
            "version": VERSION,
            "command": self.command,
            "recording": self.recording,
            "bundle": self.bundle,
            "truth": self.truth,
            "speed": self.speed,
            "narrator_mode": self.mode,
            "start_s": ns_to_second(start),
            "stop_s": ns_to_second(stop),
            "known_s": total_ns(self.annotated) / NS_PER_S,
            "counters": self.counters,
            "rules": [_rule_json(rule) for rule in self.rules],
        }
        return dict(json_values(tree))


def _rule_json(scored: RuleScore) -> dict[str, Any]:
    rule, level, result = scored.rule, scored.rule.level, scored.result
    tree: dict[str, Any] = {
        "name": rule.name,
        "rule": rule.text,
        "kind": rule.condition.kind.value,
        "population": rule.condition.population,
        "threshold": level.threshold,
        "release": level.release,
        "dwell": level.dwell,
        "refractory_s": ns_to_second(level.refractory_ns),
        "n_triggers": len(scored.times_ns),
        "n_triggers_published": scored.n_fired,
        "n_triggers_again": scored.n_again,
        "n_triggers_same": scored.n_same,
        "triggers_s": [ns_to_second(time) for time in scored.times_ns],
        "host_latency_ms": scored.host_ms,
        "not_scored": result if isinstance(result, str) else None,
    }
    return tree if isinstance(result, str) else tree | _result_json(scored, result)


def _result_json(scored: RuleScore, result: ScoredRule) -> dict[str, Any]:
    outcome, chance = result.outcome, result.chance
    best = best_of(result.swept, scored.rule.level.threshold)
    return {
        "tolerance_s": ns_to_second(result.concept.tolerance_ns),
        "events_s": [[ns_to_second(edge) for edge in event] for event in result.concept.events],
        "n_events": len(result.concept.events),
        "n_hits": outcome.n_hits,
        "n_misses": len(outcome.hit) - outcome.n_hits,
        "n_repeats": len(outcome.repeats),
        "n_false_alarms": len(outcome.false_alarms),
        "n_unknown": len(outcome.unscored),
        "free_minutes": total_ns(result.concept.free) / MINUTE_NS,
        "scores": {
            name: {"value": score.value, "low": score.low, "high": score.high}
            for name, score in result.scores.items()
        },
        # "heard_after_s" and "luck" are older words for the detection delay and for chance; the
        # keys of a published format do not change.
        "heard_after_s": _quantiles(scored.delays_s),
        "luck": chance and asdict(chance),
        "sweep": [
            {
                "threshold": swept.threshold,
                **{
                    name: getattr(swept.counts, name)
                    for name in (
                        "n_hits", "n_repeats", "n_false_alarms", "precision", "recall", "f1",
                    )
                },
            }
            for swept in result.swept
        ],
        "best_threshold": best and best.threshold,
        "suggestion": scored.suggestion,
    }  # fmt: skip


def _quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, (50, 95)).tolist()
    return {"p50": p50, "p95": p95, "n": len(seconds)}


def count_rows(rules: Sequence[RuleScore]) -> list[dict[str, object]]:
    """Return the counts of events and triggers, a row for each scored rule."""
    return [
        {
            "rule": rule.name,
            "events": len(result.concept.events),
            "hits": result.outcome.n_hits,
            "misses": len(result.outcome.hit) - result.outcome.n_hits,
            "repeats": len(result.outcome.repeats),
            "false alarms": len(result.outcome.false_alarms),
            "a minute": number(result.scores["false_alarms_per_minute"].value),
        }
        for rule, result in _scored(rules)
    ]


def score_rows(rules: Sequence[RuleScore]) -> list[dict[str, object]]:
    """Return scores with their 95 % intervals, and F1 by chance."""
    return [
        {
            "rule": rule.name,
            **{name: _with_interval(result.scores[key]) for name, key in SCORES.items()},
            "F1 by chance": number(result.chance.f1) if result.chance else DASH,
            "p": f"{result.chance.p:.3f}" if result.chance else DASH,
        }
        for rule, result in _scored(rules)
    ]


SCORES = {"precision": "precision", "recall": "recall", "F1": "f1"}


def latency_rows(rules: Sequence[RuleScore]) -> list[dict[str, object]]:
    """Return detection delays in session time, and latencies on the host."""
    rows = []
    for scored in rules:
        delay, host = _quantiles(scored.delays_s), scored.host_ms
        rows.append(
            {
                "rule": scored.rule.name,
                "triggers": len(scored.times_ns),
                **{f"delay {p}, s": number(delay[p]) if delay else DASH for p in ("p50", "p95")},
                **{f"host {p}, ms": number(host[p]) if host else DASH for p in HOST},
            }
        )
    return rows


HOST = ("p50", "p95", "p99")


def _scored(rules: Sequence[RuleScore]) -> list[tuple[Rule, ScoredRule]]:
    return [(scored.rule, scored.result) for scored in rules if not isinstance(scored.result, str)]


def _with_interval(score: Score) -> str:
    if math.isnan(score.value):
        return DASH
    if math.isnan(score.low):
        return f"{score.value:.2f}"
    return f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def notes(report: DryRun) -> list[str]:
    """Return the notes below the tables, a line each."""
    lines = [scored.suggestion for scored in report.rules if scored.suggestion]
    played_ns = report.played[1] - report.played[0]
    tolerances = sorted({result.concept.tolerance_ns for _, result in _scored(report.rules)})
    lines.append(
        "A trigger belongs to an event if its window ends within the event or up to "
        f"{' or '.join(f'{ns_to_second(ns):.3f}' for ns in tolerances)} s after it: window, "
        "lag and dwell. Chance: the same triggers under random circular shifts of more than an "
        f"event, {N_SHIFTS:,} times. The truth is {report.truth}; it covers "
        f"{total_ns(report.annotated) / NS_PER_S:.0f} of {played_ns / NS_PER_S:.0f} s."
    )
    lines += [
        f"Not scored: {scored.rule.name}: {scored.result}."
        for scored in report.rules
        if isinstance(scored.result, str)
    ]
    return lines + _caveats(report)


def _caveats(report: DryRun) -> list[str]:
    """Return what limits the meaning of the figures."""
    lines = []
    if report.speed != "1":
        lines.append(
            f"The host's latencies are those of --speed {report.speed}; --speed 1 gives those of a "
            "rig."
        )
    dropped = {why: n for why, n in report.counters["dropped"].items() if why != "not_selected"}
    if dropped:
        counts = ", ".join(f"{n:,} {why}" for why, n in dropped.items())
        lines.append(
            f"Of {report.counters['windows']:,} windows some were dropped ({counts}), as live; "
            "--speed max drops none."
        )
    for scored in report.rules:
        name = scored.rule.name
        if scored.is_computed:
            lines.append(
                f"{name}: the sentence model cannot compare sentences as fast as they "
                f"come at --speed max ({report.counters['likeness_dropped']:,} were left out), so "
                "its triggers were computed here from all of them."
            )
        elif not scored.n_fired == scored.n_again == scored.n_same:
            lines.append(
                f"{name} fired {scored.n_fired:,} times in the daemon and {scored.n_again:,} times "
                f"here, {scored.n_same:,} of them in the same windows: its sweep is of the "
                "latter."
            )
    return lines
