"""Seconds to nanoseconds, and the host clock."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import NS_PER_S, HostClock, ns_to_second, second_to_ns, seconds_to_ns

SECONDS = st.floats(-1e9, 1e9)
"""Thirty years either way."""


@pytest.mark.parametrize(
    ("seconds", "expected_ns"),
    [
        (0.0, 0),
        (-0.0, 0),
        (1e-9, 1),
        (-1e-9, -1),
        (-1e-20, 0),
        (0.4e-9, 0),
        (-0.6e-9, -1),
        (1.5, 1_500_000_000),
        (-1.5, -1_500_000_000),
        (2852.187037, 2_852_187_037_000),
        (0.1 + 0.2, 300_000_000),
        (9_007_200.1, 9_007_200_100_000_000),
        (-9_007_200.1, -9_007_200_100_000_000),
    ],
)
def test_known_times(seconds, expected_ns):
    """Times by hand: zero, below a nanosecond, negative, a session's, after 104 days."""
    assert seconds_to_ns(np.array([seconds]))[0] == expected_ns
    assert second_to_ns(seconds) == expected_ns


@given(SECONDS)
def test_rounds_the_exact_value(seconds):
    """The result is within half a nanosecond of what the double stands for."""
    ns = int(seconds_to_ns(np.array(seconds)))
    assert abs(Fraction(seconds) * NS_PER_S - ns) <= Fraction(1, 2) + Fraction(1, 10**6)


@given(SECONDS)
def test_one_time_and_an_array_round_alike(seconds):
    """A time from the command line and the same time from a file are the same nanosecond."""
    assert second_to_ns(seconds) == seconds_to_ns(np.array(seconds))


@given(st.integers(-(10**16), 10**16))
def test_round_trip_is_within_a_nanosecond(ns):
    """Nanoseconds to seconds and back miss by at most one, up to 115 days."""
    assert abs(int(seconds_to_ns(np.array(ns_to_second(ns)))) - ns) <= 1


@given(st.integers(-(4 * 10**15), 4 * 10**15))
def test_round_trip_is_exact_within_a_month(ns):
    """Up to 46 days, a double of seconds names every nanosecond."""
    assert second_to_ns(ns_to_second(ns)) == ns


def test_the_product_alone_would_be_wrong():
    """After 194 days, multiplying a double at once misses nanoseconds; this does not."""
    times = [2.0**24 + k / 7 for k in range(1000)]
    exact = [round(Fraction(seconds) * NS_PER_S) for seconds in times]
    assert sum(round(t * 1e9) != ns for t, ns in zip(times, exact, strict=True)) > 100
    assert [second_to_ns(seconds) for seconds in times] == exact


def test_shape_and_dtype_are_kept():
    """Arrays of any shape become int64 of the same shape, empty ones too."""
    assert seconds_to_ns(np.zeros((2, 3))).shape == (2, 3)
    assert seconds_to_ns(np.zeros((0,))).dtype == np.int64


def test_host_clock_goes_forward_and_does_not_sleep_backwards():
    """The host clock is monotonic; a negative sleep returns at once."""
    clock = HostClock()
    before = clock.now_ns()
    clock.sleep_ns(-(10**18))
    clock.sleep_ns(1)
    assert clock.now_ns() > before
