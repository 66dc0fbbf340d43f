"""Spike trains at rest, and the walk through them in order of time. No file is opened here.

Theory of operation
-------------------
A recording file holds the spikes unit by unit; a stream sends them in order of time. The walk
keeps one position in each train, finds how far each may go before the block's end, takes what
lies between, and sorts that. Memory is bounded by a block, not by the recording: the trains may
be a map of a file of any size.

Invariants (``tests/stream_sources/recordings/test_trains.py``):

1. every spike of the span is in exactly one block          ``test_every_spike_is_in_one_block``
2. a block never holds more than `MAX_BLOCK_SPIKES`         ``test_a_burst_is_cut_into_blocks``
3. blocks join without a hole and end on the batch grid,
   but where a burst forces a shorter one                   ``test_blocks_end_on_the_batch_grid``
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, seconds_to_ns
from contracts.errors import MisuseError, UserError
from contracts.spikes import MAX_SPIKES
from stream_sources.source import SpikeBlock

MAX_BLOCK_SPIKES = MAX_SPIKES // 2
"""Spikes in one block: about 20 MB with its sort, and a batch of it is always legal."""

FIRST_BLOCK_NS = NS_PER_S
"""The first block is short, so that the first batch leaves at once."""

MAX_BLOCK_NS = 8 * NS_PER_S
"""Blocks grow to this while spikes are few. A block costs about 4 us a unit and 0.1 us a spike,
and the stream waits for it: with 2,700 units and 9,400 spikes a second, 16 ms at 8 s and 24 ms
at 16 s, for a whole session in 21 s and 16 s."""

MAX_BLOCK_BATCHES = 10_000
"""Batches cut from one block: their edges are held in memory together."""

SEARCH_SPIKES = 512
"""First part of a train that is searched for a block's end: one page of a mapped file."""


RELEASE_UNITS = 256
"""Trains touched before mapped pages are given back. A touch maps up to 64 KiB around it, so that
thousands of trains would map the whole file and count as this process's memory."""


