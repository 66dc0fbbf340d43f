"""What a dry run showed: every number of every rule, as a value, as JSON and as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.clock import NS_PER_S, ns_to_second
from evaluation.triggers.intervals import Spans, total_ns
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
    from evaluation.scores import Score
    from evaluation.triggers.score_trace import Trace

VERSION = 1
"""Of the JSON. Raised when a field changes meaning or goes."""

DASH = "-"


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRule:
    """A rule held to the truth.

    Attributes
    ----------
    scene : AnnotatedConcept
        When its concept was there.
    outcome : MatchedEvents
    scores : dict of str to Score
        With intervals over events.
    luck : ShiftNull or None
    swept : tuple of Swept
        Other thresholds.
    """

    scene: AnnotatedConcept
    outcome: MatchedEvents
    scores: dict[str, Score]
    luck: ShiftNull | None
    swept: tuple[Swept, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RuleScore:
    """One rule.

    Attributes
    ----------
    rule : Rule
    times_ns : tuple of int
        Session nanoseconds at which the windows of its triggers end, in order.
    host_ms : dict or None
        From the newest spike received to published: p50, p95, p99, max and n.
    trace : Trace
        Its score over time.
    n_fired : int
        Triggers that the daemon published.
    n_again : int
        Triggers that the same scores give in this process.
    n_same : int
        Those of them that are of the same windows.
    is_computed : bool
        Whether `times_ns` are those of this process, because the daemon left scores out.
    held : ScoredRule or str
        Or why it is not scored.
    """

    rule: Rule
    times_ns: tuple[int, ...]
    host_ms: dict[str, float] | None
    trace: Trace
    n_fired: int
    n_again: int
    n_same: int
    is_computed: bool
    held: ScoredRule | str

    @property
    def heard_after_s(self) -> tuple[float, ...]:
        """For each hit: from the first frame of its event to the end of the trigger's window."""
        if isinstance(self.held, str):
            return ()
        events = zip(self.held.scene.events, self.held.outcome.hit, strict=True)
        return tuple(
            ns_to_second(self.times_ns[hit] - start)
            for (start, _), hit in events
            if hit is not None
        )

    @property
    def suggestion(self) -> str:
        """What the sweep says of the threshold, in a sentence; empty where it says nothing."""
        best = (
            None
            if isinstance(self.held, str)
            else best_of(self.held.swept, self.rule.level.threshold)
        )
        if best is None or isinstance(self.held, str):
            return ""
        own, now = self.rule.level.threshold, self.held.scores["f1"].value
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
    """A whole dry run.

    Attributes
    ----------
    command : str
        That makes it again.
    recording, bundle, truth : str
        What was played, sha256 of the manifest, and where the truth is from.
    speed, mode : str
        Of the replay, and of the narrator.
    seen : (int, int)
        What was played, session nanoseconds.
    known : tuple of (int, int)
        When it is known what was on the screen.
    counters : dict
        ``windows``, ``encoded``, ``narrated``, ``dropped`` by reason, ``likeness_dropped``.
    rules : tuple of RuleScore
        In the order of the file.
    """

    command: str
    recording: str
    bundle: str
    truth: str
    speed: str
    mode: str
    seen: tuple[int, int]
    known: Spans
    counters: dict[str, Any]
    rules: tuple[RuleScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Return every number; None where there is none."""
        start, stop = self.seen
        found = {
            "version": VERSION,
            "command": self.command,
            "recording": self.recording,
            "bundle": self.bundle,
            "truth": self.truth,
            "speed": self.speed,
            "narrator_mode": self.mode,
            "start_s": ns_to_second(start),
            "stop_s": ns_to_second(stop),
            "known_s": total_ns(self.known) / NS_PER_S,
            "counters": self.counters,
            "rules": [_rule_json(each) for each in self.rules],
        }
        return dict(_finite(found))


def _rule_json(each: RuleScore) -> dict[str, Any]:
    rule, level = each.rule, each.rule.level
    found: dict[str, Any] = {
        "name": rule.name,
        "rule": rule.text,
        "kind": rule.condition.kind.value,
        "population": rule.condition.population,
        "threshold": level.threshold,
        "release": level.release,
        "dwell": level.dwell,
        "refractory_s": ns_to_second(level.refractory_ns),
        "n_triggers": len(each.times_ns),
        "n_triggers_published": each.n_fired,
        "n_triggers_again": each.n_again,
        "n_triggers_same": each.n_same,
        "triggers_s": [ns_to_second(time) for time in each.times_ns],
        "host_latency_ms": each.host_ms,
        "not_scored": each.held if isinstance(each.held, str) else None,
    }
    return found if isinstance(each.held, str) else found | _held_json(each, each.held)


def _held_json(each: RuleScore, held: ScoredRule) -> dict[str, Any]:
    outcome, luck = held.outcome, held.luck
    best = best_of(held.swept, each.rule.level.threshold)
    return {
        "tolerance_s": ns_to_second(held.scene.tolerance_ns),
        "events_s": [[ns_to_second(edge) for edge in event] for event in held.scene.events],
        "n_events": len(held.scene.events),
        "n_hits": outcome.n_hits,
        "n_misses": len(outcome.hit) - outcome.n_hits,
        "n_repeats": len(outcome.repeats),
        "n_false_alarms": len(outcome.false_alarms),
        "n_unknown": len(outcome.unknown),
        "free_minutes": total_ns(held.scene.free) / MINUTE_NS,
        "scores": {
            name: {"value": score.value, "low": score.low, "high": score.high}
            for name, score in held.scores.items()
        },
        "heard_after_s": _quantiles(each.heard_after_s),
        "luck": luck and {name: getattr(luck, name) for name in luck.__slots__},
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
            for swept in held.swept
        ],
        "best_threshold": best and best.threshold,
        "suggestion": each.suggestion,
    }  # fmt: skip


def _finite(value: Any) -> Any:
    """Put None for numbers that are none, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, (50, 95)).tolist()
    return {"p50": p50, "p95": p95, "n": len(seconds)}


