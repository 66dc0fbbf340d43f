"""Movies that are arrays: of numpy, or a data set of HDF5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed

DATA_SET = "frames"
"""What the movie is called in an HDF5 file, if there are others."""


class MovieFileError(UserError):
    """A file of frames cannot be read, though its first bytes look right."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(
            f"the frames in {path} cannot be read, the file may be cut short: {error}. Fetch or "
            "copy it again."
        )


@dataclass(frozen=True, slots=True, eq=False)
class ArrayMovie:
    """An array of numpy, mapped."""

    array: NDArray[np.uint8]

    @property
    def n_frames(self) -> int:
        """Frames in all."""
        return len(self.array)

    @property
    def height(self) -> int:
        """Rows of a frame, pixels."""
        return int(self.array.shape[1])

    @property
    def width(self) -> int:
        """Columns of a frame, pixels."""
        return int(self.array.shape[2])

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read frames; see `encoder_training.frames.movies.Movie`."""
        return np.array(self.array[start:stop])


@dataclass(frozen=True, slots=True)
class Hdf5Movie:
    """A data set of an HDF5 file, which is open only while it is read."""

    path: Path
    key: str
    n_frames: int
    height: int
    width: int

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read frames; see `encoder_training.frames.movies.Movie`.

        Raises
        ------
        MovieFileError
            If the file is cut short.
        """
        try:
            with h5py.File(self.path, "r") as file:
                frames: NDArray[np.uint8] = file[self.key][start:stop]
        except (OSError, KeyError) as error:
            raise MovieFileError(self.path, error) from error
        return frames


def open_npy(path: Path) -> ArrayMovie:
    """Map an array of numpy.

    Raises
    ------
    UserError
        If it holds no frames.
    MovieFileError
        If it is cut short.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MovieFileError(path, error) from error
    _check_array(array, f"{path}")
    return ArrayMovie(array)


def open_hdf5(path: Path) -> Hdf5Movie:
    """Open the movie of an HDF5 file.

    The file has a data set ``frames``, or only one of three or four dimensions.

    Raises
    ------
    UserError
        If it holds no frames.
    MovieFileError
        If it is cut short.
    """
    try:
        with h5py.File(path, "r") as file:
            key = _frames_key(file, path)
            data = file[key]
            _check_array(data, f"{path}, data set {key!r}")
            n_frames, height, width = data.shape[:3]
    except OSError as error:
        raise MovieFileError(path, error) from error
    return Hdf5Movie(path, key, n_frames, height, width)


def _frames_key(file: Any, path: Path) -> str:
    if isinstance(file.get(DATA_SET), h5py.Dataset):
        return DATA_SET
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in {3, 4}:
            names.append(name)

    file.visititems(note)
    if len(names) != 1:
        raise UserError(
            f"{path} must hold the movie as its data set {DATA_SET!r} or as its only data set of "
            f"three or four dimensions, found {listed(names) or 'none'}. Copy the movie to a file "
            "of its own."
        )
    return names[0]


def _check_array(array: Any, where: str) -> None:
    shape = tuple(array.shape)
    if len(shape) not in {3, 4} or (len(shape) == 4 and shape[3] != 3) or 0 in shape:
        raise UserError(
            "frames must be of shape (frames, height, width), or (frames, height, width, 3) in "
            f"colour, got {shape} in {where}. Bring the axes into this order."
        )
    if array.dtype != np.uint8:
        first = np.asarray(array[0])
        numbers = f" from {first.min():g} to {first.max():g}" if first.dtype.kind in "biuf" else ""
        raise UserError(
            f"frames must be uint8, grey values from 0 to 255, got {array.dtype}{numbers} in the "
            f"first frame of {where}. {_to_uint8(first)}"
        )


def _to_uint8(first: NDArray[Any]) -> str:
    is_unit = first.dtype.kind == "f" and 0 <= first.min() and first.max() <= 1
    values = "255 * frames" if is_unit else "frames"
    return (
        "Save them as uint8, for instance with "
        f"numpy.save('movie.npy', numpy.rint({values}).astype(numpy.uint8))"
        + ("." if is_unit else ", after bringing them to 0 to 255.")
    )
