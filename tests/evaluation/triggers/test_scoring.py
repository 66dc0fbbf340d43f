"""Triggers against annotations: every number of a small case worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.triggers.intervals import common, index_at, merged, total_ns, without
from evaluation.triggers.scoring import (
    MINUTE_NS,
    AnnotatedConcept,
    bootstrap_scores,
    chance_by_shifts,
    count,
    find_events,
    match,
)

S = 1_000_000_000
MS = 1_000_000
TOLERANCE = 300 * MS


def _concept(*events: tuple[float, float], stop: float = 60.0) -> AnnotatedConcept:
    intervals = tuple((round(a * S), round(b * S)) for a, b in events)
    return find_events(intervals, ((0, round(stop * S)),), tolerance_ns=TOLERANCE)


def _times(*seconds: float) -> list[int]:
    return [round(second * S) for second in seconds]


def test_hits_repeats_and_false_alarms_by_hand():
    """The first trigger of an event is its hit, later ones are repeats, the others false alarms."""
    concept = _concept((10, 12), (20, 22), (30, 32))
    outcome = match(concept, _times(5, 10.5, 11, 22.2, 40))
    assert outcome.hit == (1, 3, None)
    assert outcome.repeats == (2,)
    assert outcome.false_alarms == (0, 4)
    found = count(concept, _times(5, 10.5, 11, 22.2, 40))
    assert found.precision == 2 / 4
    assert found.recall == 2 / 3
    assert found.f1 == 2 * 2 / (3 + 2 + 2)
    # A minute and the tolerance after it, less three events of 2 s with theirs.
    assert found.free_ns == 60.3 * S - 3 * 2.3 * S
    assert found.false_alarms_per_minute == pytest.approx(2 / (53.4 / 60))


@pytest.mark.parametrize(
    ("time_s", "is_hit"),
    [(9.999999999, False), (10, True), (12, True), (12.299999999, True), (12.3, False)],
)
def test_an_event_is_half_open_with_its_tolerance(time_s: float, is_hit: bool):
    """Its first nanosecond counts; the one at which the tolerance ends does not."""
    outcome = match(_concept((10, 12)), _times(time_s))
    assert (outcome.hit == (0,)) is is_hit
    assert (outcome.false_alarms == (0,)) is not is_hit


def test_a_trigger_between_near_events_belongs_to_the_later_one_from_its_start_on():
    """Two events nearer than the tolerance: the tail of the first ends where the second begins."""
    concept = _concept((10, 12), (12.1, 14))
    assert match(concept, _times(12.05)).hit == (0, None)
    assert match(concept, _times(12.1)).hit == (None, 0)
    assert total_ns(concept.free) == 60.3 * S - 4.3 * S


def test_a_refractory_time_longer_than_an_event_costs_the_next_one():
    """A rule that is silent for 10 s cannot hear what comes within it: a miss, no false alarm."""
    concept = _concept((10, 12), (15, 17), (30, 32))
    found = count(concept, _times(10.4, 30.4))
    assert (found.n_hits, found.n_events, found.n_false_alarms) == (2, 3, 0)
    assert (found.precision, found.recall) == (1, 2 / 3)


def test_no_triggers_are_misses_and_no_precision():
    """Of a rule that never fires nothing is precise, and nothing is recalled."""
    concept = _concept((10, 12), (20, 22))
    found = count(concept, [])
    assert (found.recall, found.f1, found.n_false_alarms) == (0, 0, 0)
    assert math.isnan(found.precision)
    assert chance_by_shifts(concept, []) is None
    assert bootstrap_scores(concept, [])["recall"].value == 0


def test_no_events_are_false_alarms_alone():
    """Where the concept never was, recall has no meaning and every trigger is a false alarm."""
    concept = _concept()
    found = count(concept, _times(1, 2))
    assert (found.n_events, found.n_false_alarms, found.precision) == (0, 2, 0)
    assert math.isnan(found.recall)
    assert chance_by_shifts(concept, _times(1, 2)) is None
    scores = bootstrap_scores(concept, _times(1, 2))
    assert scores["false_alarms_per_minute"].value == pytest.approx(2 * MINUTE_NS / (60.3 * S))
    assert math.isnan(scores["precision"].low)


def test_triggers_outside_the_annotation_are_not_scored():
    """What is fired where nobody knows what was on the screen is neither right nor wrong."""
    annotated = ((0, 10 * S), (20 * S, 30 * S))
    concept = find_events(((2 * S, 4 * S), (12 * S, 14 * S)), annotated, tolerance_ns=TOLERANCE)
    assert concept.events == ((2 * S, 4 * S),)
    outcome = match(concept, _times(2.5, 12.5, 25))
    assert (outcome.hit, outcome.unscored, outcome.false_alarms) == ((0,), (1,), (2,))
    assert concept.scored == ((0, 10 * S + TOLERANCE), (20 * S, 30 * S + TOLERANCE))


def test_an_event_whose_beginning_is_not_known_is_not_scored():
    """Its onset was not seen, so it is no miss; nor is a trigger in it a false alarm."""
    concept = find_events(((8 * S, 12 * S),), ((10 * S, 30 * S),), tolerance_ns=TOLERANCE)
    assert concept.events == ()
    assert concept.scored == ((12 * S + TOLERANCE, 30 * S + TOLERANCE),)
    assert match(concept, _times(11)).unscored == (0,)


def test_an_event_at_the_very_end_is_not_scored_unless_it_could_be_heard():
    """An event that the end cuts within the tolerance is left out; a longer one counts."""
    annotated = ((0, 10 * S),)
    too_late = find_events(((round(9.8 * S), 12 * S),), annotated, tolerance_ns=TOLERANCE)
    assert too_late.events == ()
    in_time = find_events(((round(9.5 * S), 12 * S),), annotated, tolerance_ns=TOLERANCE)
    assert in_time.events == ((round(9.5 * S), 10 * S),)


def test_what_goes_away_is_an_event_from_its_end_on():
    """A rule with < is scored on the intervals after the concept, not on the time before it."""
    intervals = ((10 * S, 12 * S), (20 * S, 22 * S))
    concept = find_events(intervals, ((0, 60 * S),), tolerance_ns=TOLERANCE, is_above=False)
    assert concept.events == ((12 * S, 20 * S), (22 * S, 60 * S))
    outcome = match(concept, _times(5, 12.4, 22.3))
    assert (outcome.hit, outcome.false_alarms) == ((1, 2), (0,))


def test_intervals_hold_the_value_and_are_the_same_for_a_seed():
    """Events are drawn with the false alarms before them; the value lies in its interval."""
    concept = _concept(*((10 * each, 10 * each + 2) for each in range(1, 11)), stop=120)
    times = _times(5, 10.4, 20.4, 30.4, 45, 50.4, 60.4, 70.4, 115)
    scores = bootstrap_scores(concept, times, seed=3)
    assert scores["recall"].value == 0.6
    assert scores["precision"].value == 6 / 9
    for each in scores.values():
        assert each.low < each.value < each.high
    again = bootstrap_scores(concept, times, seed=3)
    assert [(each.low, each.high) for each in again.values()] == [
        (each.low, each.high) for each in scores.values()
    ]


def test_perfect_triggers_have_intervals_of_one_point():
    """Where every event is hit and nothing else fires, no draw is worse."""
    concept = _concept((10, 12), (20, 22), (30, 32))
    f1 = bootstrap_scores(concept, _times(10.4, 20.4, 30.4))["f1"]
    assert (f1.value, f1.low, f1.high) == (1, 1, 1)


def test_chance_tells_a_rule_from_a_clock():
    """Triggers at the onsets beat their own shifts; as many at even times do not."""
    concept = _concept((3, 5), (20, 22), (31, 33), (50, 52))
    good = chance_by_shifts(concept, _times(3.4, 20.4, 31.4, 50.4))
    assert good is not None
    assert good.p < 0.05
    assert good.f1 < 0.5 < count(concept, _times(3.4, 20.4, 31.4, 50.4)).f1
    clock = chance_by_shifts(concept, _times(7, 22.1, 37, 52.1))
    assert clock is not None
    assert clock.p > 0.05
    # An eighth of the time and its tolerance is hit by chance: four events of 2.3 s in 60.3 s.
    assert clock.recall == pytest.approx(4 * 2.3 / 60.3, abs=0.03)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[AnnotatedConcept, list[int]]:
    edges = st.tuples(st.integers(0, 100), st.integers(1, 20))
    spans = [(start, start + length) for start, length in draw(st.lists(edges, max_size=6))]
    annotated = [(start, start + length) for start, length in draw(st.lists(edges, max_size=3))]
    concept = find_events(
        merged(spans),
        merged(annotated),
        tolerance_ns=draw(st.integers(0, 10)),
        is_above=draw(st.booleans()),
    )
    return concept, sorted(draw(st.lists(st.integers(-5, 140), max_size=20)))


@given(_cases())
def test_counts_add_up(case: tuple[AnnotatedConcept, list[int]]):
    """Every trigger is one thing, every event hit or missed, whatever overlaps."""
    concept, times = case
    outcome = match(concept, times)
    hits = [hit for hit in outcome.hit if hit is not None]
    every = [*hits, *outcome.repeats, *outcome.false_alarms, *outcome.unscored]
    assert sorted(every) == list(range(len(times)))
    assert len(outcome.hit) == len(concept.events)
    for hit, (start, stop) in zip(outcome.hit, concept.events, strict=True):
        assert hit is None or start <= times[hit] < stop + concept.tolerance_ns
    for alarm in outcome.false_alarms:
        assert index_at(concept.free, times[alarm]) is not None
    found = chance_by_shifts(concept, times, n_shifts=3)
    assert found is None or 0 < found.p <= 1


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))),
)
def test_intervals_are_sets_of_time(one: list[tuple[int, int]], other: list[tuple[int, int]]):
    """Merging, cutting and taking away agree with sets of nanoseconds."""
    first, second = merged(one), merged(other)
    sets = [{t for start, stop in spans for t in range(start, stop)} for spans in (one, other)]
    for spans, expected in (
        (first, sets[0]),
        (common(first, second), sets[0] & sets[1]),
        (without(first, second), sets[0] - sets[1]),
    ):
        assert {t for start, stop in spans for t in range(start, stop)} == expected
        assert total_ns(spans) == len(expected)
        assert all(index_at(spans, t) is not None for t in expected)
