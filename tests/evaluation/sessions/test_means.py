"""Means over sessions: Student's t by hand, and an interval that holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from encoder_training.evaluation.bootstrap import Interval
from evaluation.sessions.means import mean_rows, session_means
from evaluation.sessions.results import APART, FIDELITY, SessionValue


def _values(numbers, *, of: str = "all", half: float = 0.1) -> list[SessionValue]:
    return [
        SessionValue(f"day {at}", FIDELITY, (of,), Interval(value, value - half, value + half))
        for at, value in enumerate(numbers)
    ]


def test_mean_and_interval_are_those_of_student():
    """1, 2, 3: the error is 1/sqrt(3), t of two degrees of freedom 4.303."""
    (one,) = session_means(_values([1.0, 2.0, 3.0]))
    assert one.mean.value == 2
    assert one.mean.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert one.sd == 1
    assert one.sd_of_frames == pytest.approx(0.2 / 3.92)


def test_what_one_session_has_gives_no_mean():
    """A population of one session alone has no interval over sessions."""
    means = session_means([*_values([1.0, 2.0]), *_values([5.0], of="area:LP")])
    assert [one.of for one in means] == [("all",)]
    assert mean_rows(means)[0]["sessions"] == 2


def test_bands_of_random_units_are_averaged():
    """Being apart stands beside them."""
    values = [
        SessionValue(f"day {at}", APART, ("area:CA1", "all"), Interval(0.1 * at, 0, 1), (-at, at))
        for at in (1, 2)
    ]
    (one,) = session_means(values)
    assert one.null == (-1.5, 1.5)


@pytest.mark.parametrize("n_sessions", [2, 4, 8])
def test_intervals_hold_the_truth_as_often_as_they_say(n_sessions):
    """Of a thousand sets of animals around 0.3, 95 % hold it."""
    rng = np.random.default_rng(n_sessions)
    drawn = rng.normal(0.3, 0.1, (1000, n_sessions))
    held = [session_means(_values(of))[0].mean.holds(0.3) for of in drawn]
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)
