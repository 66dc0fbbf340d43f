"""The state machine of a rule: when it fires, and when it must not."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.triggers.crossing import Crossing, Level

S = 1_000_000_000


@st.composite
def levels(draw: st.DrawFn) -> Level:
    """Draw a level whose release is on the right side."""
    is_above = draw(st.booleans())
    threshold, release = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    if is_above == (release > threshold):
        threshold, release = release, threshold
    return Level(is_above, threshold, release, draw(st.integers(1, 4)), draw(st.integers(0, 3 * S)))


SERIES = st.lists(
    st.tuples(st.floats(0, 1) | st.just(math.nan), st.integers(1, S)), max_size=60
).map(lambda steps: _cumulated(steps))


def _cumulated(steps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    now_ns, series = 0, []
    for score, step_ns in steps:
        now_ns += step_ns
        series.append((score, now_ns))
    return series


def _fired(level: Level, series: list[tuple[float, int]]) -> list[int]:
    """Return the positions at which a rule fires."""
    crossing = Crossing(level)
    return [at for at, (score, when) in enumerate(series) if crossing.take(score, when)]


def _beyond(level: Level, score: float) -> bool:
    return score > level.threshold if level.is_above else score < level.threshold


def _released(level: Level, score: float) -> bool:
    return score <= level.release if level.is_above else score >= level.release


@given(levels(), SERIES)
def test_never_within_the_refractory_time(level, series):
    """Two firings are at least the refractory time apart, in session time."""
    times = [series[at][1] for at in _fired(level, series)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(pause >= level.refractory_ns for pause in pauses)


@given(levels(), SERIES)
def test_never_before_the_dwell(level, series):
    """Every firing has a full dwell of scores beyond the threshold behind it, itself included."""
    numbers = [score for score, _ in series if not math.isnan(score)]
    position = [at for at, (score, _) in enumerate(series) if not math.isnan(score)]
    for at in _fired(level, series):
        end = position.index(at) + 1
        run = numbers[max(0, end - level.dwell) : end]
        assert len(run) == level.dwell
        assert all(_beyond(level, score) for score in run)


@given(levels(), SERIES)
def test_one_firing_per_crossing(level, series):
    """Between two firings, and before the first of a rule for what goes away, is a release."""
    fired = _fired(level, series)
    starts = [-1, *fired] if not level.is_above else fired
    ends = fired if not level.is_above else fired[1:]
    for start, end in zip(starts, ends, strict=False):
        assert any(_released(level, score) for score, _ in series[start + 1 : end])


@given(levels(), SERIES)
def test_a_crossing_that_is_free_to_fire_fires(level, series):
    """Without a refractory time no crossing is missed: released, then beyond for the dwell."""
    free = Level(level.is_above, level.threshold, level.release, level.dwell, 0)
    is_armed, run, expected = level.is_above, 0, []
    for at, (score, _) in enumerate(series):
        if math.isnan(score):
            continue
        is_armed |= _released(level, score)
        run = run + 1 if _beyond(level, score) else 0
        if is_armed and run >= level.dwell:
            expected.append(at)
            is_armed = False
    assert _fired(free, series) == expected


def test_hysteresis():
    """A score that hovers between release and threshold does not fire again."""
    series = [(0.9, 1), (0.7, 2), (0.9, 3), (0.6, 4), (0.9, 5)]
    assert _fired(Level(True, 0.8, 0.6), series) == [0, 4]
    assert _fired(Level(True, 0.8, 0.8), series) == [0, 2, 4]


def test_what_goes_away_must_have_been_there():
    """A rule for < is silent at the start, and fires once the score has been up and is down."""
    series = [(0.1, 1), (0.1, 2), (0.9, 3), (0.1, 4), (0.1, 5)]
    assert _fired(Level(False, 0.2, 0.5), series) == [3]


def test_a_crossing_within_the_refractory_time_is_passed_over_and_counted():
    """It does not fire later, although the score is still up when the time is over."""
    crossing = Crossing(Level(True, 0.5, 0.5, 1, 10))
    series = [(0.9, 0), (0.1, 1), (0.9, 2), (0.9, 20), (0.1, 21), (0.9, 22)]
    assert [crossing.take(*each) for each in series] == [True, False, False, False, False, True]
    assert crossing.n_passed_over == 1


def test_time_that_runs_backwards_is_a_new_run():
    """A source that begins anew finds the rule as it was at the start."""
    crossing = Crossing(Level(True, 0.5, 0.5, 1, 10 * S))
    assert crossing.take(0.9, 100 * S)
    assert crossing.take(0.9, 1 * S)
    assert not crossing.take(0.9, 2 * S)


def test_a_straggler_changes_nothing():
    """A narration that was overtaken neither fires nor begins anything anew."""
    crossing = Crossing(Level(True, 0.5, 0.5, 1, 3 * S, straggler_ns=10 * S))
    assert crossing.take(0.9, 20 * S)
    assert not crossing.take(0.1, 19 * S)
    assert not crossing.take(0.9, 21 * S)
    assert crossing.take(0.9, 5 * S)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_any_float_is_taken(score):
    """What is no number, or no finite one, raises nothing."""
    Crossing(Level(True, 0.5, 0.5)).take(score, 0)


def test_an_unsure_score_breaks_a_dwell():
    """Two in a row means two that are sure: the count begins anew after one that is not."""
    crossing = Crossing(Level(True, 0.5, 0.5, dwell=2))
    is_sure = [True, False, True, True]
    fires = [crossing.take(0.9, row * S, is_sure=sure) for row, sure in enumerate(is_sure)]
    assert fires == [False, False, False, True]


def test_an_unsure_score_arms_nothing():
    """That the concept is gone must be known as well: until then it is the same crossing."""
    crossing = Crossing(Level(True, 0.5, 0.5))
    assert crossing.take(0.9, 0)
    assert not crossing.take(0.1, 1 * S, is_sure=False)
    assert not crossing.take(0.9, 2 * S)
    assert not crossing.take(0.1, 3 * S)
    assert crossing.take(0.9, 4 * S)


def test_an_unsure_score_fires_no_rule_for_less():
    """A rule for what disappears is no exception."""
    crossing = Crossing(Level(False, 0.5, 0.5))
    assert not crossing.take(0.9, 0)
    assert not crossing.take(0.1, 1 * S, is_sure=False)
    assert crossing.take(0.1, 2 * S)
