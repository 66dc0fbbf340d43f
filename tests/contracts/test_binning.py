"""A time becomes a bin in integers: held to exact fractions, on edges and at the limits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.binning import FEW_BINS, MAX_RATE_TERM, BinRate, bin_spikes
from contracts.clock import MAX_SESSION_NS, NS_PER_S
from contracts.errors import MisuseError


@st.composite
def rates(draw: st.DrawFn) -> BinRate:
    """Draw a rate, as often the paper's and the extreme ones as any other."""
    usual = [BinRate(120), BinRate(50), BinRate(30_000, 1001), BinRate(1, 3)]
    extreme = [BinRate(MAX_RATE_TERM), BinRate(1, MAX_RATE_TERM), BinRate(44_721, 44_721)]
    if draw(st.booleans()):
        return draw(st.sampled_from(usual + extreme))
    den = draw(st.integers(1, 50_000))
    return BinRate(draw(st.integers(1, MAX_RATE_TERM // den)), den)


TIMES_NS = st.integers(-MAX_SESSION_NS, MAX_SESSION_NS - 1)


def _exact(rate: BinRate, session_ns: int) -> int:
    return math.floor(Fraction(session_ns * rate.num, rate.den * NS_PER_S))


@given(rates(), st.lists(TIMES_NS, min_size=1, max_size=20))
@example(BinRate(MAX_RATE_TERM), [MAX_SESSION_NS - 1, -MAX_SESSION_NS, -1, 0])
def test_bin_of_is_exact(rate, times):
    """Integers and arrays give the exact floor, over the whole clock and at every legal rate."""
    expected = [_exact(rate, t) for t in times]
    assert [rate.bin_of(t) for t in times] == expected
    bins = rate.bin_of(np.array(times, dtype=np.int64))
    assert bins.dtype == np.int64
    assert bins.tolist() == expected


@given(rates(), TIMES_NS, st.integers(1, 2 * FEW_BINS), st.data())
def test_bins_from_is_bin_of(rate, start_ns, n_bins, data: st.DataObject):
    """Comparing with the edges of a few bins gives what the divisions give."""
    first = rate.bin_of(start_ns)
    last_ns = min(max(rate.start_ns(first + n_bins) - 1, start_ns), MAX_SESSION_NS - 1)
    times = np.array(data.draw(st.lists(st.integers(start_ns, last_ns))), dtype=np.int64)
    bins = rate.bins_from(times, first, n_bins)
    assert bins.dtype == np.int64
    if rate.num <= rate.den * NS_PER_S:  # else a nanosecond is longer than a bin
        assert bins.tolist() == rate.bin_of(times).tolist()


@given(rates(), st.integers(-(10**12), 10**12))
def test_edges_belong_to_the_later_bin(rate, bin_index):
    """The first nanosecond of a bin lies in it, and the one before does not."""
    start_ns = rate.start_ns(bin_index)
    if not -MAX_SESSION_NS < start_ns < MAX_SESSION_NS:
        return
    expected = [_exact(rate, start_ns), _exact(rate, start_ns - 1)]
    assert expected[0] >= bin_index > expected[1]
    if rate.num <= rate.den * NS_PER_S:
        assert expected[0] == bin_index
    edges = np.array([start_ns, start_ns - 1])
    assert rate.starts_ns(np.array([bin_index])).tolist() == [start_ns]
    assert [rate.bin_of(start_ns), rate.bin_of(start_ns - 1)] == expected
    assert rate.bin_of(edges).tolist() == expected


@given(rates(), TIMES_NS)
def test_first_bin_at_or_after(rate, session_ns):
    """It starts at the time or later, and the bin before it starts earlier."""
    first = rate.first_bin_at_or_after(session_ns)
    assert rate.start_ns(first) >= session_ns
    assert rate.start_ns(first - 1) < session_ns


@given(rates(), TIMES_NS, st.integers(0, 10**10))
def test_later_times_are_in_no_earlier_bin(rate, session_ns, later_by):
    """Order is kept."""
    later = min(MAX_SESSION_NS - 1, session_ns + later_by)
    assert rate.bin_of(later) >= rate.bin_of(session_ns)


def test_float_floor_division_misplaces_edge_spikes():
    """In float64 seconds, spikes on 120 Hz edges fall into the bin before; in integers none."""
    rate = BinRate(120)
    bins = np.arange(120_000)
    edges = np.array([rate.start_ns(int(b)) for b in bins])
    in_floats = np.floor_divide(edges / NS_PER_S, 1 / 120).astype(np.int64)
    assert np.mean(in_floats != bins) > 0.1
    assert np.array_equal(rate.bin_of(edges), bins)
    assert np.floor_divide(0.3, 0.1) == 2  # the third edge at 10 Hz, as floats see it
    assert BinRate(10).bin_of(300_000_000) == 3


def test_bins_of_120_hz_by_hand():
    """The second bin starts at 8,333,334 ns, the first whole nanosecond after 1/120 s."""
    rate = BinRate(120)
    assert [rate.start_ns(b) for b in (-1, 0, 1, 2, 3, 120)] == [
        -8_333_333,
        0,
        8_333_334,
        16_666_667,
        25_000_000,
        NS_PER_S,
    ]
    assert rate.bin_of(8_333_333) == 0
    assert rate.bin_of(-1) == -1
    assert rate.period_ns == NS_PER_S
    assert rate.bins_per_s == 120.0
    assert BinRate(1000, 3).period_ns == 3 * NS_PER_S


@pytest.mark.parametrize(
    ("num", "den"), [(0, 1), (-1, 1), (1, 0), (MAX_RATE_TERM + 1, 1), (50_000, 50_000)]
)
def test_rates_beyond_the_limit_are_refused(num, den):
    """A rate whose products could leave int64 does not exist."""
    with pytest.raises(MisuseError, match=f"got {num}/{den}"):
        BinRate(num, den)


@given(
    rate=st.sampled_from([BinRate(120), BinRate(50), BinRate(1000, 3), BinRate(997)]),
    spikes=st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 4)), max_size=60),
    first_bin=st.integers(-130, 130),
    n_bins=st.integers(1, 60),
)
def test_bin_spikes_equals_a_loop(rate, spikes, first_bin, n_bins):
    """Counting with numpy equals counting one spike after the other."""
    edges = [(rate.start_ns(first_bin), 0), (rate.start_ns(first_bin) - 1, 1)]
    edges += [(rate.start_ns(first_bin + n_bins), 2), (rate.start_ns(first_bin + n_bins) - 1, 3)]
    spikes = spikes + edges
    expected = np.zeros((n_bins, 5), dtype=np.uint16)
    for session_ns, unit in spikes:
        row = _exact(rate, session_ns) - first_bin
        if 0 <= row < n_bins:
            expected[row, unit] += 1
    times, units = (np.array(column, dtype=np.int64) for column in zip(*spikes, strict=True))
    counts = bin_spikes(times, units, first_bin=first_bin, n_bins=n_bins, rate=rate, n_units=5)
    assert counts.dtype == np.uint16
    assert np.array_equal(counts, expected)


def test_no_spikes_are_no_counts():
    """An empty recording gives zeros of the right shape."""
    counts = bin_spikes(
        np.empty(0, np.int64), np.empty(0, np.uint32),
        first_bin=3, n_bins=4, rate=BinRate(120), n_units=2,
    )  # fmt: skip
    assert counts.shape == (4, 2)
    assert not counts.any()


@pytest.mark.parametrize("unit", [-1, 2])
def test_unknown_unit_is_refused(unit):
    """A unit outside the population is our mistake here, for the offline road has no strangers."""
    with pytest.raises(MisuseError, match="unit_index must be from 0 to 1"):
        bin_spikes(
            np.zeros(2, np.int64), np.array([0, unit]),
            first_bin=0, n_bins=1, rate=BinRate(120), n_units=2,
        )  # fmt: skip
