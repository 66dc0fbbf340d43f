"""Triggers against what was there: hits, misses, false alarms, and luck. No file, no socket here.

Theory of operation
-------------------
An *event* is a stretch in which the concept was there without a break. A window hears it from its
first frame on, and until the last window that overlaps it has gone: a trigger belongs to an event
if its window ends within ``[start, stop + tolerance)``. The first one is the event's *hit*, those
after it are *repeats*, one that belongs to no event is a *false alarm*. Where two events are nearer
than the tolerance, a trigger belongs to the later one from that one's start on.

The *scored time* is when it is known what was there, and the tolerance after it. *Free time* is the
scored time less every event and its tolerance.

The units of the bootstrap are the events, each with the free time and the false alarms since the
event before. What follows the last event belongs to it.

Invariants (``tests/evaluation/triggers/test_scoring.py``):

1. Hits and misses are all events            ``test_counts_add_up``
2. Hits, repeats, false alarms and unknown are all triggers
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.scores import Score, Tally, draw_scenes, score
from evaluation.triggers.intervals import Spans, common, index_at, merged, total_ns, without

N_DRAWS = 2_000
"""Of the bootstrap."""

N_SHIFTS = 1_000
"""Random shifts in time that say what luck would give."""

MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class AnnotatedConcept:
    """What a rule is held to.

    Attributes
    ----------
    events : tuple of (int, int)
        When the concept was there, session nanoseconds.
    scored : tuple of (int, int)
        When triggers count.
    tolerance_ns : int
        How long after an event a trigger still belongs to it.
    """

    events: Spans
    scored: Spans
    tolerance_ns: int

    @property
    def free(self) -> Spans:
        """When a trigger is a false alarm."""
        return without(
            self.scored, merged((start, stop + self.tolerance_ns) for start, stop in self.events)
        )


def make_scene(
    there: Spans, known: Spans, *, tolerance_ns: int, is_above: bool = True
) -> AnnotatedConcept:
    """Find the events of a rule.

    Parameters
    ----------
    there : tuple of (int, int)
        When the concept was there.
    known : tuple of (int, int)
        When it is known what was there, as far as the daemon saw it.
    tolerance_ns : int
    is_above : bool
        False for a rule that waits for the concept to go: then the events are the stretches after
        it, while it is known what was there.

    Returns
    -------
    AnnotatedConcept
        An event whose beginning is not known is left out, and so is one that the end of what is
        known cuts before it could be heard. Their time is not scored.
    """
    if not is_above:
        stops = {stop for _, stop in there}
        there = tuple(span for span in without(known, there) if span[0] in stops)
    begins, ends = ({span[edge] for span in there} for edge in (0, 1))
    whole = common(there, known)
    events = tuple(
        (start, stop)
        for start, stop in whole
        if start in begins and (stop in ends or stop - start >= tolerance_ns)
    )
    cut = without(whole, events)
    late = merged((start, stop + tolerance_ns) for start, stop in cut)
    scored = without(merged((start, stop + tolerance_ns) for start, stop in known), late)
    return AnnotatedConcept(events, scored, tolerance_ns)


@dataclass(frozen=True, slots=True)
class MatchedEvents:
    """What became of every event and every trigger.

    Attributes
    ----------
    hit : tuple of (int or None)
        For each event the index of its first trigger; None for a miss.
    repeats, false_alarms, unknown : tuple of int
        Indices of the other triggers; unknown are those outside the scored time.
    """

    hit: tuple[int | None, ...]
    repeats: tuple[int, ...]
    false_alarms: tuple[int, ...]
    unknown: tuple[int, ...]

    @property
    def n_hits(self) -> int:
        """Events that were heard."""
        return sum(each is not None for each in self.hit)


def match(scene: AnnotatedConcept, times_ns: Sequence[int]) -> MatchedEvents:
    """Give every trigger to the event that it belongs to.

    Parameters
    ----------
    scene : AnnotatedConcept
    times_ns : sequence of int
        Session nanoseconds at which the triggers' windows end, in order.

    Returns
    -------
    MatchedEvents
    """
    starts = [start for start, _ in scene.events]
    hit: list[int | None] = [None] * len(starts)
    repeats, false_alarms, unknown = [], [], []
    for number, time_ns in enumerate(times_ns):
        event = bisect_right(starts, time_ns) - 1
        if event >= 0 and time_ns < scene.events[event][1] + scene.tolerance_ns:
            if hit[event] is None:
                hit[event] = number
            else:
                repeats.append(number)
        elif index_at(scene.scored, time_ns) is not None:
            false_alarms.append(number)
        else:
            unknown.append(number)
    return MatchedEvents(tuple(hit), tuple(repeats), tuple(false_alarms), tuple(unknown))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of each, and the scores that follow; NaN where nothing is asked.

    Attributes
    ----------
    n_events, n_hits, n_repeats, n_false_alarms : int
    free_ns : int
        Session nanoseconds in which a trigger is a false alarm.
    """

    n_events: int
    n_hits: int
    n_repeats: int
    n_false_alarms: int
    free_ns: int

    @property
    def precision(self) -> float:
        """Hits among hits and false alarms; repeats are neither."""
        return _ratio(self.n_hits, self.n_hits + self.n_false_alarms)

    @property
    def recall(self) -> float:
        """Hits among events."""
        return _ratio(self.n_hits, self.n_events)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        return _ratio(2 * self.n_hits, self.n_events + self.n_hits + self.n_false_alarms)

    @property
    def false_alarms_per_minute(self) -> float:
        """In free time."""
        return _ratio(self.n_false_alarms * MINUTE_NS, self.free_ns)


