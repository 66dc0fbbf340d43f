"""The ring of bins: a spike gets its bin here, once. No socket, no clock.

Theory of operation
-------------------
The ring keeps the newest `capacity_bins` bins of the absolute grid, one row of uint16 counts a
bin. Bin ``b`` lives in row ``b % capacity_bins``; nothing is ever shifted. Below the ring are
``window_bins - 1`` spare rows: a window that runs past the last row has its tail copied there
when it is cut, so that every window is one contiguous view.

A batch's span is noted when it is added; its spikes are binned together with those of the batches
after it, before the counts are read (`_bin_added`). A window completes every few batches, and a
call of numpy takes as long as some hundred spikes.

Several streams (probes) fill the same rows, each with its own units. Each says which span it has
covered, so that silence (covered, no spikes) and loss (not covered) differ. The *watermark*
``complete_until`` is the bin up to which every live stream has covered the grid: a window below
it is complete. A stream is not live, and not waited for, while it is

* blind: silent for too long, or set aside because its time does not agree with the others'. Only
  the caller can tell (`set_blind`);
* ended: it has said so (`end_stream`).

A stream that comes back behind the watermark is waited for: what it sends is late until it has
caught up, and no window is cut meanwhile. The ring takes the times that it is given;
`daemon.stream_clocks` keeps those away that cannot be right, and says when the session begins
anew (`begin_session`): the ring is cleared and its generation is incremented.

Invariants (``tests/daemon/test_bin_ring.py`` and ``test_split_invariance.py``):

1. Any cutting of a session into batches, and any interleaving of streams, gives the counts
   of `contracts.binning.bin_spikes`: ``test_streamed_windows_equal_offline_windows``
2. Below the watermark nothing changes: ``test_late_spike_is_counted_and_not_binned``
3. The watermark never goes back, but for a new session: ``test_watermark_never_goes_back``
4. A stream that runs ahead by more than the capacity pushes the oldest bins out, and every
   bin lost that way is counted: ``test_overrun_is_counted``. It should wait before that:
   ``test_stream_that_is_far_ahead_should_wait``
5. A bin that a live stream did not cover is marked: ``test_gap_marks_its_bins``
6. A live stream behind the watermark is waited for: ``test_stream_behind_the_watermark_catches_up``
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.errors import MisuseError
from contracts.spikes import SpikeBatch

MAX_STREAMS = 64
"""Streams of one ring: one bit each in the coverage word of a bin."""

ONE = np.uint16(1)


MAX_ADDED = 1 << 13
"""Spikes that wait to be binned; for so many a call of numpy takes no time."""


@dataclass(slots=True)
class AddReport:
    """What became of some batches: bad data are counted, not raised."""

    n_binned: int = 0  # spikes that got their bin
    n_late: int = 0  # spikes below the watermark: dropped
    n_unknown: int = 0  # spikes of units outside the population: dropped
    n_overrun_bins: int = 0  # pushed out before every stream had covered them


@dataclass(slots=True)
class _Coverage:
    """What one stream has covered.

    `contiguous_from_ns` to `stop_ns`, session clock, is the span of its newest batches without a
    gap between them.
    """

    bit: int  # its bit in `BinRing._uncovered`
    contiguous_from_ns: int = 0
    stop_ns: int = 0
    first_bin: int = 0  # the first that it covers whole
    covered_until: int = 0  # the bin below which it has covered what it ever will
    has_begun: bool = False
    is_blind: bool = False
    has_ended: bool = False


class BinRing:
    """Counts of the newest bins, for all streams together.

    `capacity_bins` should hold a window, the longest batch, and the longest time that one stream
    may lag behind another; `window_bins` is the longest window that will be cut.

    It holds the bins ``[oldest_bin, head_bin)``. `begin_bin` is the first that every stream
    covered, None until the first bin is complete; `complete_until` is the watermark. `generation`
    counts session restarts, so that a cutter knows when to begin again.
    """

    def __init__(
        self, rate: BinRate, n_units: int, *, capacity_bins: int, window_bins: int
    ) -> None:
        if not 1 <= window_bins <= capacity_bins:
            raise MisuseError(
                f"the ring must hold at least one window of {window_bins} bins, got {capacity_bins}"
            )
        self.rate = rate
        self.n_units = n_units
        self.capacity_bins = capacity_bins
        self.capacity_ns = rate.start_ns(capacity_bins)
        self._counts = np.zeros((capacity_bins + window_bins - 1, n_units), dtype=np.uint16)
        # One index for bin and unit: `np.add.at` is several times faster on one axis than on two.
        self._flat = self._counts.reshape(-1)
        # A bit is set until the stream with that bit has covered the bin of its row.
        self._uncovered = [0] * capacity_bins
        self._all_bits = 0
        self._streams: dict[str, _Coverage] = {}
        # Batches whose spikes have no bin yet, none of them late, and the first bin of all.
        self._added: list[SpikeBatch] = []
        self._n_added = 0  # spikes of these
        self._added_from = 0
        self._report = AddReport()
        self._is_held = False
        self.generation = 0
        self._forget()

    def _forget(self) -> None:
        self.oldest_bin = 0
        self.head_bin = 0
        self.begin_bin: int | None = None
        self.complete_until = 0
        self._first_bin = 0
        self._is_empty = True
        self._counts[:] = 0
        self._uncovered = [self._all_bits] * self.capacity_bins

    def add_stream(self, name: str) -> None:
        """Expect a stream, or a new run of it: from now on the watermark waits for it.

        Raises
        ------
        MisuseError
            If there are 64 streams already.
        """
        if known := self._streams.get(name):
            known.has_begun = known.is_blind = known.has_ended = False
            return
        if len(self._streams) == MAX_STREAMS:
            raise MisuseError(f"a ring takes {MAX_STREAMS} streams, {name!r} is one too many")
        coverage = _Coverage(bit=1 << len(self._streams))
        self._streams[name] = coverage
        self._all_bits |= coverage.bit
        # Also in the bins that are there already: those before its first batch will be its gaps.
        self._uncovered = [bits | coverage.bit for bits in self._uncovered]

    def hold(self, *, is_held: bool) -> None:
        """Let nothing become complete while streams are still expected that have no name yet."""
        self._is_held = is_held
        self._advance_watermark()

    def set_blind(self, name: str, *, is_blind: bool) -> None:
        """Stop waiting for a silent stream, or wait for it again."""
        self._streams[name].is_blind = is_blind
        self._advance_watermark()

    def end_stream(self, name: str) -> None:
        """Stop waiting for a stream that has ended."""
        self._streams[name].has_ended = True
        self._advance_watermark()

    def is_ahead(self, name: str) -> bool:
        """Whether a stream should wait for the others: it has filled half of the ring."""
        stream = self._streams.get(name)
        if stream is None or not stream.has_begun:
            return False
        lead = stream.covered_until - max(self.complete_until, self._first_bin)
        return self._is_live(stream) and lead > self.capacity_bins // 2

    def behind_ns(self, name: str) -> int:
        """Return how far a live stream is behind the watermark; until then its spikes are late."""
        stream = self._streams[name]
        if not (stream.has_begun and self._is_live(stream)):
            return 0
        return max(0, self.complete_until_ns - stream.stop_ns)

    def covered_until_ns(self, name: str) -> int:
        """Return the end of what a stream has covered, session nanoseconds."""
        return self._streams[name].stop_ns

    @property
    def complete_until_ns(self) -> int:
        """The watermark as a time, session nanoseconds."""
        return self.rate.start_ns(self.complete_until)

    @property
    def blind_streams(self) -> tuple[str, ...]:
        """Streams that are no longer waited for."""
        return tuple(name for name, stream in self._streams.items() if not self._is_live(stream))

    def add(self, batch: SpikeBatch) -> None:
        """Take a batch: its span now, its spikes before the next counts are read.

        Called on the fast loop for every message; does not block. ``unit_index`` is a row of the
        encoder's population here, not of the stream's.
        """
        if batch.stream not in self._streams:
            self.add_stream(batch.stream)
        stream = self._streams[batch.stream]
        stream.is_blind = False  # it sends again
        # The order matters: new rows must be zero before they are counted into, and spikes are late
        # by the watermark before this batch, not after it.
        first = self.rate.bin_of(batch.start_ns)
        # The batch's span is half open, so its last spike is at most at stop_ns - 1.
        self._reach(first, self.rate.bin_of(batch.stop_ns - 1) + 1)
        if batch.n_spikes:
            self._take_spikes(batch, first)
        self._cover(stream, batch, first)
        self._advance_watermark()

    def take_report(self) -> AddReport:
        """Bin what was added, and return what became of all batches since the last call."""
        self._bin_added()
        report, self._report = self._report, AddReport()
        return report

    def begin_session(self, names: Collection[str]) -> None:
        """Forget the session, and wait for the first batches of these streams in a new one."""
        self._bin_added()
        self._forget()
        self.generation += 1
        for name, stream in self._streams.items():
            if name in names:
                stream.has_begun = stream.is_blind = stream.has_ended = False
            elif stream.has_begun:
                stream.has_begun, stream.is_blind = False, True

    def _reach(self, first: int, stop: int) -> None:
        """Make room up to bin `stop`; count the incomplete bins that are pushed out."""
        if self._is_empty:
            # The ring begins a whole capacity before the first batch, with rows that are empty
            # already: another stream whose first batch is earlier finds its bins there.
            self.head_bin = self._first_bin = first
            self.oldest_bin = self.complete_until = first - self.capacity_bins
            self._is_empty = False
        self._first_bin = min(self._first_bin, first)
        if stop <= self.head_bin:
            return
        if self._added and stop - self.capacity_bins > self._added_from:
            self._bin_added()  # while their rows are theirs
        new = range(max(self.head_bin, stop - self.capacity_bins), stop)
        for rows in self._rows(new.start, stop):
            self._counts[rows] = 0
        for new_bin in new:
            self._uncovered[new_bin % self.capacity_bins] = self._all_bits
        old_head, self.head_bin = self.head_bin, stop
        self.oldest_bin = max(self.oldest_bin, stop - self.capacity_bins)
        # Lost are the bins that some stream had filled and no window had yet: below the first
        # batch there was nothing to lose, and neither beyond the old head, where a jump skips.
        incomplete_from = max(self.complete_until, self._first_bin)
        self._report.n_overrun_bins += max(0, min(self.oldest_bin, old_head) - incomplete_from)
        # What is gone can no longer become complete; the cutter skips it and counts the windows.
        self.complete_until = max(self.complete_until, self.oldest_bin)

    def _take_spikes(self, batch: SpikeBatch, first: int) -> None:
        """Keep a batch's spikes until they are binned; those of a late batch are binned now."""
        if first < self.complete_until:
            # A window with this bin may have been narrated already. Counting the spike now would
            # make what is in the ring differ from what was encoded.
            self._bin(batch.spike_time_ns, batch.unit_index, first, late_before=self.complete_until)
            return
        self._added_from = min(self._added_from, first) if self._added else first
        self._added.append(batch)
        self._n_added += batch.n_spikes
        if self._n_added > MAX_ADDED:
            self._bin_added()

    def _bin_added(self) -> None:
        if not self._added:
            return
        added, self._added, self._n_added = self._added, [], 0
        if len(added) == 1:
            times, units = added[0].spike_time_ns, added[0].unit_index
        else:
            times = np.concatenate([batch.spike_time_ns for batch in added])
            units = np.concatenate([batch.unit_index for batch in added])
        self._bin(times, units, self._added_from)

    def _bin(
        self,
        times: NDArray[np.int64],
        unit_index: NDArray[np.uint32],
        first: int,
        *,
        late_before: int | None = None,
    ) -> None:
        """Add spikes from bin `first` on to their rows.

        The inner loop of the daemon: every array is walked once, and in place where it can be.
        """
        # The usual batches have neither foreign units nor late spikes: no copy.
        if int(unit_index.max()) >= self.n_units:
            known = unit_index < self.n_units
            self._report.n_unknown += len(times) - int(np.count_nonzero(known))
            times, unit_index = times[known], unit_index[known]
        bins = self.rate.bins_from(times, first, self.head_bin - first)
        if late_before is not None:
            in_time = bins >= late_before
            self._report.n_late += len(times) - int(np.count_nonzero(in_time))
            bins, unit_index = bins[in_time], unit_index[in_time]
        first_row = first % self.capacity_bins
        if first_row + self.head_bin - first <= self.capacity_bins:
            bins -= first - first_row  # the usual case: no row wraps, and no division is needed
        else:
            bins %= self.capacity_bins
        bins *= self.n_units
        bins += unit_index
        np.add.at(self._flat, bins, ONE)
        self._report.n_binned += len(bins)

    def _cover(self, stream: _Coverage, batch: SpikeBatch, first: int) -> None:
        """Mark the bins that this batch completes as covered by its stream.

        A bin is covered once all of its time is: several short batches may cover it together, so
        the span without a gap is remembered from batch to batch.
        """
        if not stream.has_begun:
            stream.has_begun = True
            # A session that begins inside a bin never covers that bin whole. It counts as covered,
            # so that the watermark can move, but no window may begin before the next one.
            stream.first_bin = self.rate.first_bin_at_or_after(batch.start_ns)
            stream.covered_until = first
            stream.contiguous_from_ns = batch.start_ns
            stream.stop_ns = batch.start_ns
        elif not stream.contiguous_from_ns <= batch.start_ns <= stream.stop_ns:
            stream.contiguous_from_ns = batch.start_ns
        stream.stop_ns = max(stream.stop_ns, batch.stop_ns)
        stop = self.rate.bin_of(batch.stop_ns)
        if stop == first and stop <= stream.covered_until:
            return  # it lies within one bin, as batches of a millisecond do, and completes none
        if stream.contiguous_from_ns > self.rate.start_ns(first):
            first += 1  # its beginning was lost with the batch before: the bin stays uncovered
        for covered in range(max(first, self.oldest_bin), stop):
            self._uncovered[covered % self.capacity_bins] &= ~stream.bit
        stream.covered_until = max(stream.covered_until, stop)

    @staticmethod
    def _is_live(stream: _Coverage) -> bool:
        """Whether a stream is waited for."""
        return not (stream.is_blind or stream.has_ended)

    def _advance_watermark(self) -> None:
        if self._is_held or self._is_empty:
            return
        waited_for = [stream for stream in self._streams.values() if self._is_live(stream)]
        covered_until = min
        if not waited_for:
            # With nobody left to wait for, what has arrived is complete up to where the furthest
            # came.
            waited_for = [stream for stream in self._streams.values() if stream.has_begun]
            covered_until = max
        if not (waited_for and all(stream.has_begun for stream in waited_for)):
            return
        if self.begin_bin is None:
            self.begin_bin = max(stream.first_bin for stream in waited_for)
        watermark = covered_until([stream.covered_until for stream in waited_for])
        self.complete_until = max(self.complete_until, watermark)

    def counts(self, first_bin: int, n_bins: int) -> NDArray[np.uint16]:
        """Return the counts of at most ``window_bins`` consecutive bins without copying them.

        Returns
        -------
        counts : array, shape (n_bins, n_units), uint16
            A read-only, contiguous view. Good until the ring has moved on by its capacity less
            one window.
        """
        self._bin_added()
        self._check_held(first_bin, n_bins)
        row = first_bin % self.capacity_bins
        n_wrapped = row + n_bins - self.capacity_bins
        if n_wrapped > 0:
            self._counts[self.capacity_bins : self.capacity_bins + n_wrapped] = self._counts[
                :n_wrapped
            ]
        view = self._counts[row : row + n_bins]
        view.flags.writeable = False  # the view alone; the ring keeps writing to its rows
        return view

    def gaps(self, first_bin: int, n_bins: int) -> tuple[int, bool]:
        """Return how many bins a live stream did not cover, and whether none covered any of them.

        Where no stream is live any more, every stream counts as live.
        """
        self._check_held(first_bin, n_bins)
        streams = self._streams.values()
        counted = [s for s in streams if self._is_live(s)] or [s for s in streams if s.has_begun]
        live = sum(stream.bit for stream in counted)
        capacity = self.capacity_bins
        missed = [
            self._uncovered[b % capacity] & live for b in range(first_bin, first_bin + n_bins)
        ]
        n_gap_bins = n_bins - missed.count(0)
        return n_gap_bins, n_gap_bins == n_bins and missed.count(live) == n_bins

    def _check_held(self, first_bin: int, n_bins: int) -> None:
        n_spare = len(self._counts) - self.capacity_bins
        if not (
            self.oldest_bin <= first_bin
            and first_bin + n_bins <= self.head_bin
            and 1 <= n_bins <= n_spare + 1
        ):
            raise MisuseError(
                f"bins [{first_bin}, {first_bin + n_bins}) are not in the ring, which holds "
                f"[{self.oldest_bin}, {self.head_bin}) and windows of up to {n_spare + 1} bins"
            )

    def _rows(self, start: int, stop: int) -> list[slice]:
        """Return the rows of bins [start, stop): one slice, or two where they wrap."""
        if stop <= start:
            return []
        row, n = start % self.capacity_bins, stop - start
        if row + n <= self.capacity_bins:
            return [slice(row, row + n)]
        return [slice(row, self.capacity_bins), slice(0, row + n - self.capacity_bins)]
