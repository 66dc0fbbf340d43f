"""The cut into batches: every spike once, no hole in time or number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contracts.spikes import RUN_ID
from stream_sources.source import SpikeBlock, cut_batches, new_run
from tests.support.ramp_population import RUN


def block(start_ns: int, stop_ns: int, times: list[int]) -> SpikeBlock:
    spike_time_ns = np.array(sorted(times), dtype=np.int64)
    return SpikeBlock(start_ns, stop_ns, spike_time_ns, np.arange(len(times), dtype=np.uint32))


def test_spike_on_an_edge_belongs_to_the_later_batch():
    """Spans are half open."""
    batches = list(cut_batches([block(0, 20, [0, 9, 10, 19])], stream="a", run=RUN, batch_ns=10))
    assert [batch.spike_time_ns.tolist() for batch in batches] == [[0, 9], [10, 19]]


def test_empty_spans_are_batches():
    """Silence is sent, and the last batch of a block may be short."""
    batches = list(cut_batches([block(5, 30, [])], stream="a", run=RUN, batch_ns=10))
    assert [(b.start_ns, b.stop_ns, b.n_spikes) for b in batches] == [
        (5, 15, 0),
        (15, 25, 0),
        (25, 30, 0),
    ]


def test_batches_share_memory_with_their_block():
    """Nothing is copied."""
    whole = block(0, 100, [3, 50])
    batches = list(cut_batches([whole], stream="a", run=RUN, batch_ns=10))
    assert all(
        np.shares_memory(b.spike_time_ns, whole.spike_time_ns) for b in batches if b.n_spikes
    )


@given(
    st.lists(st.tuples(st.integers(1, 300), st.lists(st.integers(0, 299))), max_size=5),
    st.integers(1, 100),
    st.integers(-1000, 1000),
)
def test_batches_cover_the_blocks(lengths, batch_ns: int, origin_ns: int):
    """Numbers from 0, spans end to end, every spike in its span, none lost."""
    blocks, start_ns = [], origin_ns
    for length, offsets in lengths:
        times = [start_ns + offset for offset in offsets if offset < length]
        blocks.append(block(start_ns, start_ns + length, times))
        start_ns += length
    batches = list(cut_batches(blocks, stream="a", run=RUN, batch_ns=batch_ns))
    assert [batch.seq for batch in batches] == list(range(len(batches)))
    assert all(a.stop_ns == b.start_ns for a, b in pairwise(batches))
    assert all(batch.stop_ns - batch.start_ns <= batch_ns for batch in batches)
    if blocks:
        assert (batches[0].start_ns, batches[-1].stop_ns) == (origin_ns, start_ns)
    sent = [int(time) for batch in batches for time in batch.spike_time_ns]
    assert sent == [int(time) for each in blocks for time in each.spike_time_ns]


def test_every_start_has_its_own_name():
    """Names of runs follow the format, and no two are equal."""
    runs = {new_run() for _ in range(100)}
    assert len(runs) == 100
    assert all(RUN_ID.fullmatch(run) for run in runs)
