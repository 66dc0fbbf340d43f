"""The frames that were shown, as pictures for the page. No socket.

They lie in a folder, as for `neurrate prepare --frames`: for each stimulus ``NAME.npy``,
``NAME.h5`` with a data set ``frames``, or a folder ``NAME`` of images. What a mark names is looked
up among what is there; no path is ever made of it.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 640
"""Longest side of a picture: what a page has room for."""

QUALITY = 82

logger = logging.getLogger(__name__)


class FrameFolder:
    """Finds and converts frames.

    Raises
    ------
    UserError
        If there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"--frames must name a folder of frames that exists, got {folder}.")
        self._files: dict[str, Path | list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                images = [one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES]
                if images:
                    self._files[path.name] = sorted(images)
            elif path.suffix in {".npy", ".h5", ".hdf5"}:
                self._files[path.stem] = path

    def picture(self, stimulus: str, number: int) -> bytes | None:
        """Return a frame as JPEG; None if there is none. Takes some milliseconds."""
        found = self._files.get(stimulus)
        if found is None or number < 0:
            return None
        try:
            return _jpeg(_pixels(found, number))
        except (OSError, ValueError, KeyError, IndexError) as error:
            logger.debug("no frame", extra={"stimulus": stimulus, "error": repr(error)})
            return None


def _pixels(found: Path | list[Path], number: int) -> NDArray[np.uint8]:
    if isinstance(found, list):
        from PIL import Image

        with Image.open(found[number]) as image:
            return np.asarray(image.convert("RGB"))
    if found.suffix == ".npy":
        movie = np.load(found, mmap_mode="r", allow_pickle=False)
        return np.asarray(movie[number])
    import h5py

    with h5py.File(found, "r") as file:
        frame: NDArray[np.uint8] = file["frames"][number]
        return frame


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3}:
        raise ValueError("a frame is an array of bytes")
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_PIXELS, MAX_PIXELS))
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
