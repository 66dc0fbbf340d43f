"""Spikes to counts, for intervals of a recording of any length.

Spikes come in chunks of time, unit after unit, and each adds one at its row and unit: nothing
is sorted, and no table is larger than one chunk. What bounds it is the memory: 8 bytes of each
spike are read, and a byte for each bin and unit is written twice, cleared and copied out. The
arithmetic is that of `contracts.binning`, so that the counts are those of serving, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import whole_file
from contracts.binning import BinRate
from contracts.errors import MisuseError, UserError
from contracts.progress import ProgressBar

SpikesBetween = Callable[[int, int], tuple[NDArray[np.int64], NDArray[np.integer]]]
"""Called with the start and the stop of chunks, half open, session nanoseconds, each after the
one before. Returns the times of the spikes within, nanoseconds, in any order, and their units."""

CHUNK_BYTES = 24 << 20
"""Counts of one chunk: small enough to stay in a large cache while spikes are added to it."""

MOST = int(np.iinfo(np.uint8).max)


@dataclass(frozen=True, slots=True, eq=False)
class CountedIntervals:
    """The intervals of the absolute grid that are counted; their rows follow each other."""

    # (n_spans,): half open, in order, without overlap
    first_bin: NDArray[np.int64]
    stop_bin: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """Bins in all."""
        return int((self.stop_bin - self.first_bin).sum())

    def rows_of(self, bins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of the counts that hold bins of the absolute grid.

        `bins` and the rows are int64 of shape (n,); -1 for a bin that is not counted.
        """
        span = np.searchsorted(self.first_bin, bins, side="right") - 1
        is_in = (span >= 0) & (bins < self.stop_bin[span])
        before = np.cumsum(self.stop_bin - self.first_bin) - (self.stop_bin - self.first_bin)
        return np.where(is_in, before[span] + bins - self.first_bin[span], -1).astype(np.int64)

    def bins_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bins of the absolute grid that rows of the counts hold, int64, shape (n,)."""
        lengths = self.stop_bin - self.first_bin
        before = np.cumsum(lengths) - lengths
        span = np.searchsorted(before, rows, side="right") - 1
        bins: NDArray[np.int64] = self.first_bin[span] + rows - before[span]
        return bins


def write_counts(
    path: Path,
    spikes_between: SpikesBetween,
    spans: CountedIntervals,
    *,
    n_units: int,
    rate: BinRate,
) -> None:
    """Count the spikes of each unit in each bin of the spans, into a file: whole or not there.

    ``counts.npy`` is uint8 of shape (n_rows, n_units), the rows of the spans end to end.

    Raises
    ------
    UserError
        If a unit fires more than 255 spikes in one bin.
    MisuseError
        If there are other units or other times than requested.
    """
    with (
        whole_file(path) as partial,
        partial.open("wb") as file,
        ProgressBar(total=spans.n_rows, desc="counts", unit="bin", unit_scale=True) as bar,
    ):
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
            "fortran_order": False,
            "shape": (spans.n_rows, n_units),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for counts in count_spans(spikes_between, spans, n_units=n_units, rate=rate):
            counts.tofile(file)
            bar.update(len(counts))


def count_spans(
    spikes_between: SpikesBetween, spans: CountedIntervals, *, n_units: int, rate: BinRate
) -> Iterator[NDArray[np.uint8]]:
    """Count the spikes of each unit in each bin of the spans, a chunk at a time.

    Yields uint8 of shape (n_bins, n_units), spikes per bin, valid until the next one is
    requested.
    """
    n_chunk = max(1, CHUNK_BYTES // n_units)
    table = np.empty((n_chunk, n_units), dtype=np.uint8)
    for span_first, span_stop in zip(
        spans.first_bin.tolist(), spans.stop_bin.tolist(), strict=True
    ):
        for first in range(span_first, span_stop, n_chunk):
            stop = min(first + n_chunk, span_stop)
            counts = table[: stop - first]
            counts[:] = 0
            session_ns, unit_index = spikes_between(rate.start_ns(first), rate.start_ns(stop))
            add_spikes(counts, session_ns, unit_index, first_bin=first, rate=rate)
            yield counts


def count_bins(
    spike_ns: NDArray[np.int64],
    unit_index: NDArray[np.integer],
    *,
    n_units: int,
    rate: BinRate,
    n_bins: int,
) -> NDArray[np.uint8]:
    """Count a whole recording in memory, as serving does.

    `spike_ns` is int64 on the session clock, and need not be sorted. Returns uint8 of shape
    (n_bins, n_units). Spikes before zero and after the last bin are ignored.

    Raises
    ------
    UserError
        If a unit fires more than 255 spikes in one bin.
    """
    counts = np.zeros((n_bins, n_units), dtype=np.uint8)
    is_in = (spike_ns >= 0) & (spike_ns < rate.start_ns(n_bins))
    add_spikes(counts, spike_ns[is_in], unit_index[is_in], first_bin=0, rate=rate)
    return counts


def add_spikes(
    counts: NDArray[np.uint8],
    session_ns: NDArray[np.int64],
    unit_index: NDArray[np.integer],
    *,
    first_bin: int,
    rate: BinRate,
) -> None:
    """Count spikes into an empty table.

    Parameters
    ----------
    counts : array, shape (n_bins, n_units), uint8, spikes per bin
        All zero, without holes in memory; changed in place.
    session_ns : array, shape (n_spikes,), int64, nanoseconds
        In any order, all within the table.

    Raises
    ------
    UserError
        If a unit fires more than 255 spikes in one bin.
    MisuseError
        If a spike is outside the table.
    """
    if not len(session_ns):
        return
    n_bins, n_units = counts.shape
    row = rate.bin_of(session_ns)
    row -= first_bin
    if int(row.min()) < 0 or int(row.max()) >= n_bins:
        raise MisuseError(
            f"spikes must be in bins 0 to {n_bins - 1}, got {row.min()} to {row.max()}"
        )
    if int(unit_index.min()) < 0 or int(unit_index.max()) >= n_units:
        raise MisuseError(
            f"unit_index must be from 0 to {n_units - 1}, "
            f"got {int(unit_index.min())} to {int(unit_index.max())}"
        )
    row *= n_units
    row += unit_index.astype(np.int64, copy=False)
    np.add.at(counts.reshape(-1), row, np.uint8(1))
    # A count that passes 255 starts again at 0, and the sum falls short by 256.
    if int(counts.sum(dtype=np.int64)) != len(row):
        most = int(np.unique(row, return_counts=True)[1].max())
        raise UserError(
            f"a unit may fire {MOST} spikes in a bin of {1 / rate.bins_per_s:.3g} s at most, "
            f"got {most}. Use narrower bins, or leave out what is not a unit."
        )
