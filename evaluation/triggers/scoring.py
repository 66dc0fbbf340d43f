"""Triggers against annotations: hits, misses, false alarms, and the score expected by chance.

Theory of operation
-------------------
An *event* is an uninterrupted interval in which the concept was on the screen. Windows show it from
its first frame until the last window that overlaps it: a trigger belongs to an event if its window
ends within ``[start, stop + tolerance)``. The first trigger of an event is its *hit*, later ones
are *repeats*, a trigger outside all events is a *false alarm*. Where two events are closer than the
tolerance, a trigger belongs to the later event from that event's start on.

The *scored time* is the annotated time and the tolerance after it. *Free time* is the scored time
less every event and its tolerance.

The units of the bootstrap are the events, each with the free time and the false alarms since the
previous event. The last event also takes what follows it.

Invariants (``tests/evaluation/triggers/test_scoring.py``):

1. Every event is a hit or a miss                                          ``test_counts_add_up``
2. Every trigger is one of: hit, repeat, false alarm, outside the scored time
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.scores import Score, Tally, draw_scenes, score
from evaluation.triggers.intervals import TimeIntervals, common, index_at, merged, total_ns, without

N_DRAWS = 2_000  # Of the bootstrap
N_SHIFTS = 1_000  # Circular shifts of the null distribution
MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class AnnotatedConcept:
    """The events of one rule."""

    events: TimeIntervals
    scored: TimeIntervals  # When triggers count
    tolerance_ns: int  # How long after an event a trigger still belongs to it

    @property
    def free(self) -> TimeIntervals:
        """When a trigger is a false alarm."""
        return without(
            self.scored, merged((start, stop + self.tolerance_ns) for start, stop in self.events)
        )


def find_events(
    intervals: TimeIntervals,
    annotated: TimeIntervals,
    *,
    tolerance_ns: int,
    is_above: bool = True,
) -> AnnotatedConcept:
    """Find the events of a rule.

    Left out, and not scored: an event whose onset is not annotated, and one that the end of the
    annotation cuts short before a window could show it.

    Parameters
    ----------
    intervals : tuple of (int, int)
        When the concept was on the screen, session nanoseconds.
    annotated : tuple of (int, int)
        The annotated time that was played, session nanoseconds.
    tolerance_ns : int
        How long after an event a trigger still belongs to it.
    is_above : bool
        False for a rule that fires when the concept disappears: its events are the annotated
        intervals that follow the concept.
    """
    if not is_above:
        stops = {stop for _, stop in intervals}
        absent = without(annotated, intervals)
        intervals = tuple(interval for interval in absent if interval[0] in stops)
    onsets, offsets = ({interval[edge] for interval in intervals} for edge in (0, 1))
    visible = common(intervals, annotated)
    events = tuple(
        (start, stop)
        for start, stop in visible
        if start in onsets and (stop in offsets or stop - start >= tolerance_ns)
    )
    unscored = merged((start, stop + tolerance_ns) for start, stop in without(visible, events))
    scored = without(merged((start, stop + tolerance_ns) for start, stop in annotated), unscored)
    return AnnotatedConcept(events, scored, tolerance_ns)


@dataclass(frozen=True, slots=True)
class MatchedEvents:
    """The triggers of every event, and the triggers of none."""

    hit: tuple[int | None, ...]  # For each event the index of its first trigger; None for a miss
    # Indices of the other triggers
    repeats: tuple[int, ...]
    false_alarms: tuple[int, ...]
    unscored: tuple[int, ...]  # Outside the scored time

    @property
    def n_hits(self) -> int:
        """Events with a trigger."""
        return sum(trigger is not None for trigger in self.hit)


def match(concept: AnnotatedConcept, times_ns: Sequence[int]) -> MatchedEvents:
    """Assign every trigger to its event.

    `times_ns` are the session nanoseconds at which the triggers' windows end, in order.
    """
    starts = [start for start, _ in concept.events]
    hit: list[int | None] = [None] * len(starts)
    repeats, false_alarms, unscored = [], [], []
    for number, time_ns in enumerate(times_ns):
        event = bisect_right(starts, time_ns) - 1
        if event >= 0 and time_ns < concept.events[event][1] + concept.tolerance_ns:
            if hit[event] is None:
                hit[event] = number
            else:
                repeats.append(number)
        elif index_at(concept.scored, time_ns) is not None:
            false_alarms.append(number)
        else:
            unscored.append(number)
    return MatchedEvents(tuple(hit), tuple(repeats), tuple(false_alarms), tuple(unscored))


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts, and the scores that follow from them; NaN where the denominator is 0."""

    n_events: int
    n_hits: int
    n_repeats: int
    n_false_alarms: int
    free_ns: int  # Session time in which a trigger is a false alarm

    @property
    def precision(self) -> float:
        """Hits over hits and false alarms; repeats are neither."""
        return _ratio(self.n_hits, self.n_hits + self.n_false_alarms)

    @property
    def recall(self) -> float:
        """Hits over events."""
        return _ratio(self.n_hits, self.n_events)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.n_hits, self.n_events + self.n_hits + self.n_false_alarms)

    @property
    def false_alarms_per_minute(self) -> float:
        """False alarms a minute of free time."""
        return _ratio(self.n_false_alarms * MINUTE_NS, self.free_ns)


