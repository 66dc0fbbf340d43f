"""The ring: every spike gets its bin, once, however it comes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.binning import BinRate, bin_spikes
from contracts.errors import MisuseError
from contracts.spikes import SpikeBatch
from daemon.bin_ring import BinRing
from tests.support.ramp_population import RUN, batch_of, ramp_numbers, ramp_spikes

RATE = BinRate(100)
BIN_NS = 10_000_000


def ring_of(n_units: int = 16, capacity_bins: int = 1000, window_bins: int = 20) -> BinRing:
    return BinRing(RATE, n_units, capacity_bins=capacity_bins, window_bins=window_bins)


def empty(start_bin: int, stop_bin: int, *, seq: int = 0, stream: str = "a", run: str = RUN):
    return SpikeBatch(
        stream=stream,
        run=run,
        seq=seq,
        start_ns=start_bin * BIN_NS,
        stop_ns=stop_bin * BIN_NS,
        spike_time_ns=np.array([], dtype=np.int64),
        unit_index=np.array([], dtype=np.uint32),
    )


def spikes_at(*bins: int, stop: int, unit: int = 0, stream: str = "a", run: str = RUN):
    times = np.array([b * BIN_NS for b in bins], dtype=np.int64)
    return SpikeBatch(
        stream=stream,
        run=run,
        seq=0,
        start_ns=min(bins) * BIN_NS,
        stop_ns=stop * BIN_NS,
        spike_time_ns=times,
        unit_index=np.full(len(bins), unit, dtype=np.uint32),
    )


def test_ramp_comes_back_bin_by_bin():
    """A window holds the bins that its position says, and no other."""
    ring = ring_of()
    times, units = ramp_spikes(RATE, 0, 300)
    for seq in range(30):
        ring.add(batch_of(times, units, seq * 10 * BIN_NS, (seq + 1) * 10 * BIN_NS, seq=seq))
    assert list(range(137, 157)) == ramp_numbers(ring.counts(137, 20))


def test_window_across_the_end_of_the_ring_is_contiguous():
    """A window that wraps is one contiguous view with the right bins, read-only."""
    ring = ring_of(capacity_bins=64)
    times, units = ramp_spikes(RATE, 0, 200)
    for seq in range(20):
        ring.add(batch_of(times, units, seq * 10 * BIN_NS, (seq + 1) * 10 * BIN_NS, seq=seq))
    wrapped = ring.counts(180, 20)  # row 180 % 64 = 52, and 20 rows do not fit before 64
    assert list(range(180, 200)) == ramp_numbers(wrapped)
    assert wrapped.flags.c_contiguous
    assert not wrapped.flags.writeable


def test_view_is_not_a_copy():
    """A window shares its memory with the ring."""
    ring = ring_of()
    ring.add(empty(0, 50))
    assert np.shares_memory(ring.counts(10, 20), ring.counts(20, 20))


def test_late_spike_is_counted_and_not_binned():
    """Below the watermark nothing changes any more."""
    ring = ring_of()
    ring.add(empty(0, 50))
    ring.take_report()
    ring.add(spikes_at(20, 49, stop=60))
    report = ring.take_report()
    assert (report.n_binned, report.n_late) == (0, 2)
    assert not ring.counts(20, 20).any()


def test_unknown_unit_is_counted_and_not_binned():
    """A unit outside the population has no column."""
    ring = ring_of(n_units=4)
    ring.add(spikes_at(1, 2, stop=10, unit=4))
    report = ring.take_report()
    assert (report.n_binned, report.n_unknown) == (0, 2)


def test_least_advanced_stream_decides():
    """The watermark is that of the stream that has covered least."""
    ring = ring_of()
    ring.add_stream("a")
    ring.add_stream("b")
    ring.add(empty(0, 50, stream="a"))
    assert ring.begin_bin is None
    ring.add(empty(0, 30, stream="b"))
    assert ring.complete_until == 30


def test_blind_stream_is_not_waited_for_and_its_return_is_late():
    """Windows continue without a silent stream; what it sends afterwards below them is late."""
    ring = ring_of()
    ring.add(empty(0, 50, stream="a"))
    ring.add_stream("b")
    ring.add(empty(0, 10, stream="b"))
    ring.set_blind("b", is_blind=True)
    assert ring.complete_until == 50
    assert ring.blind_streams == ("b",)
    ring.take_report()
    ring.add(spikes_at(10, 20, stop=60, stream="b"))
    report = ring.take_report()
    assert report.n_late == 2
    assert not ring.blind_streams


def test_ended_stream_is_not_waited_for():
    """After its end a stream holds nothing back; the last one takes the watermark to its end."""
    ring = ring_of()
    ring.add(empty(0, 30, stream="a"))
    ring.add(empty(0, 80, stream="b"))
    assert ring.complete_until == 30
    ring.end_stream("a")
    assert ring.complete_until == 80


def test_gap_marks_its_bins():
    """Bins between two spans of a stream are marked, also the two that are covered in part."""
    ring = ring_of()
    ring.add(empty(0, 10))
    half = BIN_NS // 2
    later = SpikeBatch(
        stream="a",
        run=RUN,
        seq=2,
        start_ns=15 * BIN_NS + half,
        stop_ns=40 * BIN_NS,
        spike_time_ns=np.array([], dtype=np.int64),
        unit_index=np.array([], dtype=np.uint32),
    )
    ring.add(later)
    assert ring.gaps(5, 20) == (6, False)  # 10, 11, 12, 13, 14 and the half-covered 15
    assert ring.gaps(20, 20) == (0, False)


def test_bin_covered_by_two_batches_has_no_gap():
    """A bin whose middle is the border of two batches is covered."""
    ring = ring_of()
    edge = 5 * BIN_NS + 3
    nothing = np.array([], dtype=np.int64), np.array([], dtype=np.uint32)
    ring.add(batch_of(*nothing, 0, edge, stream="a"))
    ring.add(batch_of(*nothing, edge, 30 * BIN_NS, seq=1, stream="a"))
    assert ring.gaps(0, 20) == (0, False)


def test_overrun_is_counted():
    """A stream that runs ahead by more than the capacity pushes unfinished bins out."""
    ring = ring_of(capacity_bins=100)
    ring.add_stream("b")
    total = 0
    for start in range(0, 300, 50):
        ring.add(empty(start, start + 50, stream="a"))
        total += ring.take_report().n_overrun_bins
    assert total == 200
    assert ring.complete_until == ring.oldest_bin == 200


def test_stream_that_is_far_ahead_should_wait():
    """Half the ring ahead of the least advanced stream is too far; of a stream that ended, not."""
    ring = ring_of(capacity_bins=100)
    ring.add_stream("b")
    ring.add(empty(0, 50, stream="a"))
    assert not ring.is_ahead("a")
    ring.add(empty(50, 51, stream="a"))
    assert ring.is_ahead("a")
    ring.add(empty(0, 10, stream="b"))
    assert not ring.is_ahead("a")
    ring.add(empty(51, 70, stream="a"))
    assert ring.is_ahead("a")
    assert not ring.is_ahead("b")
    ring.end_stream("b")
    assert not ring.is_ahead("a")


def test_far_jump_clears_the_ring():
    """After a jump of hours no count of before is left."""
    ring = ring_of(capacity_bins=100)
    ring.add(spikes_at(0, 1, 2, stop=50))
    ring.add(empty(10**9, 10**9 + 50))
    assert not ring.counts(10**9 + 10, 20).any()
    assert ring.oldest_bin == 10**9 + 50 - 100


def test_new_session_begins_anew():
    """What was there is forgotten, and an earlier time is not late."""
    ring = ring_of()
    ring.add(empty(0, 90))
    ring.begin_session(["a"])
    ring.take_report()
    ring.add(spikes_at(3, 4, stop=50, run="f" * 16))
    report = ring.take_report()
    assert (report.n_binned, report.n_late) == (2, 0)
    assert ring.complete_until == 50


def test_new_run_that_goes_on_is_a_gap():
    """A source that was restarted in the same session leaves a hole and nothing else."""
    ring = ring_of()
    ring.add(empty(0, 30))
    ring.add_stream("a")
    ring.add(empty(40, 70, run="f" * 16))
    assert ring.gaps(25, 20) == (10, False)


def test_bins_that_are_not_held_are_refused():
    """Asking for bins outside the ring is our own mistake and says what the ring holds."""
    ring = ring_of(capacity_bins=100)
    ring.add(empty(0, 50))
    with pytest.raises(MisuseError, match=r"\[-50, 50\)"):
        ring.counts(40, 20)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_watermark_never_goes_back(data: st.DataObject):
    """Whatever arrives, what was complete stays complete, until the session begins again."""
    ring = ring_of(n_units=2, capacity_bins=300)
    seen, generation = -(10**9), ring.generation
    for _ in range(data.draw(st.integers(1, 25))):
        start = data.draw(st.integers(0, 2000))
        stop = start + data.draw(st.integers(1, 100))
        ring.add(empty(start, stop, stream=data.draw(st.sampled_from("abc"))))
        assert ring.complete_until >= seen or ring.generation > generation
        seen, generation = ring.complete_until, ring.generation


def test_new_session_waits_for_its_streams_alone():
    """Both of its streams are waited for, and not the one that stays in the old session."""
    ring = ring_of()
    for stream in "abc":
        ring.add(empty(0, 90, stream=stream))
    ring.begin_session(["a", "b"])
    ring.add(empty(0, 40, stream="a"))
    assert ring.complete_until < 0
    assert ring.blind_streams == ("c",)
    ring.add(empty(5, 30, stream="b"))
    assert (ring.begin_bin, ring.complete_until) == (5, 30)


def test_stream_behind_the_watermark_catches_up():
    """A stream that comes back late is waited for, and loses nothing from the watermark on."""
    ring = ring_of(capacity_bins=100)
    for stream in "ab":
        ring.add(empty(0, 10, stream=stream))
    ring.set_blind("b", is_blind=True)
    ring.add(empty(10, 50, stream="a"))
    ring.take_report()
    ring.add(spikes_at(20, stop=30, stream="b"))
    assert ring.take_report().n_late == 1
    assert ring.behind_ns("b") == 20 * BIN_NS
    ring.add(empty(50, 80, stream="a"))
    assert ring.complete_until == 50
    ring.take_report()
    ring.add(spikes_at(40, 55, stop=60, stream="b"))
    assert ring.take_report().n_late == 1
    assert (ring.complete_until, ring.behind_ns("b")) == (60, 0)
    assert ring.blind_streams == ()


def test_pause_of_a_single_stream_is_no_overrun():
    """An hour without a batch loses no bin that anybody had covered."""
    ring = ring_of(capacity_bins=100)
    ring.add(empty(0, 50))
    ring.take_report()
    ring.add(empty(360_000, 360_050))
    assert ring.take_report().n_overrun_bins == 0


def test_gaps_are_seen_after_the_last_stream_has_ended():
    """Bins that were lost before the end are gaps, also when nothing is live any more."""
    ring = ring_of()
    ring.add(empty(0, 10))
    ring.add(empty(15, 40))
    ring.end_stream("a")
    assert ring.gaps(5, 20) == (5, False)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_counts_equal_offline_counts_for_any_cut(data: st.DataObject):
    """One stream, cut anywhere: the ring holds what the histogram of the whole holds."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    times = np.sort(rng.integers(0, 90 * BIN_NS, 400))
    units = rng.integers(0, 3, 400).astype(np.uint32)
    cuts = sorted({0, 90 * BIN_NS, *data.draw(st.lists(st.integers(1, 90 * BIN_NS - 1)))})
    ring = ring_of(n_units=3, window_bins=90)
    for seq, (start, stop) in enumerate(pairwise(cuts)):
        ring.add(batch_of(times, units, start, stop, seq=seq))
    offline = bin_spikes(times, units, first_bin=0, n_bins=90, rate=RATE, n_units=3)
    assert np.array_equal(offline, ring.counts(0, 90))
