"""The spike times of an NWB 2 units table, read or mapped, and checked.

``spike_times`` holds the trains end to end, ``spike_times_index`` where each one stops. A local,
contiguous, uncompressed column of float64 is mapped from the file that holds it, which need not be
the one that was opened. Anything else is read once: into memory if it is small, else into an
unnamed temporary file, which is then mapped.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, NS_PER_S
from contracts.errors import RecordingError, listed
from contracts.population import MAX_UNITS
from contracts.progress import ProgressBar
from stream_sources.recordings.nwb_columns import Column, open_column
from stream_sources.recordings.nwb_links import UnreadableError, is_local
from stream_sources.recordings.trains import SpikeTrains

IN_MEMORY_BYTES = 64 << 20
"""Spike times up to this size are kept in memory: 8 million spikes."""

PIECE_SPIKES = 1 << 20
"""Spikes read or checked at once, 8 MiB: larger pieces were no faster."""

READ_THROUGH_SPIKES = 1 << 17
"""Unwanted spikes read to save a request: 1 MiB takes less time than 30 ms on most lines."""

FLOAT64 = np.dtype("<f8")

N_COMPARED = 5
"""Values of a mapped column that are compared with what HDF5 reads."""


@dataclass(frozen=True, slots=True, eq=False)
class SpikeColumns:
    """The spikes of a units table.

    Attributes
    ----------
    bounds : array, shape (n_units + 1,), int64
        Unit ``k`` has ``times[bounds[k]:bounds[k + 1]]``.
    """

    times: Column
    bounds: NDArray[np.int64]


def read_index(units: h5py.Group, path: str) -> SpikeColumns:
    """Read where each unit's spikes start and stop.

    Raises
    ------
    RecordingError
        With every way in which the columns do not fit.
    """
    problems: list[str] = []
    times = _spike_column(units, "spike_times", problems)
    index = _spike_column(units, "spike_times_index", problems)
    if times is None or index is None:
        raise RecordingError(path, *problems)
    if times.kind not in "fiu" or index.kind not in "iu":
        raise RecordingError(
            path,
            "spike_times must be numbers in seconds and spike_times_index whole numbers, "
            f"got {times.data.dtype} and {index.data.dtype}",
        )
    problems = [f"{index.name} {hole.reason}" for hole in index.holes()[:1]]
    if len(index) > MAX_UNITS:
        problems.append(f"at most {MAX_UNITS:,} units can be sent, got {len(index):,}")
    if problems:
        raise RecordingError(path, *problems)
    stops = index.read().astype(np.int64)
    problems = _index_problems(units, stops, len(times))
    if problems:
        raise RecordingError(path, *problems)
    return SpikeColumns(times, np.concatenate([np.zeros(1, dtype=np.int64), stops]))


def load_trains(spikes: SpikeColumns, rows: NDArray[np.int64]) -> SpikeTrains:
    """Map or read the spikes of the chosen units.

    Parameters
    ----------
    rows : array, shape (n_chosen,), int64
        The chosen rows of the table.

    Returns
    -------
    trains : SpikeTrains
        In the order of `rows`. Not yet checked: see `train_problems`.

    Raises
    ------
    UnreadableError
        If the spikes of some of these units were never written or cannot be read.
    """
    times, bounds = spikes.times, spikes.bounds
    start, stop = bounds[rows], bounds[rows + 1]
    _check_written(times, start, stop)
    mapped = _mapped(times)
    if mapped is not None:
        return SpikeTrains(mapped[0], start, stop, mapped[1])
    return _copy_trains(times, start, stop)


def train_problems(trains: SpikeTrains, unit_ids: Sequence[str], fill: float) -> list[str]:
    """Check that every train is sorted, finite, within the session clock, and was written.

    Reads all spikes once, a piece at a time. `fill` is HDF5's value for unwritten data.
    """
    falling = _unsorted_units(trains)
    finite = {
        row
        for row in falling
        if np.isfinite(trains.times[trains.start[row] : trains.stop[row]]).all()
    }
    unsorted = [unit_ids[row] for row in sorted(finite)]
    unreal = [unit_ids[row] for row in sorted({*falling, *_units_out_of_clock(trains)} - finite)]
    filled = [unit_ids[row] for row in _filled_units(trains, fill)]
    problems = []
    if filled:
        problems.append(
            f"spike times must be written; {len(filled)} units begin with spikes at {fill:g} s, "
            f"the fill value of spike_times: unit_id {listed(filled)}. Write the file again."
        )
    if unsorted:
        problems.append(
            f"spike times must not decrease within a unit; they do in {len(unsorted)} units: "
            f"unit_id {listed(unsorted)}. Sort them and write the file again."
        )
    if unreal:
        n_years = int(MAX_SESSION_NS / NS_PER_S / 86400 / 365.25)
        problems.append(
            f"spike times must be finite numbers of seconds within {n_years} years; "
            f"they are not in {len(unreal)} units: unit_id {listed(unreal)}"
        )
    return problems


def _index_problems(units: h5py.Group, stops: NDArray[np.int64], n_spikes: int) -> list[str]:
    problems: list[str] = []
    try:
        ids = open_column(units, "id")
    except UnreadableError as error:
        ids = None
        problems.append(str(error))
    if ids is not None and len(ids) != len(stops):
        problems.append(
            f"spike_times_index must have one entry for each unit, got {len(stops)} entries and "
            f"{len(ids)} ids; was the file cut?"
        )
    if not len(stops):
        problems.append("the units table is empty")
        return problems
    falls = np.flatnonzero(np.diff(stops, prepend=0) < 0)
    if len(falls):
        problems.append(
            f"spike_times_index must not decrease; it does at {len(falls)} rows: "
            f"row {listed(falls.tolist())}"
        )
    if int(stops.max()) > n_spikes:
        beyond = int((stops > n_spikes).sum())
        problems.append(
            f"spike_times_index points past the end of spike_times: {beyond} entries, up to "
            f"{int(stops.max()):,}, and there are {n_spikes:,} spikes; was the file cut?"
        )
    return problems


def _spike_column(units: h5py.Group, name: str, problems: list[str]) -> Column | None:
    try:
        column = open_column(units, name)
    except UnreadableError as error:
        problems.append(str(error))
        return None
    if column is None:
        problems.append(f"the units table has no {name}; it holds no spikes to replay")
    return column


def _check_written(times: Column, start: NDArray[np.int64], stop: NDArray[np.int64]) -> None:
    """Refuse trains with spikes that were never written.

    Raises
    ------
    UnreadableError
        With the reason and the number of spikes.
    """
    for hole in times.holes():
        lost = np.clip(np.minimum(stop, hole.last) - np.maximum(start, hole.first), 0, None)
        if lost.any():
            raise UnreadableError(
                f"{times.name} {hole.reason}: {int(lost.sum()):,} spikes of "
                f"{int((lost > 0).sum())} units would be fill values. Write them, or restore what "
                "the file refers to."
            )


def _mapped(times: Column) -> tuple[NDArray[np.float64], mmap.mmap] | None:
    """Map a column of little-endian float64 that is contiguous in a local file; None for others.

    The offset counts in the file that holds the data set, which a link may lead to. In case it is
    wrong nevertheless, as with a driver that splits the file, some values are compared with what
    HDF5 reads.
    """
    data = times.data
    offset = data.id.get_offset()  # None for chunked, compact and virtual data
    is_flat = data.dtype == FLOAT64 and offset is not None and not data.external
    if not is_flat or not len(times) or not is_local(data.file):
        return None
    with Path(os.fsdecode(data.file.filename)).open("rb") as file:
        if offset + data.nbytes > os.fstat(file.fileno()).st_size:
            return None
        mapped, pages = _map_times(file, offset, len(times))
    for place in np.linspace(0, len(times) - 1, N_COMPARED).astype(np.int64).tolist():
        if mapped[place : place + 1].tobytes() != times.read(place, place + 1).tobytes():
            return None
    return mapped, pages


def _map_times(file: BinaryIO, offset: int, n_values: int) -> tuple[NDArray[np.float64], mmap.mmap]:
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, FLOAT64, n_values, offset), pages


def _copy_trains(column: Column, start: NDArray[np.int64], stop: NDArray[np.int64]) -> SpikeTrains:
    """Read the trains once, in the order of the file, so that reads follow each other."""
    order = _file_order(start, stop)
    n_each = (stop - start)[order]
    new_stop = np.empty_like(stop)
    new_stop[order] = np.cumsum(n_each)
    new_start = new_stop - (stop - start)
    n_values = int(n_each.sum())
    pieces = _pieces(column, start[order].tolist(), stop[order].tolist())
    bar = ProgressBar(
        total=n_values, desc="reading spikes", unit="spike", unit_scale=True, delay_s=2
    )
    with bar:
        if n_values * FLOAT64.itemsize <= IN_MEMORY_BYTES:
            return SpikeTrains(_to_memory(pieces, n_values, bar), new_start, new_stop)
        times, pages = _to_spool(pieces, n_values, bar)
        return SpikeTrains(times, new_start, new_stop, pages)


def _pieces(
    column: Column, starts: Sequence[int], stops: Sequence[int]
) -> Iterator[NDArray[np.float64]]:
    """Read the trains in the order of the file, in pieces of bounded size.

    What lies between two trains is read and left out if it is short.
    """
    for start, stop in _joined(starts, stops, READ_THROUGH_SPIKES):
        for first in range(start, stop, PIECE_SPIKES):
            last = min(first + PIECE_SPIKES, stop)
            piece = column.read(first, last).astype(np.float64)
            begin, end = bisect_right(stops, first), bisect_left(starts, last)
            for i, j in zip(starts[begin:end], stops[begin:end], strict=True):
                yield piece[max(i - first, 0) : j - first]


def _joined(starts: Sequence[int], stops: Sequence[int], gap: int = 0) -> Iterator[tuple[int, int]]:
    """Join ranges with no more than a gap between them."""
    first, last = starts[0], stops[0]
    for start, stop in zip(starts[1:], stops[1:], strict=True):
        if start - last > gap:
            yield first, last
            first = start
        last = stop
    yield first, last


def _to_memory(
    pieces: Iterator[NDArray[np.float64]], n_values: int, bar: ProgressBar
) -> NDArray[np.float64]:
    times = np.empty(n_values, dtype=np.float64)
    filled = 0
    for piece in pieces:
        times[filled : filled + len(piece)] = piece
        filled += len(piece)
        bar.update(len(piece))
    return times


def _to_spool(
    pieces: Iterator[NDArray[np.float64]], n_values: int, bar: ProgressBar
) -> tuple[NDArray[np.float64], mmap.mmap]:
    try:
        with tempfile.TemporaryFile(prefix="neurrate-spikes-") as file:
            for piece in pieces:
                piece.astype(FLOAT64, copy=False).tofile(file)
                bar.update(len(piece))
            file.flush()
            return _map_times(file, 0, n_values)
    except OSError as error:  # not of the recording: `pieces` raises UnreadableError
        raise UnreadableError(
            f"{n_values * FLOAT64.itemsize:,} bytes of spikes cannot be kept in the folder for "
            f"temporary files: {error.strerror or error}. Set TMPDIR to one with more room."
        ) from error


def _unsorted_units(trains: SpikeTrains) -> list[int]:
    """Return the trains in which some time is not at or after the one before; NaN never is."""
    order = _file_order(trains.start, trains.stop)
    start, stop = trains.start[order], trains.stop[order]
    rows: set[int] = set()
    for fall in _falls(trains, start.tolist(), stop.tolist()):
        place = np.searchsorted(start, fall, side="right") - 1
        inside = (fall > start[place]) & (fall < stop[place])  # not a joint between two trains
        rows.update(order[place[inside]].tolist())
    return sorted(rows)


def _falls(
    trains: SpikeTrains, starts: Sequence[int], stops: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Yield where a time is not at or after the one before, joints between trains included."""
    for first, last in _joined(starts, stops):
        for begin in range(first, last, PIECE_SPIKES):
            piece = trains.times[begin : min(begin + PIECE_SPIKES + 1, last)]
            yield np.flatnonzero(~(piece[1:] >= piece[:-1])) + begin + 1
            trains.release()


def _file_order(start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the trains in the order of the file, an empty one before its neighbour."""
    return np.lexsort((stop, start)).astype(np.int64)


def _units_out_of_clock(trains: SpikeTrains) -> list[int]:
    """Return the trains with times outside the session clock; they are sorted, so the ends tell."""
    busy = np.flatnonzero(trains.stop > trains.start)
    limit_s = MAX_SESSION_NS / NS_PER_S
    first, last = trains.at(trains.start[busy]), trains.at(trains.stop[busy] - 1)
    within = (np.abs(first) < limit_s) & (np.abs(last) < limit_s)  # False for NaN and infinity
    rows: list[int] = busy[~within].tolist()
    return rows


def _filled_units(trains: SpikeTrains, fill: float) -> list[int]:
    """Return the trains whose first two times are the fill value.

    HDF5 does not record which part of a contiguous data set was written; no neuron fires twice at
    one time.
    """
    several = np.flatnonzero(trains.stop - trains.start > 1)
    first = trains.start[several]
    same = (trains.at(first) == fill) & (trains.at(first + 1) == fill)
    rows: list[int] = several[same].tolist()
    return rows
