"""The frames of the stimuli, from the files that laboratories keep them in.

Nothing is read before it is asked for. A file is what its first bytes say, whatever its name
ends with: the Allen Institute's ``natural_movie_1.h5`` is an array of numpy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from contracts.errors import MisuseError, UserError, listed

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOVIE_SUFFIXES = (".npy", ".h5", ".hdf5", ".tif", ".tiff", ".gif")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

OTHER_NAMES = {
    "natural_movie_one": ("natural_movie_1",),
    "natural_movie_three": ("natural_movie_3",),
    "natural_scenes": ("natural_scene_templates",),
}
"""What AllenSDK's cache calls the files of these stimuli (EcephysProjectCache)."""

SUBFOLDERS = ("", "natural_movie_templates")
"""Where they lie in that cache."""

NPY_MAGIC = b"\x93NUMPY"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
DATA_SET = "frames"
GREY_MODES = ("1", "L")
COLOUR_MODES = ("P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
"""Modes of Pillow that hold eight bits for each colour, or fewer."""


class Movie(Protocol):
    """Frames of one size, some of them at a time."""

    @property
    def n_frames(self) -> int:
        """Frames in all."""
        ...

    @property
    def height(self) -> int:
        """Rows of a frame, pixels."""
        ...

    @property
    def width(self) -> int:
        """Columns of a frame, pixels."""
        ...

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read frames, shape (stop - start, height, width[, 3]), uint8."""
        ...


def open_movie(path: Path) -> Movie:
    """Open the frames of one stimulus.

    Parameters
    ----------
    path : Path
        An array of numpy (``.npy``, by its first bytes), an HDF5 file whose data set ``frames``
        or only data set of three or four dimensions is the movie, a folder of images that are
        numbered from 0 or 1, or an image file of several pages (tiff, gif). Frames are uint8, of
        shape (height, width), or (height, width, 3) in colour.

    Returns
    -------
    Movie

    Raises
    ------
    UserError
        If it is none of these, or its frames are not uint8, or the file is cut short.
    """
    if path.is_dir():
        return _open_folder(path)
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise UserError(
            f"the frames must be a file or a folder that can be read, and {path} is not: "
            f"{error.strerror}. Give the file of a movie or the folder of its images."
        ) from error
    if magic.startswith(NPY_MAGIC):
        return _open_npy(path)
    if magic.startswith(HDF5_MAGIC):
        return _open_hdf5(path)
    if path.suffix.lower() in VIDEO_SUFFIXES or magic[4:8] == b"ftyp":
        raise UserError(
            f"the frames must be exact pictures, and {path} is a video, whose frames cannot be "
            f"counted safely. Convert it: mkdir {path.stem} && ffmpeg -i {path.name} -fps_mode "
            f"passthrough -pix_fmt gray {path.stem}/%06d.png, and give the folder {path.stem}."
        )
    return _open_pages(path)


def find_movies(path: Path, names: Sequence[str]) -> dict[str, Movie]:
    """Open the frames of several stimuli.

    Parameters
    ----------
    path : Path
        One file or folder of images if there is one name; or a folder that holds, for each name,
        a file or a folder of that name: ``natural_movie_one.npy``, ``natural_scenes/``. The names
        in AllenSDK's cache are known too.
    names : sequence of str
        Of the stimuli, as in the recording.

    Returns
    -------
    movies : dict of str to Movie
        In the order of `names`.

    Raises
    ------
    UserError
        If some are not there, or there twice, or cannot be opened.
    MisuseError
        If no name is given.
    """
    if not names:
        raise MisuseError("at least one name of a stimulus is needed, got none")
    if not path.exists():
        raise UserError(f"the frames must be a file or a folder, and {path} is not there.")
    if path.is_file():
        if len(names) > 1:
            raise UserError(
                f"one file holds the frames of one stimulus, and {path} was given for "
                f"{len(names)}: {listed(names)}. Give a folder with a file for each, or choose "
                "one stimulus."
            )
        return {names[0]: open_movie(path)}
    found = {name: _candidates(path, name) for name in names}
    if len(names) == 1 and not found[names[0]] and _images_in(path):
        return {names[0]: open_movie(path)}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        there = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
        raise UserError(
            f"no frames for {listed(missing)} in {path}. A file such as {missing[0]}.npy or a "
            f"folder {missing[0]}/ of images is looked for; there are: "
            f"{listed(there) or 'no files'}."
        )
    for name, paths in found.items():
        if len(paths) > 1:
            raise UserError(
                f"the frames of {name} must be in {path} once, found "
                f"{listed([each.name for each in paths])}. Keep one of them."
            )
    return {name: open_movie(paths[0]) for name, paths in found.items()}


def movies_in(path: Path, names: Sequence[str]) -> list[str]:
    """Return those of some stimuli whose frames lie in a folder; all, for a file.

    A folder of images holds one stimulus, and which one it does not say.
    """
    if not path.is_dir():
        return list(names)
    return [name for name in names if _candidates(path, name)] or list(names)


def read_frames(movie: Movie, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read frames by their numbers, in one piece where they are near each other.

    Parameters
    ----------
    movie : Movie
    numbers : array, shape (n,), int64
        In any order, at least one.

    Returns
    -------
    frames : array, shape (n, height, width[, 3]), uint8

    Raises
    ------
    UserError
        If the movie has no such frame.
    """
    first, stop = int(numbers.min()), int(numbers.max()) + 1
    if first < 0 or stop > movie.n_frames:
        raise UserError(
            f"the movie has frames 0 to {movie.n_frames - 1}, and {first} to {stop - 1} are asked "
            "for. Give the frames that were shown in this recording."
        )
    if stop - first <= 2 * len(numbers):
        return movie.frames(first, stop)[numbers - first]
    return np.concatenate([movie.frames(number, number + 1) for number in numbers.tolist()])


@dataclass(frozen=True, slots=True, eq=False)
class _ArrayMovie:
    """An array of numpy, mapped."""

    array: NDArray[np.uint8]

    @property
    def n_frames(self) -> int:
        return len(self.array)

    @property
    def height(self) -> int:
        return int(self.array.shape[1])

    @property
    def width(self) -> int:
        return int(self.array.shape[2])

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        return np.array(self.array[start:stop])


@dataclass(frozen=True, slots=True)
class _Hdf5Movie:
    """A data set of an HDF5 file, which is open only while it is read."""

    path: Path
    key: str
    n_frames: int
    height: int
    width: int

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        try:
            with h5py.File(self.path, "r") as file:
                frames: NDArray[np.uint8] = file[self.key][start:stop]
        except (OSError, KeyError) as error:
            raise _unreadable(self.path, error) from error
        return frames


@dataclass(frozen=True, slots=True)
class _Images:
    """Images, one in each file or all in one."""

    paths: tuple[Path, ...]
    n_frames: int
    height: int
    width: int
    is_colour: bool

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        if len(self.paths) == 1:
            return np.stack(self._pages(start, min(stop, self.n_frames)))
        return np.stack([self._read(path) for path in self.paths[start:stop]])

    def _pages(self, start: int, stop: int) -> list[NDArray[np.uint8]]:
        path = self.paths[0]
        pages = []
        try:
            with Image.open(path) as image:
                for page in range(start, stop):
                    image.seek(page)
                    pages.append(self._pixels(image, f"{path}, page {page}"))
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise _unreadable(path, error) from error
        return pages

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                return self._pixels(image, str(path))
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(path, error) from error

    def _pixels(self, image: Image.Image, where: str) -> NDArray[np.uint8]:
        _check_mode(image, where)
        if (image.height, image.width) != (self.height, self.width):
            raise UserError(
                f"the frames of a movie must be of one size, {self.height} x {self.width} as the "
                f"first; {where} is {image.height} x {image.width}. Bring them to one size."
            )
        return np.asarray(image.convert("RGB" if self.is_colour else "L"))


def _open_npy(path: Path) -> Movie:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    _check_array(array, f"{path}")
    return _ArrayMovie(array)


def _open_hdf5(path: Path) -> Movie:
    try:
        with h5py.File(path, "r") as file:
            key = _frames_key(file, path)
            data = file[key]
            _check_array(data, f"{path}, data set {key!r}")
            n_frames, height, width = data.shape[:3]
    except OSError as error:
        raise _unreadable(path, error) from error
    return _Hdf5Movie(path, key, n_frames, height, width)


def _frames_key(file: Any, path: Path) -> str:
    if isinstance(file.get(DATA_SET), h5py.Dataset):
        return DATA_SET
    found: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in {3, 4}:
            found.append(name)

    file.visititems(note)
    if len(found) != 1:
        raise UserError(
            f"{path} must hold the movie as its data set {DATA_SET!r} or as its only data set of "
            f"three or four dimensions, found {listed(found) or 'none'}. Copy the movie to a file "
            "of its own."
        )
    return found[0]


def _open_folder(path: Path) -> Movie:
    images = _images_in(path)
    if not images:
        raise UserError(
            f"a folder of frames must hold images ({', '.join(IMAGE_SUFFIXES)}), and {path} has "
            "none. Give the folder that the images lie in."
        )
    return _first_of(_in_order(images, path))


def _in_order(images: list[Path], folder: Path) -> tuple[Path, ...]:
    # By the last number in their names. A gap would shift all that follow.
    numbers = {image: re.findall(r"\d+", image.stem) for image in images}
    without = [image.name for image, found in numbers.items() if not found]
    if without and len(images) > 1:
        raise UserError(
            f"images in {folder} must have the number of the frame in their names, as "
            f"natural_scene_17.tiff has; {listed(without)} have none. Rename or remove them."
        )
    if len(images) == 1:
        return tuple(images)
    ordered = sorted((int(found[-1]), image) for image, found in numbers.items())
    twice = [f"{a[1].name} and {b[1].name}" for a, b in pairwise(ordered) if a[0] == b[0]]
    if twice:
        raise UserError(
            f"each number stands for one frame; in {folder} these have the same: {listed(twice)}. "
            "Keep one of each."
        )
    first, last = ordered[0][0], ordered[-1][0]
    missing = sorted(set(range(first, last + 1)) - {number for number, _ in ordered})
    if missing or first > 1:
        what = f"{listed(missing)} are missing" if missing else f"the first is {first}"
        raise UserError(
            f"images in {folder} must be numbered from 0 or 1 without a gap, and {what}. A "
            "missing frame would shift all that follow it; add it."
        )
    return tuple(image for _, image in ordered)


def _open_pages(path: Path) -> Movie:
    return _first_of((path,))


def _first_of(paths: tuple[Path, ...]) -> Movie:
    path = paths[0]
    try:
        with Image.open(path) as image:
            _check_mode(image, str(path))
            n_pages = getattr(image, "n_frames", 1)
            is_colour = image.mode not in GREY_MODES
            height, width = image.height, image.width
    except UnidentifiedImageError as error:
        raise UserError(
            f"frames must be an array of numpy, an HDF5 file, images in a folder, or a tiff or "
            f"gif of several pages; {path} is none of these. Convert it with numpy.save."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error
    n_frames = len(paths) if len(paths) > 1 else n_pages
    return _Images(paths, n_frames, height, width, is_colour)


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        each
        for each in folder.iterdir()
        if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith(".")
    )


def _candidates(folder: Path, name: str) -> list[Path]:
    """Return the files and folders that may hold a stimulus."""
    stems = [
        folder / sub / stem for sub in SUBFOLDERS for stem in (name, *OTHER_NAMES.get(name, ()))
    ]
    files = [
        stem.with_name(stem.name + suffix)
        for stem in stems
        for suffix in MOVIE_SUFFIXES + VIDEO_SUFFIXES
    ]
    return [each for each in stems if each.is_dir()] + [each for each in files if each.is_file()]


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


def _check_mode(image: Image.Image, where: str) -> None:
    if image.mode not in GREY_MODES + COLOUR_MODES:
        low, high = np.asarray(image).min(), np.asarray(image).max()
        raise UserError(
            f"frames must be images of eight bits, grey values from 0 to 255; {where} is of "
            f"Pillow's mode {image.mode!r}, from {low:g} to {high:g}. Save them as 8-bit images."
        )


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the frames in {path} cannot be read, the file may be cut short: {error}. Fetch or copy "
        "it again."
    )
