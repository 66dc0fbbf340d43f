"""Counts of a data set: those of serving, bit for bit, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.binning import BinRate, bin_spikes
from contracts.errors import MisuseError, UserError
from encoder_training.data_set import counting
from encoder_training.data_set.counting import (
    CountedIntervals,
    add_spikes,
    count_spans,
    write_counts,
)

RATES = [BinRate(120), BinRate(1_000, 7), BinRate(60_000, 1_001)]
N_UNITS = 3


def from_trains(trains):
    """Hand out spikes from one sorted array of nanoseconds for each unit."""

    def between(start_ns, stop_ns):
        edges = [np.searchsorted(train, (start_ns, stop_ns)) for train in trains]
        parts = [train[a:b] for train, (a, b) in zip(trains, edges, strict=True)]
        units = np.repeat(np.arange(len(trains)), [len(part) for part in parts])
        return np.concatenate(parts), units

    return between


@st.composite
def trains_and_spans(draw):
    """Draw a rate, spans of up to 40 bins, and trains with many spikes just at and before edges."""
    rate = draw(st.sampled_from(RATES))
    steps = draw(st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(any))
    first = draw(st.integers(-50, 10_000))
    edges = first + np.cumsum(np.array(steps[: len(steps) // 2 * 2]))
    spans = CountedIntervals(edges[::2], edges[1::2])
    bins = st.integers(int(edges[0]) - 3, int(edges[-1]) + 3)
    spikes = st.builds(lambda b, off: rate.start_ns(b) + off, bins, st.sampled_from((-1, 0, 1, 7)))
    trains = [
        np.array(sorted(draw(st.lists(spikes, max_size=60))), dtype=np.int64)
        for _ in range(N_UNITS)
    ]
    return rate, spans, trains


@given(trains_and_spans(), st.integers(1, 200))
def test_counts_equal_those_of_serving(drawn, chunk_bytes):
    """Each span holds what `bin_spikes` counts in it, spikes on edges included."""
    rate, spans, trains = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "CHUNK_BYTES", chunk_bytes)
        chunks = count_spans(from_trains(trains), spans, n_units=N_UNITS, rate=rate)
        found = [counts.copy() for counts in chunks]
    unit_index = np.repeat(np.arange(N_UNITS), [len(train) for train in trains])
    expected = [
        bin_spikes(
            np.concatenate(trains),
            unit_index,
            first_bin=first,
            n_bins=stop - first,
            rate=rate,
            n_units=N_UNITS,
        )
        for first, stop in zip(spans.first_bin.tolist(), spans.stop_bin.tolist(), strict=True)
    ]
    empty = np.empty((0, N_UNITS), dtype=np.uint8)
    assert np.array_equal(np.concatenate([empty, *found]), np.concatenate([empty, *expected]))


def test_the_file_holds_the_spans_end_to_end(tmp_path):
    """What is written is an array of numpy that can be mapped, one row for each bin."""
    rate, trains = BinRate(10), [np.array([0, 10**8, 3 * 10**8]), np.array([10**8])]
    spans = CountedIntervals(np.array([1, 3]), np.array([2, 5]))
    path = tmp_path / "counts.npy"
    write_counts(path, from_trains(trains), spans, n_units=2, rate=rate)
    counts = np.load(path, mmap_mode="r")
    assert counts.dtype == np.uint8
    assert counts.tolist() == [[1, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize("n_spikes", [254, 255, 511])
def test_more_spikes_than_a_byte_holds_are_refused(n_spikes):
    """255 spikes in a bin are kept; one more, or twice as many, is an error and no small number."""
    spikes = np.sort(np.concatenate([np.full(n_spikes, 5), np.arange(0, 10**9, 10**7)]))
    spans = CountedIntervals(np.array([0]), np.array([9]))
    chunks = count_spans(from_trains([spikes]), spans, n_units=1, rate=BinRate(120))
    if n_spikes > 254:
        with pytest.raises(UserError, match=f"at most, got {n_spikes + 1}"):
            next(chunks)
    else:
        assert next(chunks)[0, 0] == n_spikes + 1


def test_spikes_and_units_from_elsewhere_are_our_mistake():
    """A spike outside the chunk, or of a unit that is not there, is never counted elsewhere."""
    table = np.zeros((2, 2), dtype=np.uint8)
    rate = BinRate(1)
    for spike, unit in ((-1, 0), (2 * 10**9, 0), (0, 2), (0, -1)):
        with pytest.raises(MisuseError):
            add_spikes(table, np.array([spike]), np.array([unit]), first_bin=0, rate=rate)
    assert not table.any()
