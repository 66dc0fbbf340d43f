"""The cutter: a finished window leaves, once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.binning import BinRate
from contracts.spikes import SpikeBatch
from contracts.window import WindowSpec
from daemon.bin_ring import BinRing
from daemon.window_cutter import WindowCutter
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN, batch_of, ramp_numbers, ramp_spikes

RATE = BinRate(100)
BIN_NS = 10_000_000


def ring_and_cutter(
    n_bins: int = 20, stride: int = 20, capacity: int = 1000
) -> tuple[BinRing, WindowCutter]:
    ring = BinRing(RATE, 16, capacity_bins=capacity, window_bins=n_bins)
    return ring, WindowCutter(WindowSpec(RATE, n_bins, stride), ManualClock())


def nothing(start_bin: int, stop_bin: int, *, run: str = RUN, stream: str = "a") -> SpikeBatch:
    none = np.array([], dtype=np.int64), np.array([], dtype=np.uint32)
    return batch_of(*none, start_bin * BIN_NS, stop_bin * BIN_NS, run=run, stream=stream)


def test_windows_of_a_ramp_leave_in_order():
    """Each window holds its own bins; they overlap when the stride is shorter."""
    ring, cutter = ring_and_cutter(n_bins=20, stride=5)
    times, units = ramp_spikes(RATE, 0, 100)
    ring.add(batch_of(times, units, 0, 100 * BIN_NS))
    windows = list(cutter.ready(ring, received_host_ns=7))
    assert list(range(0, 81, 5)) == [window.first_bin for window in windows]
    assert list(range(35, 55)) == ramp_numbers(windows[7].counts)
    assert windows[7].newest_received_host_ns == 7
    assert windows[7].seq == 7


def test_late_joiner_cuts_the_same_windows():
    """Windows lie on the absolute grid, wherever the daemon came in."""
    ring, cutter = ring_and_cutter()
    ring.add(nothing(33, 100))
    assert [40, 60, 80] == [window.first_bin for window in cutter.ready(ring)]


def test_window_describes_the_frame_before_its_end():
    """The frame is the lag before the window's end."""
    ring = BinRing(RATE, 1, capacity_bins=500, window_bins=20)
    cutter = WindowCutter(WindowSpec(RATE, 20, 20, lag_ns=50_000_000), ManualClock())
    ring.add(nothing(0, 20))
    (window,) = cutter.ready(ring)
    assert (window.start_ns, window.stop_ns, window.frame_ns) == (0, 200_000_000, 150_000_000)


def test_unseen_windows_are_skipped():
    """A window in the middle of a gap is skipped; its neighbours count what they miss."""
    ring, cutter = ring_and_cutter()
    ring.add(nothing(0, 30))
    windows = list(cutter.ready(ring))
    ring.add(nothing(90, 120))
    windows += cutter.ready(ring)
    assert [(0, 0), (20, 10), (80, 10), (100, 0)] == [(w.first_bin, w.n_gap_bins) for w in windows]
    assert cutter.n_unseen == 2


def test_windows_lost_to_an_overrun_are_counted():
    """Windows whose bins the ring had to give up are skipped and counted."""
    ring, cutter = ring_and_cutter(capacity=100)
    ring.add_stream("b")
    ring.add(nothing(0, 50, stream="a"))
    ring.add(nothing(0, 10, stream="b"))
    assert not list(cutter.ready(ring))
    for start in (50, 100, 150):
        ring.add(nothing(start, start + 50, stream="a"))
    ring.set_blind("b", is_blind=True)
    assert [100, 120, 140, 160, 180] == [window.first_bin for window in cutter.ready(ring)]
    assert cutter.n_overrun == 5


def test_restart_cuts_from_the_beginning():
    """A session that begins again is cut again."""
    ring, cutter = ring_and_cutter()
    ring.add(nothing(0, 60))
    assert len(list(cutter.ready(ring))) == 3
    ring.begin_session(["a"])
    ring.add(nothing(0, 40, run="f" * 16))
    assert [0, 20] == [window.first_bin for window in cutter.ready(ring)]


@given(
    steps=st.lists(st.tuples(st.integers(-140, 300), st.integers(1, 100)), min_size=1, max_size=30),
    n_bins=st.integers(1, 30),
    stride=st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_every_window_leaves_once_or_is_counted(steps, n_bins: int, stride: int):
    """Between the first bin and the watermark each window of the grid is cut or counted."""
    ring, cutter = ring_and_cutter(n_bins, stride, capacity=150)
    seen: list[int] = []
    newest = 0
    for step, length in steps:  # back by less than the ring holds: no new session
        start = newest + max(step, -40)
        newest = max(newest, start)
        ring.add(nothing(start, start + length))
        seen += [window.first_bin for window in cutter.ready(ring)]
    assert ring.begin_bin is not None
    first = cutter.spec.first_start_at_or_after(ring.begin_bin)
    expected = range(first, ring.complete_until - n_bins + 1, stride)
    assert sorted(set(seen)) == seen
    assert set(seen) <= set(expected)
    assert len(expected) == len(seen) + cutter.n_unseen + cutter.n_overrun
