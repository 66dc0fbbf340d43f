"""Blocks lie on a grid from sample 0, and hold their margins."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_sources.online_sorter.blocks import BlockCutter, VoltageBlock

BLOCK, MARGIN = 10, 4


def samples(first, stop):
    """Return one channel whose values are the sample numbers, from 1 so that none is 0."""
    return (np.arange(first, stop, dtype=np.float32) + 1)[:, None]


def blocks_of(first, lengths):
    """Cut consecutive chunks of these lengths, to the end."""
    cutter = BlockCutter(BLOCK, MARGIN, 1)
    cutter.begin(first)
    blocks: list[VoltageBlock] = []
    at = first
    for length in lengths:
        blocks += cutter.add(samples(at, at + length))
        at += length
    return [*blocks, *cutter.flush()]


def expected_traces(block, first, stop):
    """Return what a block and its margins hold: zeros where there is no sample."""
    wanted = np.arange(block.start - MARGIN, block.stop + MARGIN)
    return np.where((wanted >= first) & (wanted < stop), wanted + 1, 0).astype(np.float32)


@given(first=st.integers(0, 35), lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_blocks_do_not_depend_on_chunks(first, lengths):
    """Each block is what the whole recording has at its place, whatever the chunks were."""
    stop = first + sum(lengths)
    for block in blocks_of(first, lengths):
        assert block.traces_uv[:, 0].tolist() == expected_traces(block, first, stop).tolist()
        assert block.traces_uv.flags.c_contiguous


@given(first=st.integers(0, 35), lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_blocks_cover_each_sample_once(first, lengths):
    """Blocks touch, end on the grid, and reach from the first sample to the last."""
    blocks = blocks_of(first, lengths)
    edges = [first, *(block.stop for block in blocks)]
    assert [block.start for block in blocks] == edges[:-1]
    assert edges[-1] == first + sum(lengths)
    assert all(edge % BLOCK == 0 for edge in edges[1:-1])


def test_a_block_comes_with_the_last_sample_of_its_margin():
    """One sample less and it waits; one interval does not see into another."""
    cutter = BlockCutter(BLOCK, MARGIN, 1)
    assert list(cutter.add(samples(0, BLOCK + MARGIN - 1))) == []
    (block,) = cutter.add(samples(BLOCK + MARGIN - 1, BLOCK + MARGIN))
    assert (block.start, block.stop) == (0, BLOCK)
    cutter.begin(23)
    (other,) = [*cutter.add(samples(23, 27)), *cutter.flush()]
    assert (other.start, other.stop) == (23, 27)
    assert other.traces_uv[:, 0].tolist() == [0, 0, 0, 0, 24, 25, 26, 27, 0, 0, 0, 0]
