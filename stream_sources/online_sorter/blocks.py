"""Consecutive samples become blocks on a fixed grid, each with what is before and after it.

Theory of operation
-------------------
A matching method looks at a block and at a margin on each side, and returns the spikes of the block
alone. Where blocks begin has an effect on what greedy methods find near their edges. So blocks lie
on a grid from sample 0 of the run, and never depend on how samples arrive. This is what
SpikeInterface does offline with chunks of the same length: equal voltages give equal spikes.

Where samples begin or end (a run, a gap), a block is shorter, and the margin beyond is zeros, as
SpikeInterface has it at the ends of a recording.

Invariants (``tests/stream_sources/online_sorter/test_blocks.py``):

1. Any cutting into chunks gives the same blocks: ``test_blocks_do_not_depend_on_chunks``
2. Blocks touch, and cover all samples once: ``test_blocks_cover_each_sample_once``
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class VoltageBlock:
    """One block of the grid.

    Attributes
    ----------
    start, stop : int
        Sample numbers of the run, half open, without the margins.
    traces_uv : array, shape (stop - start + 2 * margin, n_channels), float32, microvolts
        In the order of C, and its own: methods may write into it.
    """

    start: int
    stop: int
    traces_uv: NDArray[np.float32]


class BlockCutter:
    """Cuts the samples of one uninterrupted interval after another.

    Parameters
    ----------
    block : int
        Samples of a block.
    margin : int
        Samples before and after it.
    """

    def __init__(self, block: int, margin: int, n_channels: int) -> None:
        self._block = block
        self._margin = margin
        self._n_channels = n_channels
        self.begin(0)

    @property
    def stop(self) -> int:
        """Sample after the newest one."""
        return self._stop

    def begin(self, sample: int) -> None:
        """Go on at a sample; what was not taken out with `flush` is dropped."""
        self._stop = sample
        self._done = sample  # all before it is in a block
        self._pieces: list[tuple[int, NDArray[np.float32]]] = []  # each from a sample on

    def add(self, traces_uv: NDArray[np.float32]) -> Iterator[VoltageBlock]:
        """Take the next samples, shape (n_samples, n_channels); yield blocks that are complete."""
        self._pieces.append((self._stop, traces_uv))
        self._stop += len(traces_uv)
        while self._stop >= self._next_edge + self._margin:
            yield self._take(self._next_edge)

    def flush(self) -> Iterator[VoltageBlock]:
        """Yield what is left: nothing comes after it."""
        while self._done < self._stop:
            yield self._take(min(self._next_edge, self._stop))

    @property
    def _next_edge(self) -> int:
        return (self._done // self._block + 1) * self._block

    def _take(self, stop: int) -> VoltageBlock:
        start, self._done = self._done, stop
        first, last = start - self._margin, stop + self._margin
        traces = np.zeros((last - first, self._n_channels), dtype=np.float32)
        for at, piece in self._pieces:
            low, high = max(first, at), min(last, at + len(piece))
            if low < high:
                traces[low - first : high - first] = piece[low - at : high - at]
        # The next block's margin begins here.
        self._pieces = [one for one in self._pieces if one[0] + len(one[1]) > stop - self._margin]
        return VoltageBlock(start, stop, traces)
