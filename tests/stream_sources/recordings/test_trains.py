"""The walk through trains at rest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream_sources.recordings.trains as trains_module
from contracts.clock import seconds_to_ns
from contracts.errors import MisuseError, UserError
from stream_sources.recordings.trains import SpikeTrains, TrainReader, first_second_of, walk_blocks

MS = 1_000_000


def trains_of(*trains: list[int]) -> SpikeTrains:
    """Return trains of int64 nanoseconds."""
    stop = np.cumsum([len(train) for train in trains]).astype(np.int64)
    start = stop - np.array([len(train) for train in trains], dtype=np.int64)
    return SpikeTrains(np.array([*itertools.chain(*trains)], dtype=np.int64), start, stop)


@given(
    st.lists(st.lists(st.integers(-50 * MS, 20_000 * MS).map(int)).map(sorted), min_size=1),
    st.sampled_from([1 * MS, 10 * MS, 333 * MS]),
)
def test_every_spike_is_in_one_block(lists: list[list[int]], batch_ns: int) -> None:
    """However the spikes lie, the blocks hold each exactly once, with its unit."""
    expected = sorted((time, row) for row, train in enumerate(lists) for time in train)
    blocks = walk_blocks(
        trains_of(*lists), start_ns=-50 * MS, stop_ns=20_000 * MS + 1, batch_ns=batch_ns
    )
    got = [
        pair
        for block in blocks
        for pair in zip(block.spike_time_ns.tolist(), block.unit_index.tolist(), strict=True)
    ]
    assert sorted(got) == expected


def test_a_burst_is_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More spikes in a batch's length than a block may hold give several short blocks."""
    monkeypatch.setattr(trains_module, "MAX_BLOCK_SPIKES", 10)
    trains = trains_of([0, *range(5 * MS, 5 * MS + 100), 900 * MS])
    blocks = list(walk_blocks(trains, start_ns=0, stop_ns=1000 * MS, batch_ns=10 * MS))
    assert max(len(block.spike_time_ns) for block in blocks) <= 10
    assert sum(len(block.spike_time_ns) for block in blocks) == 102


def test_blocks_end_on_the_batch_grid() -> None:
    """Blocks join without a hole and end on whole batches, but for the last one."""
    trains = trains_of([0, 40_000 * MS])
    blocks = list(walk_blocks(trains, start_ns=0, stop_ns=40_000 * MS + 1, batch_ns=7 * MS))
    assert [block.stop_ns for block in blocks[:-1]] == [block.start_ns for block in blocks[1:]]
    assert all(block.stop_ns % (7 * MS) == 0 for block in blocks[:-1])


def test_after_a_burst_blocks_return_to_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short blocks stop at the next whole batch, so that later batches are whole again."""
    monkeypatch.setattr(trains_module, "MAX_BLOCK_SPIKES", 8)
    trains = trains_of([*range(3 * MS, 3 * MS + 64), 500 * MS])
    edges = {
        block.stop_ns
        for block in walk_blocks(trains, start_ns=0, stop_ns=501 * MS, batch_ns=10 * MS)
    }
    assert 10 * MS in edges
    assert all(edge % (10 * MS) == 0 for edge in edges if 10 * MS <= edge < 501 * MS)


def test_too_many_spikes_at_one_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no batch can hold is an error of the recording that names the time."""
    monkeypatch.setattr(trains_module, "MAX_BLOCK_SPIKES", 4)
    monkeypatch.setattr(trains_module, "MAX_SPIKES", 8)
    with pytest.raises(UserError, match="9 spikes stand at 7 ns"):
        list(walk_blocks(trains_of([7] * 9), start_ns=0, stop_ns=10 * MS, batch_ns=MS))


@given(st.integers(-(10**15), 10**15))
def test_an_edge_in_seconds_is_exact(edge_ns: int) -> None:
    """The smallest time that rounds to the edge does, and the number before it does not."""
    at = first_second_of(edge_ns)
    before = np.nextafter(at, -np.inf)
    assert seconds_to_ns(np.array([before]))[0] < edge_ns <= seconds_to_ns(np.array([at]))[0]


@given(st.lists(st.floats(-10, 10_000), min_size=1).map(sorted), st.integers(-(10**10), 10**13))
def test_seconds_are_cut_where_nanoseconds_are(times: list[float], edge_ns: int) -> None:
    """A train in seconds and the same train in nanoseconds are cut at the same spike."""
    seconds = np.array(times)
    bounds = np.zeros(1, np.int64), np.array([len(times)])
    in_seconds = SpikeTrains(seconds, *bounds).positions(edge_ns, bounds[0])
    in_ns = SpikeTrains(seconds_to_ns(seconds), *bounds).positions(edge_ns, bounds[0])
    assert in_seconds.tolist() == in_ns.tolist()


def test_no_spikes_have_no_ends() -> None:
    """Trains without spikes say so."""
    assert trains_of([], []).ends_ns() is None


def test_stretches_are_read_one_after_another() -> None:
    """Each stretch holds its own spikes, unit after unit, and none is read twice."""
    reader = TrainReader(trains_of([5, 10, 20], [], [9, 10, 30]))
    times, units = reader.between(0, 10)
    assert (times.tolist(), units.tolist()) == ([5, 9], [0, 2])
    times, units = reader.between(10, 20)
    assert (times.tolist(), units.tolist()) == ([10, 10], [0, 2])
    times, units = reader.between(25, 40)
    assert (times.tolist(), units.tolist()) == ([30], [2])
    with pytest.raises(MisuseError, match="up to 40 ns, asked from 39"):
        reader.between(39, 50)
