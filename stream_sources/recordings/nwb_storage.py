"""The parts of a data set that were never written, or whose storage is gone.

HDF5 silently reads fill values from data sets that were allocated and never written, from missing
chunks, from virtual data sets whose sources are gone, and past the end of external files that are
too short. Here these parts are found before their values are used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from stream_sources.recordings.nwb_links import UnreadableError, follow, is_local, library_text

MAX_NESTED = 8
"""Levels of virtual data sets that refer to virtual data sets."""

NEVER_WRITTEN = "was allocated and never written"

ORIGIN = "${ORIGIN}"
"""The folder of the HDF5 file, in prefixes (H5Pset_efile_prefix)."""


class Hole(NamedTuple):
    """Rows that hold no data: `first` to before `last` along the long axis."""

    first: int
    last: int
    reason: str

    def meets(self, first: int, last: int) -> bool:
        """Return whether it shares rows with a half-open range."""
        return self.first < last and first < self.last


def long_axis(shape: Sequence[int]) -> int:
    """Return the axis along which a column runs: the first that is longer than one."""
    return next((axis for axis, length in enumerate(shape) if length > 1), 0)


def holes(data: h5py.Dataset, depth: int = 0) -> list[Hole]:
    """Find the rows that hold no data, in order.

    Reads the allocation of the data set and of the sources of a virtual one, but no values.
    """
    if not data.size:
        return []
    if data.is_virtual:
        return _virtual_holes(data, depth)
    if data.external:
        return _external_holes(data)
    if data.chunks is not None:
        return _chunk_holes(data)
    n_rows = data.shape[long_axis(data.shape)] if data.shape else 1
    if data.id.get_space_status() == h5py.h5d.SPACE_STATUS_NOT_ALLOCATED:
        return [Hole(0, n_rows, NEVER_WRITTEN)]
    return []


def _chunk_holes(data: h5py.Dataset) -> list[Hole]:
    axis = long_axis(data.shape)
    rows_each = data.chunks[axis]
    n_along = [-(-n // size) for n, size in zip(data.shape, data.chunks, strict=True)]
    n_chunks = math.prod(n_along)
    n_written = data.id.get_num_chunks()
    if n_written == n_chunks:
        return []
    if not n_written:
        return [Hole(0, data.shape[axis], NEVER_WRITTEN)]
    found = np.zeros(n_along[axis], dtype=np.int64)

    def count(chunk: h5py.h5d.StoreInfo) -> None:
        place = chunk.chunk_offset[axis] // rows_each
        if place < len(found):
            found[place] += 1

    data.id.chunk_iter(count)
    short = np.flatnonzero(found < n_chunks // n_along[axis])
    reason = f"was never written in {n_chunks - n_written} of its {n_chunks} chunks"
    runs = np.split(short, np.flatnonzero(np.diff(short) > 1) + 1)
    return [
        Hole(int(run[0]) * rows_each, min((int(run[-1]) + 1) * rows_each, data.shape[axis]), reason)
        for run in runs
        if len(run)
    ]


def _external_holes(data: h5py.Dataset) -> list[Hole]:
    axis = long_axis(data.shape)
    n_rows = data.shape[axis]
    if not is_local(data.file):
        return [Hole(0, n_rows, "is kept in another file, which cannot be read over http(s)")]
    row_bytes = data.nbytes // n_rows
    position, found = 0, []
    for name, offset, n_bytes in data.external:
        n_here = min(n_bytes, data.nbytes - position)
        here, problem = _external_bytes(data.file, os.fsdecode(name), offset)
        if here < n_here:
            first = (position + max(here, 0)) // row_bytes
            last = -(-(position + n_here) // row_bytes)
            found.append(Hole(first, last, f"is kept in {os.fsdecode(name)}, which {problem}"))
        position += n_here
    if position < data.nbytes:
        found.append(
            Hole(position // row_bytes, n_rows, "is kept in files that are too short in all")
        )
    return found


def _external_bytes(file: h5py.File, name: str, offset: int) -> tuple[int, str]:
    """Return how many bytes an external raw file has from an offset, and what to report if too few.

    HDF5 looks for it in the folder that ``HDF5_EXTFILE_PREFIX`` names, by default the working
    folder. Where there is no usable file the number is -1.
    """
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace(ORIGIN, str(_folder(file)))
    path, beside = Path(prefix) / name, _folder(file) / name
    if not path.is_file():
        if beside.is_file():
            return -1, (
                "HDF5 looks for in the working folder; it is beside the recording. Set "
                f"HDF5_EXTFILE_PREFIX='{ORIGIN}' in the environment."
            )
        return -1, "is not there"
    if beside.is_file() and not beside.samefile(path):
        return -1, (
            "is both in the working folder and beside the recording. Set "
            f"HDF5_EXTFILE_PREFIX='{ORIGIN}' in the environment for the latter."
        )
    if not os.access(path, os.R_OK):
        return -1, "may not be read"
    return path.stat().st_size - offset, "is too short"


def _virtual_holes(data: h5py.Dataset, depth: int) -> list[Hole]:
    axis = long_axis(data.shape)
    n_rows = data.shape[axis]
    if depth > MAX_NESTED:
        return [Hole(0, n_rows, "is a virtual data set of too many virtual ones")]
    covered, found = [], []
    n_mapped = 0
    for source in data.virtual_sources():
        name = f"{source.dset_name} in {source.file_name}"
        n_here = _n_points(source.vspace)
        if "%b" in name or n_here is None:
            return [Hole(0, n_rows, "is a virtual data set of unlimited length, which is not read")]
        n_mapped += n_here
        blocks = list(_blocks(source.vspace, axis))
        covered += blocks
        problem = _source_problem(data.file, source, depth)
        if problem:
            is_nested = problem.startswith("is a virtual")  # the innermost cause will do
            reason = (
                problem if is_nested else f"is a virtual data set whose source {name} {problem}"
            )
            found += [Hole(first, last, reason) for first, last in blocks]
    end = 0
    for first, last in [*sorted(covered), (n_rows, n_rows)]:
        if first > end:
            found.append(Hole(end, first, "is a virtual data set without a source for some rows"))
        end = max(end, last)
    if n_mapped < data.size and not found:
        found.append(Hole(0, n_rows, "is a virtual data set without a source for some values"))
    return sorted(found)


def _n_points(space: h5py.h5s.SpaceID) -> int | None:
    """Return how many values a selection has, None if it is unlimited."""
    try:
        return int(space.get_select_npoints())
    except RuntimeError:
        return None


def _blocks(space: h5py.h5s.SpaceID, axis: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows that a selection covers."""
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        yield 0, space.shape[axis]
        return
    first, last = space.get_select_bounds()
    if space.get_select_npoints() == math.prod(b - a + 1 for a, b in zip(first, last, strict=True)):
        yield int(first[axis]), int(last[axis]) + 1
        return
    for begin, end in space.get_select_hyper_blocklist():
        yield int(begin[axis]), int(end[axis]) + 1