@dataclass(frozen=True, slots=True, eq=False)
class SpikeTrains:
    """The spike times of each unit, end to end in one array.

    Attributes
    ----------
    times : array, shape (n_values,), float64 seconds or int64 nanoseconds
        Sorted within each unit. May be a map of a file.
    start, stop : array, shape (n_units,), int64
        Each unit's part of `times`, half open, in the order of the population.
    pages : mmap or None
        The map behind `times`, whose pages are given back as the walk goes on.
    """

    times: NDArray[np.float64] | NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    pages: mmap.mmap | None = None

    @property
    def n_spikes(self) -> int:
        """Spikes of all units."""
        return int((self.stop - self.start).sum())

    def ends_ns(self) -> tuple[int, int] | None:
        """Return the first and the last spike, nanoseconds; None without spikes."""
        busy = self.stop > self.start
        if not busy.any():
            return None
        first = self.at(self.start[busy]).min()
        last = self.at(self.stop[busy] - 1).max()
        ends = self.to_ns(np.array([first, last]))
        return int(ends[0]), int(ends[1])

    def at(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Return the times at some places, far apart in the file."""
        values = np.empty(len(index), dtype=self.times.dtype)
        for first in range(0, len(index), RELEASE_UNITS):
            part = slice(first, first + RELEASE_UNITS)
            values[part] = self.times[index[part]]
            self.release()
        return values

    def to_ns(self, times: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return times as nanoseconds, whatever they are at rest."""
        if times.dtype == np.int64:
            return times.astype(np.int64, copy=False)
        return seconds_to_ns(times.astype(np.float64, copy=False))

    def positions(self, edge_ns: int, after: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the first spike at or after an edge in each train.

        `after` holds positions that are known to come before. Both index `times`, shape (n_units,).
        """
        edge = edge_ns if self.times.dtype == np.int64 else first_second_of(edge_ns)
        times = self.times
        found = np.empty(len(after), dtype=np.int64)
        for row, (position, stop) in enumerate(
            zip(after.tolist(), self.stop.tolist(), strict=True)
        ):
            found[row] = _search(times, edge, position, stop)
            if row % RELEASE_UNITS == 0:
                self.release()
        return found

    def block(
        self, start_ns: int, stop_ns: int, first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> SpikeBlock:
        """Take the spikes between two sets of positions, in order of time.

        Spikes at the same nanosecond stay in the order of the units.
        """
        times, units = self.taken(first, last)
        order = np.argsort(times, kind="stable")
        return SpikeBlock(start_ns, stop_ns, times[order], units[order])

    def taken(
        self, first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Take the spikes between two sets of positions, unit after unit.

        `first` and `last` index `times`, half open, shape (n_units,). Returns session nanoseconds,
        in order of time within each unit, and unit indices.
        """
        n_each = last - first
        together: NDArray[Any] = np.empty(int(n_each.sum()), dtype=self.times.dtype)
        filled = 0
        for row, (i, j) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            together[filled : filled + j - i] = self.times[i:j]
            filled += j - i
            if row % RELEASE_UNITS == 0:
                self.release()
        return self.to_ns(together), np.repeat(np.arange(len(first), dtype=np.uint32), n_each)

    def release(self) -> None:
        """Give mapped pages back to the system; they are read again when they are needed."""
        if self.pages is not None:
            self.pages.madvise(mmap.MADV_DONTNEED)


class TrainReader:
    """Takes intervals of the trains, each after the one before."""

    def __init__(self, trains: SpikeTrains) -> None:
        self._trains = trains
        self._position = trains.start
        self._until_ns: int | None = None

    def between(self, start_ns: int, stop_ns: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the spikes of an interval, unit after unit, as `SpikeTrains.taken` does.

        The interval is half open, session nanoseconds, and not before the end of the last one.

        Raises
        ------
        MisuseError
            If it goes back.
        """
        if self._until_ns is not None and start_ns < self._until_ns:
            raise MisuseError(f"spikes were read up to {self._until_ns} ns, asked from {start_ns}")
        first = self._trains.positions(start_ns, self._position)
        self._position = self._trains.positions(stop_ns, first)
        self._until_ns = stop_ns
        taken = self._trains.taken(first, self._position)
        self._trains.release()
        return taken


def walk_blocks(
    trains: SpikeTrains, *, start_ns: int, stop_ns: int, batch_ns: int
) -> Iterator[SpikeBlock]:
    """Walk through the trains in blocks of bounded size.

    Blocks come in order of time without holes. They end on multiples of `batch_ns`, counted from
    `start_ns`.

    Raises
    ------
    UserError
        If a single nanosecond holds more spikes than a batch may.
    """
    longest = min(MAX_BLOCK_NS, MAX_BLOCK_BATCHES * batch_ns)
    length = min(FIRST_BLOCK_NS, longest)
    position = trains.positions(start_ns, trains.start)
    now = start_ns
    while now < stop_ns:
        end = min(_block_end(now, length, start_ns, batch_ns), stop_ns)
        following = trains.positions(end, position)
        n_spikes = int((following - position).sum())
        if n_spikes > MAX_BLOCK_SPIKES and end - now > 1:
            length = (end - now) // 2
            continue
        if n_spikes > MAX_SPIKES:
            raise UserError(
                f"{n_spikes:,} spikes stand at {now} ns; a batch may hold {MAX_SPIKES:,}. "
                "Are the spike times in seconds?"
            )
        yield trains.block(now, end, position, following)
        trains.release()
        now, position = end, following
        if n_spikes < MAX_BLOCK_SPIKES // 4:
            length = min(2 * length, longest)
        if (now - start_ns) % batch_ns == 0:  # past a burst: whole batches again
            length = max(length, batch_ns)


def first_second_of(edge_ns: int) -> float:
    """Return the smallest float64 time in seconds that rounds to `edge_ns` or later.

    With it a train of seconds is cut exactly where the same train in nanoseconds would be.
    """
    low, high = (edge_ns - 2) / NS_PER_S, (edge_ns + 2) / NS_PER_S
    low, high = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    while True:  # low rounds to before the edge, high does not
        middle = (low + high) / 2
        if middle in {low, high}:
            return high
        if int(seconds_to_ns(np.array(middle))) < edge_ns:
            low = middle
        else:
            high = middle


def _block_end(now: int, length: int, origin: int, batch_ns: int) -> int:
    """Return the end of a block that starts at `now`: on the batch grid if it is long enough."""
    if length < batch_ns:
        next_edge = origin + ((now - origin) // batch_ns + 1) * batch_ns
        return min(now + length, next_edge)
    return origin + (now + length - origin) // batch_ns * batch_ns


def _search(
    times: NDArray[np.float64] | NDArray[np.int64], edge: float, position: int, stop: int
) -> int:
    """Search a train from a known position on, a little at first, so that few pages are read."""
    reach = SEARCH_SPIKES
    while position < stop:
        end = min(position + reach, stop)
        if times[end - 1] >= edge:
            return position + int(times[position:end].searchsorted(edge))
        position, reach = end, reach * 8
    return stop
