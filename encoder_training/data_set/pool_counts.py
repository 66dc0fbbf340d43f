"""Counts of several sessions on the timeline of one, a chunk of bins at a time.

A bin of the timeline lies at some distance from the start of its presentation, and what is read is
the bin that holds the same distance in the matching presentation: at most half a bin off, and never
more, as every presentation is measured from its own start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import whole_file
from contracts.binning import BinRate
from contracts.progress import ProgressBar
from encoder_training.data_set.counting import CHUNK_BYTES, CountedIntervals
from encoder_training.data_set.pool_join import Match
from encoder_training.data_set.prepared import PreparedSet, PresentationRows


@dataclass(frozen=True, slots=True, eq=False)
class TimelineBins:
    """The counted bins of the timeline, in the order of the rows of the counts."""

    rate: BinRate
    bins: NDArray[np.int64]  # (n_rows,): of the absolute grid
    row: NDArray[np.int64]  # (n_rows,): presentation that each belongs to, -1 if to none
    offset_ns: NDArray[np.int64]  # (n_rows,): of its middle from the start of that presentation

    @classmethod
    def of(cls, shown: PresentationRows, spans: CountedIntervals, rate: BinRate) -> TimelineBins:
        """Find the presentation of each bin; that of a blank is the first one after it."""
        bins = spans.bins_of(np.arange(spans.n_rows))
        middle_ns = (rate.starts_ns(bins) + rate.starts_ns(bins + 1)) // 2
        n_shown = len(shown.start_ns)
        before = np.searchsorted(shown.start_ns, middle_ns, side="right") - 1
        is_first = np.diff(shown.block, prepend=shown.block[:1] - 1) != 0
        lasts = np.append(np.flatnonzero(is_first)[1:], n_shown) - 1
        block_stop_ns = shown.stop_ns[lasts][np.cumsum(is_first) - 1]
        is_shown = (before >= 0) & (middle_ns < block_stop_ns[before])
        after = np.minimum(before + 1, n_shown - 1)
        blank_ns = shown.start_ns if shown.blank_from_ns is None else shown.blank_from_ns
        is_blank = ~is_shown & (middle_ns >= blank_ns[after]) & (middle_ns < shown.start_ns[after])
        row = np.where(is_shown, before, np.where(is_blank, after, -1))
        return cls(rate, bins, row, middle_ns - shown.start_ns[row])


@dataclass(frozen=True, slots=True, eq=False)
class PooledUnits:
    """The units of one session, and which repeat each of them is read from.

    Without exchange there is one match, of the same repeat. With exchange there is one for each
    repeat, and `order[unit, at]` says which one a unit takes where the timeline is at `case`.
    """

    prepared: PreparedSet
    matches: tuple[Match, ...]
    case: NDArray[np.int64]  # (n_shown,): repeat and kind of each presentation of the timeline
    order: NDArray[np.int64]  # (n_units, n_cases): which of the matches

    def source(
        self, bins: TimelineBins, match: Match
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return bins of this session's grid and rows of its counts; -1 for what it lacks."""
        of_bin = np.where(bins.row >= 0, match.row[bins.row], -1)
        start_ns = match.showings.shown.start_ns[of_bin]
        found = bins.rate.bin_of(start_ns + bins.offset_ns)
        rows = self.prepared.spans.rows_of(found)
        for first_ns, stop_ns in self.prepared.invalid_ns.tolist():
            first, last = bins.rate.bin_of(first_ns), bins.rate.bin_of(stop_ns - 1)
            rows[(found >= first) & (found <= last)] = -1
        rows[of_bin < 0] = -1
        return found, rows


def invalid_intervals(bins: TimelineBins, is_missing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the time of missing bins, shape (n, 2), session nanoseconds.

    Bins between blocks are in no window, whatever is in them.
    """
    missing = bins.bins[is_missing & (bins.row >= 0)]
    if not len(missing):
        return np.empty((0, 2), np.int64)
    edges = np.flatnonzero(np.diff(missing) != 1) + 1
    firsts = missing[np.concatenate(([0], edges))]
    stops = missing[np.append(edges, len(missing)) - 1] + 1
    return np.stack([bins.rate.starts_ns(firsts), bins.rate.starts_ns(stops)], axis=1)


def write_pooled_counts(
    path: Path,
    bins: TimelineBins,
    sessions: Sequence[PooledUnits],
    rows: Sequence[Sequence[NDArray[np.int64]]],
) -> None:
    """Write the counts of all units, a chunk of bins at a time; the file is whole or not there.

    `rows` holds, for each session and each of its matches, the row of its counts that each bin
    takes; bins without one get zeros, and must be invalid.
    """
    n_units = sum(len(session.order) for session in sessions)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": (len(bins.bins), n_units),
    }
    with (
        whole_file(path) as partial,
        partial.open("wb") as file,
        ProgressBar(total=len(bins.bins), desc="counts", unit="bin", unit_scale=True) as bar,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for some in _chunks(len(bins.bins), n_units):
            table = np.zeros((some.stop - some.start, n_units), np.uint8)
            first = 0
            for session, of_session in zip(sessions, rows, strict=True):
                own = table[:, first : first + len(session.order)]
                shown = bins.row[some]
                _fill(own, session, [of_match[some] for of_match in of_session], shown)
                first += len(session.order)
            table.tofile(file)
            bar.update(len(table))


def _fill(
    table: NDArray[np.uint8],
    session: PooledUnits,
    rows: Sequence[NDArray[np.int64]],
    shown: NDArray[np.int64],
) -> None:
    """Read one chunk of one session's counts, shape (n_bins, n_units)."""
    counts = session.prepared.counts
    case = np.where(shown >= 0, session.case[shown], -1)
    for each in np.unique(case[case >= 0]).tolist():
        taken = session.order[:, each]
        for at in np.unique(taken).tolist():
            here = np.flatnonzero((case == each) & (rows[at] >= 0))
            units = np.flatnonzero(taken == at)
            if len(units) == table.shape[1]:
                table[here] = counts[rows[at][here]]
            else:
                table[np.ix_(here, units)] = counts[np.ix_(rows[at][here], units)]


def _chunks(n_bins: int, n_units: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // n_units)
    for first in range(0, n_bins, size):
        yield slice(first, min(first + size, n_bins))