def count(scene: AnnotatedConcept, times_ns: Sequence[int]) -> Counts:
    """Match, and count."""
    return _counts(scene, times_ns, total_ns(scene.free))


def _counts(scene: AnnotatedConcept, times_ns: Sequence[int], free_ns: int) -> Counts:
    outcome = match(scene, times_ns)
    return Counts(
        n_events=len(scene.events),
        n_hits=outcome.n_hits,
        n_repeats=len(outcome.repeats),
        n_false_alarms=len(outcome.false_alarms),
        free_ns=free_ns,
    )


def intervals(
    scene: AnnotatedConcept, times_ns: Sequence[int], *, seed: int = 0, n_draws: int = N_DRAWS
) -> dict[str, Score]:
    """Score with 95 % bootstrap intervals over events.

    Parameters
    ----------
    scene : AnnotatedConcept
    times_ns : sequence of int
        Of the triggers, in order.
    seed : int
    n_draws : int

    Returns
    -------
    scores : dict of str to Score
        ``precision``, ``recall``, ``f1``, ``false_alarms_per_minute``. Of fewer than two events an
        interval means nothing: it is NaN.
    """
    outcome = match(scene, times_ns)
    n_units = max(1, len(scene.events))
    starts = np.array([start for start, _ in scene.events], dtype=np.int64)

    def unit_of(times: Sequence[int]) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(starts, times, side="right"), n_units - 1)

    hits = np.zeros(n_units)
    hits[: len(outcome.hit)] = [each is not None for each in outcome.hit]
    alarms = np.bincount(
        unit_of([times_ns[number] for number in outcome.false_alarms]), minlength=n_units
    ).astype(np.float64)
    free = scene.free
    free_ns = np.bincount(
        unit_of([start for start, _ in free]),
        weights=[stop - start for start, stop in free],
        minlength=n_units,
    )
    events = np.full(n_units, float(bool(scene.events)))
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
    """What the same triggers would score at other times.

    Attributes
    ----------
    n_shifts : int
    precision, recall, f1 : float
        Means over the shifts.
    f1_high : float
        The 95 % point of F1.
    p : float
        Share of the shifts, the triggers as they are among them, whose F1 is no lower.
    """

    n_shifts: int
    precision: float
    recall: float
    f1: float
    f1_high: float
    p: float


def luck(
    scene: AnnotatedConcept, times_ns: Sequence[int], *, seed: int = 0, n_shifts: int = N_SHIFTS
) -> ShiftNull | None:
    """Shift all triggers together by random times, round the end of the scored time.

    A shift by less than an event may leave triggers in the event that they are of, which is no
    luck: shifts are longer than the longest event with its tolerance, either way, as far as a
    quarter of the time allows.

    Parameters
    ----------
    scene : AnnotatedConcept
    times_ns : sequence of int
        Of the triggers, in order.
    seed : int
    n_shifts : int

    Returns
    -------
    ShiftNull or None
        None without events, or without triggers in the scored time.
    """
    starts = np.array([start for start, _ in scene.scored], dtype=np.int64)
    lengths = np.array([stop - start for start, stop in scene.scored], dtype=np.int64)
    before = np.concatenate(([0], np.cumsum(lengths)))  # scored time before each span
    inside = [(time, at) for time in times_ns if (at := index_at(scene.scored, time)) is not None]
    if not inside or not scene.events:
        return None
    place = np.array([before[at] + time - starts[at] for time, at in inside])
    longest = max(stop - start for start, stop in scene.events) + scene.tolerance_ns
    least = min(longest, int(before[-1]) // 4)
    rng = np.random.default_rng([seed, 3])
    found = []
    for offset in rng.integers(least, before[-1] - least, n_shifts, endpoint=True).tolist():
        moved = np.sort((place + offset) % before[-1])
        rows = np.searchsorted(before, moved, side="right") - 1
        found.append(_counts(scene, (starts[rows] + moved - before[rows]).tolist(), 0))
    f1 = np.array([each.f1 for each in found])
    true_f1 = _counts(scene, [time for time, _ in inside], 0).f1
    return ShiftNull(
        n_shifts=n_shifts,
        precision=float(np.mean([each.precision for each in found])),
        recall=float(np.mean([each.recall for each in found])),
        f1=float(f1.mean()),
        f1_high=float(np.quantile(f1, 0.95)),
        p=float((1 + (f1 >= true_f1).sum()) / (1 + n_shifts)),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
