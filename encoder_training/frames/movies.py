"""The frames of the stimuli, from the files that laboratories keep them in.

Nothing is read before it is needed. The first bytes decide what a file is, not its suffix: the
Allen Institute's ``natural_movie_1.h5`` is an array of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError, UserError, listed
from encoder_training.frames.array_movies import open_hdf5, open_npy
from encoder_training.frames.image_movies import images_in, open_folder, open_pages

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

    `path` is an array of numpy (``.npy``, by its first bytes), an HDF5 file whose data set
    ``frames`` or only data set of three or four dimensions is the movie, a folder of images
    that are numbered from 0 or 1, or an image file of several pages (tiff, gif). Frames are
    uint8, of shape (height, width), or (height, width, 3) in colour.

    Raises
    ------
    UserError
        If it is none of these, or its frames are not uint8, or the file is cut short.
    """
    if path.is_dir():
        return open_folder(path)
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise UserError(
            f"the frames must be a file or a folder that can be read, and {path} is not: "
            f"{error.strerror}. Give the file of a movie or the folder of its images."
        ) from error
    if magic.startswith(NPY_MAGIC):
        return open_npy(path)
    if magic.startswith(HDF5_MAGIC):
        return open_hdf5(path)
    if path.suffix.lower() in VIDEO_SUFFIXES or magic[4:8] == b"ftyp":
        raise UserError(
            f"the frames must be exact pictures, and {path} is a video, whose frames cannot be "
            f"counted safely. Convert it: mkdir {path.stem} && ffmpeg -i {path.name} -fps_mode "
            f"passthrough -pix_fmt gray {path.stem}/%06d.png, and give the folder {path.stem}."
        )
    return open_pages(path)


def find_movies(path: Path, names: Sequence[str]) -> dict[str, Movie]:
    """Open the frames of several stimuli.

    `path` is one file or folder of images if there is one name; or a folder that holds, for
    each name, a file or a folder of that name: ``natural_movie_one.npy``, ``natural_scenes/``.
    The names in AllenSDK's cache are known too.

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
    paths_of = {name: _candidates(path, name) for name in names}
    if len(names) == 1 and not paths_of[names[0]] and images_in(path):
        return {names[0]: open_movie(path)}
    missing = [name for name, paths in paths_of.items() if not paths]
    if missing:
        entries = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        raise UserError(
            f"no frames for {listed(missing)} in {path}. A file such as {missing[0]}.npy or a "
            f"folder {missing[0]}/ of images is looked for; there are: "
            f"{listed(entries) or 'no files'}."
        )
    for name, paths in paths_of.items():
        if len(paths) > 1:
            raise UserError(
                f"the frames of {name} must be in {path} once, found "
                f"{listed([entry.name for entry in paths])}. Keep one of them."
            )
    return {name: open_movie(paths[0]) for name, paths in paths_of.items()}


def movies_in(path: Path, names: Sequence[str]) -> list[str]:
    """Return those of some stimuli whose frames a path has, by its name and by those in it."""
    inside = [name for name in names if path.is_dir() and _candidates(path, name)]
    called = [name for name in names if path.stem in {name, *OTHER_NAMES.get(name, ())}]
    return inside or called or list(names)


def read_frames(movie: Movie, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read frames by their numbers, in one piece where they are near each other.

    `numbers` may be in any order. Returns uint8 of shape (n, height, width[, 3]).

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
    return [entry for entry in stems if entry.is_dir()] + [
        entry for entry in files if entry.is_file()
    ]
