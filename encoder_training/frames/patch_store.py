"""The patches of many frames in one file, computed once and resumed after an interruption.

``patches.safetensors`` holds one tensor ``patches``, float16, of shape (n_frames, n_patches, dim).
It is written in place under another name, and takes its own when it is whole.

1. Rows are on the disk before the progress file counts them. (test: killed in the middle)
2. Work that was begun with other frames or another tower is never resumed: the progress file
   holds what the rows depend on, and the frames that are done are read again and compared. (tests:
   another tower, another movie)
3. The room on the disk is reserved before the first row, so that it is not missing at the last.
   (test: a full disk)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import sync, write_json
from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError, listed
from contracts.progress import ProgressBar
from encoder_training.data_set.prepared import FrameTable
from encoder_training.frames.movies import Movie, read_frames
from encoder_training.frames.patch_file import (
    HALF,
    Shape,
    data_bytes,
    header_of,
    read_layout,
    reserve,
    write_at,
)

NOTHING = hashlib.sha256(b"").hexdigest()
"""Where the sha256 over the frames starts; each frame's is over the one before and its bytes."""


class OtherPatchesError(UserError):
    """What is there was made from other frames, by another tower or in other batches."""


class Tower(Protocol):
    """What makes patches: `encoder_training.frames.tower.VisionTower`, or a small one in tests."""

    grid: PatchGrid
    precision: str
    frames_at_once: int

    def sha256(self) -> str:
        """Return the sha256 over all that the patches depend on but frames and machine."""
        ...

    def patches(self, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return patches, shape (n, n_patches, dim), float16."""
        ...


@dataclass(frozen=True, slots=True)
class _StoredSoFar:
    """How far the work is."""

    identity: str
    """Sha256 over the tower, its precision, the rows, and how many pictures it is given at once."""
    n_done: int = 0
    frames_sha256: str = NOTHING
    """Over the frames of the rows that are done."""


@dataclass(frozen=True, slots=True, eq=False)
class _FrameRun:
    """Neighbouring rows that the tower is given at once; of one movie, so of one size."""

    movie: Movie
    numbers: NDArray[np.int64]
    first: int
    stop: int

    def frames(self) -> NDArray[np.uint8]:
        return read_frames(self.movie, self.numbers)


def fill_patches(
    path: Path,
    frames: FrameTable,
    movies: Mapping[str, Movie],
    tower: Tower,
) -> str:
    """Compute the patches of frames and write them, from where an earlier call stopped.

    Until `path` is whole, files of its name with ``.partial`` and ``.progress`` are in its
    place. Returns the sha256 over the frames, in the order of the rows; the file holds it too.

    Raises
    ------
    OtherPatchesError
        If what is there was made from other frames or by another tower.
    UserError
        If a movie lacks a frame, or the disk is full.
    MisuseError
        If there is no frame, or the tower's patches are not of its grid.
    """
    runs = _runs(frames, movies, tower.frames_at_once)
    shape = (len(frames.number), tower.grid.n_patches, tower.grid.dim)
    identity = _identity(frames, tower)
    partial, progress_path = _beside(path, ".partial"), _beside(path, ".progress")
    if path.exists():
        progress = _of_whole(path, shape[0])
        _check_same(progress, identity, runs, path)
        progress_path.unlink(missing_ok=True)
        return progress.frames_sha256
    with _disk(path, shape):
        n_bytes = len(_header(shape, _StoredSoFar(identity))) + data_bytes(shape)
        if progress_path.exists() and partial.exists() and partial.stat().st_size == n_bytes:
            progress = _read_progress(progress_path)
            _check_same(progress, identity, runs, partial)
        else:
            progress = _StoredSoFar(identity)
            reserve(partial, n_bytes)
            _write_progress(progress, progress_path)
        progress = _resume(partial, progress_path, progress, runs, tower, shape)
        partial.replace(path)
        progress_path.unlink()
        sync(path.parent)
    return progress.frames_sha256


def open_patches(path: Path) -> NDArray[np.float16]:
    """Map the patches of a data set, without reading them.

    Returns float16 of shape (n_frames, n_patches, dim), read-only.

    Raises
    ------
    UserError
        If the file is not one that `fill_patches` finished.
    """
    offset, shape, _ = read_layout(path)
    return np.memmap(path, HALF, mode="r", offset=offset, shape=shape)


def _resume(
    partial: Path,
    progress_path: Path,
    progress: _StoredSoFar,
    runs: Sequence[_FrameRun],
    tower: Tower,
    shape: Shape,
) -> _StoredSoFar:
    # The rows that are missing, then the header.
    n_header = len(_header(shape, progress))
    row_bytes = shape[1] * shape[2] * HALF.itemsize
    with (
        partial.open("r+b", buffering=0) as file,
        ProgressBar(total=shape[0], initial=progress.n_done, desc="patches", unit="frame") as bar,
    ):
        for run in runs:
            if run.stop <= progress.n_done:
                continue
            seen = run.frames()
            made = tower.patches(seen)
            if made.shape != (len(seen), *shape[1:]):
                raise MisuseError(f"patches must be of {shape[1:]} numbers, got {made.shape}")
            write_at(file.fileno(), made.astype(HALF).tobytes(), n_header + run.first * row_bytes)
            progress = _StoredSoFar(
                progress.identity, run.stop, _digest(progress.frames_sha256, seen)
            )
            _write_progress(progress, progress_path)
            bar.update(len(seen))
        write_at(file.fileno(), _header(shape, progress), 0)
    return progress


def _runs(frames: FrameTable, movies: Mapping[str, Movie], batch_size: int) -> list[_FrameRun]:
    if not len(frames.number):
        raise MisuseError("patches need one frame or more, got none")
    for index, name in enumerate(frames.movies):
        numbers = frames.number[frames.movie == index]
        lacking = numbers[(numbers < 0) | (numbers >= movies[name].n_frames)]
        if len(lacking):
            raise UserError(
                f"the recording shows {len(lacking)} frames of {name} that its file does not have: "
                f"{listed(np.unique(lacking).tolist())}; it has 0 to {movies[name].n_frames - 1}. "
                "Give the frames that were shown in this recording."
            )
    edges = [0, *(np.flatnonzero(np.diff(frames.movie)) + 1).tolist(), len(frames.movie)]
    runs = []
    for start, end in pairwise(edges):
        movie = movies[frames.movies[frames.movie[start]]]
        for first in range(start, end, batch_size):
            stop = min(first + batch_size, end)
            runs.append(_FrameRun(movie, frames.number[first:stop], first, stop))
    return runs


def _identity(frames: FrameTable, tower: Tower) -> str:
    # The number of pictures at once is part of it: sums may be taken in another order.
    facts = [tower.sha256(), tower.precision, list(frames.movies), tower.frames_at_once]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(frames.movie.astype("<i8").tobytes())
    digest.update(frames.number.astype("<i8").tobytes())
    return digest.hexdigest()


def _digest(before: str, frames: NDArray[np.uint8]) -> str:
    # Frame by frame, so that it does not depend on how many are read at once.
    for frame in frames:
        before = hashlib.sha256(before.encode() + frame.tobytes()).hexdigest()
    return before


def _check_same(
    progress: _StoredSoFar, identity: str, runs: Sequence[_FrameRun], path: Path
) -> None:
    # Rows that were made otherwise than they would be made now are refused.
    if progress.identity != identity:
        raise OtherPatchesError(
            f"{path} was begun with another model, other frames or another number of pictures at "
            "once. Use the same as then, or remove it to start again."
        )
    digest = NOTHING
    for run in runs:
        if run.stop <= progress.n_done:
            digest = _digest(digest, run.frames())
    if digest != progress.frames_sha256:
        raise OtherPatchesError(
            f"the frames are not those that {path} was begun with: their pixels have changed. Give "
            "the same files as then, or remove it to start again."
        )


def _of_whole(path: Path, n_frames: int) -> _StoredSoFar:
    metadata = read_layout(path)[2]
    return _StoredSoFar(metadata.get("identity", ""), n_frames, metadata.get("frames_sha256", ""))


def _header(shape: Shape, progress: _StoredSoFar) -> bytes:
    # Both are of one length from the start, so that the data need not move at the end.
    facts = {"identity": progress.identity, "frames_sha256": progress.frames_sha256}
    return header_of(shape, facts)


def _read_progress(path: Path) -> _StoredSoFar:
    try:
        return _StoredSoFar(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not say how far the patches are: {error}. Remove it to start again."
        ) from error


def _write_progress(progress: _StoredSoFar, path: Path) -> None:
    write_json(path, asdict(progress))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _disk(path: Path, shape: Shape) -> Iterator[None]:
    # What a failed write means: how much room is needed, and how much there is.
    try:
        yield
    except OSError as error:
        n_bytes = data_bytes(shape)
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise UserError(
            f"the patches of {shape[0]:,} frames take {n_bytes / 2**30:.2f} GiB and cannot be "
            f"written to {path.parent}, where {free / 2**30:.2f} GiB are free: {error.strerror}. "
            "Make room, or choose another folder or fewer frames."
        ) from error