def _source_problem(file: h5py.File, source: h5py.VDSmap, depth: int) -> str:
    """Return what is wrong with one source of a virtual data set; empty for nothing."""
    if source.file_name == ".":
        return _data_problem(file, source, depth)
    if not is_local(file):
        return "is another file, which cannot be read over http(s)"
    paths = [path for path in _source_paths(file, source.file_name) if path.is_file()]
    if not paths:
        return "is not there"
    try:
        with h5py.File(paths[0], "r") as other:
            return _data_problem(other, source, depth)
    except OSError as error:
        return f"cannot be opened ({library_text(error)})"


def _data_problem(file: h5py.File, source: h5py.VDSmap, depth: int) -> str:
    try:
        data = follow(file, source.dset_name)
    except UnreadableError as error:
        return f"cannot be used: {error}"
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        return "is no data set"
    axis = long_axis(data.shape)
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        is_whole = data.size == source.vspace.get_select_npoints()
        first, last = 0, data.size - 1
    else:
        begin, end = source.src_space.get_select_bounds()
        is_whole = len(end) == data.ndim and all(np.less(end, data.shape))
        first, last = int(begin[axis]), int(end[axis])
    if not is_whole:
        return f"has another shape than it had: {data.shape}"
    return next((hole.reason for hole in holes(data, depth + 1) if hole.meets(first, last + 1)), "")


def _source_paths(file: h5py.File, name: str) -> Iterator[Path]:
    """Yield where HDF5 looks for the file of a source, in its order (H5Pset_virtual_prefix)."""
    if Path(name).is_absolute():
        yield Path(name)
        name = Path(name).name
    for prefix in filter(None, os.environ.get("HDF5_VDS_PREFIX", "").split(":")):
        yield Path(prefix.replace(ORIGIN, str(_folder(file)))) / name
    yield _folder(file) / name
    yield Path(name)
    yield Path(os.fsdecode(file.filename)).resolve().parent / name


def _folder(file: h5py.File) -> Path:
    return Path(os.fsdecode(file.filename)).absolute().parent