def count_rows(rules: Sequence[RuleScore]) -> list[dict[str, object]]:
    """Return what became of events and triggers, a row for each rule that is scored."""
    return [
        {
            "rule": each.rule.name,
            "events": len(held.scene.events),
            "hits": held.outcome.n_hits,
            "misses": len(held.outcome.hit) - held.outcome.n_hits,
            "repeats": len(held.outcome.repeats),
            "false alarms": len(held.outcome.false_alarms),
            "a minute": number(held.scores["false_alarms_per_minute"].value),
        }
        for each, held in _scored(rules)
    ]


def score_rows(rules: Sequence[RuleScore]) -> list[dict[str, object]]:
    """Return scores with their 95 % intervals, and what luck gives."""
    return [
        {
            "rule": each.rule.name,
            **{name: _with_interval(held.scores[key]) for name, key in SCORES.items()},
            "F1 by luck": number(held.luck.f1) if held.luck else DASH,
            "p": f"{held.luck.p:.3f}" if held.luck else DASH,
        }
        for each, held in _scored(rules)
    ]


SCORES = {"precision": "precision", "recall": "recall", "F1": "f1"}


def latency_rows(rules: Sequence[RuleScore]) -> list[dict[str, object]]:
    """Return latencies in session time and on the host."""
    rows = []
    for each in rules:
        after, host = _quantiles(each.heard_after_s), each.host_ms
        rows.append(
            {
                "rule": each.rule.name,
                "triggers": len(each.times_ns),
                **{f"heard {p}, s": number(after[p]) if after else DASH for p in ("p50", "p95")},
                **{f"host {p}, ms": number(host[p]) if host else DASH for p in HOST},
            }
        )
    return rows


HOST = ("p50", "p95", "p99")


def _scored(rules: Sequence[RuleScore]) -> list[tuple[RuleScore, ScoredRule]]:
    return [(each, each.held) for each in rules if not isinstance(each.held, str)]


def _with_interval(score: Score) -> str:
    if math.isnan(score.value):
        return DASH
    if math.isnan(score.low):
        return f"{score.value:.2f}"
    return f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def number(value: float) -> str:
    """Return a number with two decimals; a dash for none."""
    return DASH if math.isnan(value) else f"{value:.2f}"


def notes(report: DryRun) -> list[str]:
    """Return what must be said beside the tables, a line each."""
    lines = [each.suggestion for each in report.rules if each.suggestion]
    whole_ns = report.seen[1] - report.seen[0]
    tolerances = sorted({held.scene.tolerance_ns for _, held in _scored(report.rules)})
    lines.append(
        "A trigger belongs to an event if its window ends within the event or up to "
        f"{' or '.join(f'{ns_to_second(each):.3f}' for each in tolerances)} s after it: window, "
        "lag and dwell. Chance: the same triggers shifted together by random times, by "
        f"more than an event, {N_SHIFTS:,} times. The truth is {report.truth}; it covers "
        f"{total_ns(report.known) / NS_PER_S:.0f} of {whole_ns / NS_PER_S:.0f} s."
    )
    lines += [
        f"Not scored: {each.rule.name}: {each.held}."
        for each in report.rules
        if isinstance(each.held, str)
    ]
    return lines + _doubts(report)


def _doubts(report: DryRun) -> list[str]:
    """Say what makes the figures less than they seem."""
    found = []
    if report.speed != "1":
        found.append(
            f"The host's latencies are those of --speed {report.speed}; --speed 1 gives those of a "
            "rig."
        )
    dropped = {why: n for why, n in report.counters["dropped"].items() if why != "not_selected"}
    if dropped:
        counts = ", ".join(f"{n:,} {why}" for why, n in dropped.items())
        found.append(
            f"Of {report.counters['windows']:,} windows some were not heard ({counts}), as live; "
            "--speed max hears all."
        )
    for each in report.rules:
        if each.is_computed:
            found.append(
                f"{each.rule.name}: the sentence model cannot compare sentences as fast as they "
                f"come at --speed max ({report.counters['likeness_dropped']:,} were left out), so "
                "its triggers were computed here from all of them."
            )
        elif not each.n_fired == each.n_again == each.n_same:
            found.append(
                f"{each.rule.name} fired {each.n_fired:,} times in the daemon and {each.n_again:,} "
                f"times here, {each.n_same:,} of them in the same windows: its sweep is of the "
                "latter."
            )
    return found
