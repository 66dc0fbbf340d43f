"""Movies that are images: one in each file, or all in one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from contracts.errors import UserError, listed
from encoder_training.frames.array_movies import MovieFileError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
GREY_MODES = ("1", "L")
COLOUR_MODES = ("P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
"""Modes of Pillow that hold eight bits for each colour, or fewer."""

UPRIGHT = 1
"""EXIF orientation of an image that is shown as it is stored."""

UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises of files that begin as images; the last of one with 179 million pixels."""


@dataclass(frozen=True, slots=True)
class ImageMovie:
    """Images, one in each file or all in one."""

    paths: tuple[Path, ...]
    n_frames: int
    height: int
    width: int
    is_colour: bool

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read frames; see `encoder_training.frames.movies.Movie`."""
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
        except UNREADABLE as error:
            raise MovieFileError(path, error) from error
        return pages

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                return self._pixels(image, str(path))
        except UNREADABLE as error:
            raise MovieFileError(path, error) from error

    def _pixels(self, image: Image.Image, where: str) -> NDArray[np.uint8]:
        _check_pixels(image, where)
        if (image.height, image.width) != (self.height, self.width):
            raise UserError(
                f"the frames of a movie must be of one size, {self.height} x {self.width} as the "
                f"first; {where} is {image.height} x {image.width}. Bring them to one size."
            )
        return np.asarray(image.convert("RGB" if self.is_colour else "L"))


def open_folder(path: Path) -> ImageMovie:
    """Open a folder of images.

    Raises
    ------
    UserError
        If there are no images, or their order is unclear.
    """
    images = images_in(path)
    if not images:
        raise UserError(
            f"a folder of frames must hold images ({', '.join(IMAGE_SUFFIXES)}), and {path} has "
            "none. Give the folder that the images lie in."
        )
    return _first_of(_in_order(images, path))


def _in_order(images: list[Path], folder: Path) -> tuple[Path, ...]:
    # By the last number in their names. A gap would shift all that follow.
    numbers = {image: re.findall(r"\d+", image.stem) for image in images}
    without = [image.name for image, digits in numbers.items() if not digits]
    if without and len(images) > 1:
        raise UserError(
            f"images in {folder} must have the number of the frame in their names, as "
            f"natural_scene_17.tiff has; {listed(without)} have none. Rename or remove them."
        )
    if len(images) == 1:
        return tuple(images)
    ordered = sorted((int(digits[-1]), image) for image, digits in numbers.items())
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


def open_pages(path: Path) -> ImageMovie:
    """Open an image file of one or several pages.

    Raises
    ------
    UserError
        If it is no image, or not of eight bits.
    """
    return _first_of((path,))


def _first_of(paths: tuple[Path, ...]) -> ImageMovie:
    path = paths[0]
    try:
        with Image.open(path) as image:
            _check_pixels(image, str(path))
            n_pages = getattr(image, "n_frames", 1)
            is_colour = image.mode not in GREY_MODES
            height, width = image.height, image.width
    except UnidentifiedImageError as error:
        raise UserError(
            f"frames must be an array of numpy, an HDF5 file, images in a folder, or a tiff or "
            f"gif of several pages; {path} is none of these. Convert it with numpy.save."
        ) from error
    except UNREADABLE as error:
        raise MovieFileError(path, error) from error
    n_frames = len(paths) if len(paths) > 1 else n_pages
    return ImageMovie(paths, n_frames, height, width, is_colour)


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _check_pixels(image: Image.Image, where: str) -> None:
    if image.mode not in GREY_MODES + COLOUR_MODES:
        low, high = np.asarray(image).min(), np.asarray(image).max()
        raise UserError(
            f"frames must be images of eight bits, grey values from 0 to 255; {where} is of "
            f"Pillow's mode {image.mode!r}, from {low:g} to {high:g}. Save them as 8-bit images."
        )
    # Programs differ in whether they turn it upright, so that what was on the screen is not known.
    # Of a tiff Pillow does; of a PNG without the chunk `getexif` would read all pixels.
    exif = image.getexif() if "exif" in image.info else {}
    turned = exif.get(ExifTags.Base.Orientation, UPRIGHT)
    if turned != UPRIGHT:
        raise UserError(
            f"frames must be stored upright; {where} is stored turned, as its EXIF orientation "
            f"{turned} says. Save it as it was shown, without the tag."
        )