def count(concept: AnnotatedConcept, times_ns: Sequence[int]) -> Counts:
    """Match triggers with events, and count."""
    return _counts(concept, times_ns, total_ns(concept.free))


def _counts(concept: AnnotatedConcept, times_ns: Sequence[int], free_ns: int) -> Counts:
    outcome = match(concept, times_ns)
    return Counts(
        n_events=len(concept.events),
        n_hits=outcome.n_hits,
        n_repeats=len(outcome.repeats),
        n_false_alarms=len(outcome.false_alarms),
        free_ns=free_ns,
    )


def bootstrap_scores(
    concept: AnnotatedConcept, times_ns: Sequence[int], *, seed: int = 0, n_draws: int = N_DRAWS
) -> dict[str, Score]:
    """Return scores with 95 % bootstrap intervals over events.

    `times_ns` are the session nanoseconds of the triggers, in order. Returns ``precision``,
    ``recall``, ``f1`` and ``false_alarms_per_minute``. Intervals of fewer than two events are NaN.
    """
    outcome = match(concept, times_ns)
    n_units = max(1, len(concept.events))
    starts = np.array([start for start, _ in concept.events], dtype=np.int64)

    def unit_of(times: Sequence[int]) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(starts, times, side="right"), n_units - 1)

    hits = np.zeros(n_units)
    hits[: len(outcome.hit)] = [trigger is not None for trigger in outcome.hit]
    alarms = np.bincount(
        unit_of([times_ns[number] for number in outcome.false_alarms]), minlength=n_units
    ).astype(np.float64)
    free = concept.free
    free_ns = np.bincount(
        unit_of([start for start, _ in free]),
        weights=[stop - start for start, stop in free],
        minlength=n_units,
    )
    events = np.full(n_units, float(bool(concept.events)))
    tallies = {
        "precision": Tally(hits, hits + alarms),
        "recall": Tally(hits, events),
        "f1": Tally(2 * hits, events + hits + alarms),
        "false_alarms_per_minute": Tally(alarms, free_ns / MINUTE_NS),
    }
    draws = draw_scenes(n_units, seed=seed, n_draws=n_draws)
    return {name: score(tally, draws) for name, tally in tallies.items()}


@dataclass(frozen=True, slots=True)
class ShiftNull:
    """The scores of the same triggers under circular shifts in time."""

    n_shifts: int
    # Means over the shifts
    precision: float
    recall: float
    f1: float
    f1_high: float  # 95th percentile of F1
    # Share of the shifts, the unshifted triggers included, whose F1 is at least as high
    p: float


def chance_by_shifts(
    concept: AnnotatedConcept, times_ns: Sequence[int], *, seed: int = 0, n_shifts: int = N_SHIFTS
) -> ShiftNull | None:
    """Score triggers against the null of circular shifts: same triggers, unrelated times.

    All triggers are shifted together by a random time, modulo the scored time, which keeps their
    number and their intervals. A shift shorter than an event could leave triggers in the event that
    caused them, so shifts are longer than the longest event with its tolerance, in either
    direction, or a quarter of the scored time where that is less.

    `times_ns` are the session nanoseconds of the triggers, in order. Returns None without events,
    or without triggers in the scored time.
    """
    starts = np.array([start for start, _ in concept.scored], dtype=np.int64)
    lengths = np.array([stop - start for start, stop in concept.scored], dtype=np.int64)
    before = np.concatenate(([0], np.cumsum(lengths)))  # scored time before each interval
    inside = [
        (time, row) for time in times_ns if (row := index_at(concept.scored, time)) is not None
    ]
    if not inside or not concept.events:
        return None
    position = np.array([before[row] + time - starts[row] for time, row in inside])
    longest = max(stop - start for start, stop in concept.events) + concept.tolerance_ns
    least = min(longest, int(before[-1]) // 4)
    rng = np.random.default_rng([seed, 3])
    shifted = []
    for offset in rng.integers(least, before[-1] - least, n_shifts, endpoint=True).tolist():
        moved = np.sort((position + offset) % before[-1])
        rows = np.searchsorted(before, moved, side="right") - 1
        shifted.append(_counts(concept, (starts[rows] + moved - before[rows]).tolist(), 0))
    f1 = np.array([counts.f1 for counts in shifted])
    true_f1 = _counts(concept, [time for time, _ in inside], 0).f1
    return ShiftNull(
        n_shifts=n_shifts,
        precision=float(np.mean([counts.precision for counts in shifted])),
        recall=float(np.mean([counts.recall for counts in shifted])),
        f1=float(f1.mean()),
        f1_high=float(np.quantile(f1, 0.95)),
        p=float((1 + (f1 >= true_f1).sum()) / (1 + n_shifts)),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
