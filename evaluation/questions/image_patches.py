"""Patches of a folder of images, for features that no frame of the stimulus had a part in.

Images go through the vision tower as frames do, and are brought to its size as frames are: by the
model's own image processor. Their patches lie in the folder of results under a name made of the
images' bytes and the tower, so that they are not computed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from contracts.manifest import sha256_of
from encoder_training.data_set.prepared import FrameTable
from encoder_training.data_set.training_set import thinned
from encoder_training.frames.image_movies import IMAGE_SUFFIXES, ImageMovie, open_pages
from encoder_training.frames.movies import Movie
from encoder_training.frames.patch_store import fill_patches, open_patches
from evaluation.caption_scores.narrating import MOST_AVERAGED

if TYPE_CHECKING:
    from encoder_training.frames.tower import VisionTower
    from evaluation.questions.inputs import EvaluationInputs

FOLDER = "images"
"""In the folder of results."""

HELD_OUT = 0.1
"""Share of the images, drawn at random, that nothing is trained on."""

PATCHES_PER_FEATURE = 10
"""Fewest, of the images that are trained on."""

HELD_OUT_STREAM = 22


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The images of a folder and of those in it, in natural order of their names."""

    folder: Path
    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]  # Height and width of each, pixels

    @property
    def names(self) -> tuple[str, ...]:
        """Names below the folder."""
        return tuple(path.relative_to(self.folder).as_posix() for path in self.paths)

    def picture(self, at: int) -> NDArray[np.uint8]:
        """Read an image, shape (height, width, 3)."""
        picture: NDArray[np.uint8] = _movie([self.paths[at]], self.sizes[at]).frames(0, 1)[0]
        return picture


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """Images with their patches."""

    files: ImageFiles
    patches: NDArray[np.float16]  # (n_images, n_patches, dim), mapped
    is_held_out: NDArray[np.bool_]  # (n_images,)

    @cached_property
    def train(self) -> NDArray[np.int64]:
        """Those that are trained on."""
        return np.flatnonzero(~self.is_held_out)

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """Of each place of the images that are trained on, shape (n_patches, dim)."""
        return mean_patches(self.patches, self.train)

    def thinned(self, at_most: int) -> NDArray[np.int64]:
        """Return at most so many images, evenly."""
        return thinned(np.arange(len(self.patches)), at_most)


def find_images(folder: Path) -> ImageFiles:
    """List images, and read the size of each.

    Raises
    ------
    UserError
        If there is none, or a file with the suffix of one is none.
    """
    if not folder.is_dir():
        raise UserError(f"--images must be a folder of images, and {folder} is none.")
    paths = sorted(
        (
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: _natural(path.relative_to(folder).as_posix()),
    )
    if not paths:
        raise UserError(
            f"--images must be a folder that holds images ({', '.join(IMAGE_SUFFIXES)}), in "
            f"folders below it too, and {folder} has none."
        )
    sizes, refused = [], []
    for path in paths:
        try:
            opened = open_pages(path)
            sizes.append((opened.height, opened.width))
        except UserError:
            refused.append(path.relative_to(folder).as_posix())
    if refused:
        raise UserError(
            f"every image of --images must be one of eight bits that can be read, stored upright, "
            f"and {len(refused)} of {len(paths)} in {folder} are not: {listed(refused)}. Save them "
            "as PNG or JPEG without an EXIF orientation, or remove them."
        )
    return ImageFiles(folder, tuple(paths), tuple(sizes))


def image_patches(inputs: EvaluationInputs, folder: Path, *, n_features: int) -> ImagePatches:
    """Return the patches of a folder's images, computed where they are not known yet.

    Raises
    ------
    UserError
        If there are too few for so many features, one cannot be read, or the vision tower is not
        the one whose patches the encoder predicts.
    """
    from encoder_training.frames.tower import VisionTower, check_grid

    files = find_images(folder)
    grid, model = inputs.manifest.patch_grid, inputs.manifest.model.language_model
    fewest = -(-PATCHES_PER_FEATURE * n_features // grid.n_patches)
    n_held_out = max(1, round(HELD_OUT * len(files.paths)))
    if len(files.paths) - n_held_out < fewest:
        raise UserError(
            f"{n_features} features need {PATCHES_PER_FEATURE * n_features:,} patches, which are "
            f"{fewest} images beside the tenth that is held out, and {folder} has "
            f"{len(files.paths)}. Give more images."
        )
    tower = VisionTower(
        inputs.request.model or model.model_id,
        device=inputs.request.local_device,
        revision="" if inputs.request.model else model.revision,
    )
    check_grid(grid, tower)
    patches = known_patches(inputs.request.out / FOLDER, files, tower)
    rng = np.random.default_rng([inputs.request.seed, HELD_OUT_STREAM])
    is_held_out = np.zeros(len(files.paths), np.bool_)
    is_held_out[rng.permutation(len(files.paths))[:n_held_out]] = True
    return ImagePatches(files, patches, is_held_out)


def mean_patches(targets: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the patches of some pictures, evenly thinned, shape (n_patches, dim)."""
    mean: NDArray[np.float64] = np.zeros(targets.shape[1:])
    some = thinned(rows, MOST_AVERAGED).tolist()
    for row in some:
        mean += targets[row].astype(np.float64) / len(some)
    return mean


def known_patches(folder: Path, files: ImageFiles, tower: VisionTower) -> NDArray[np.float16]:
    """Open patches in a folder, or compute them, in the order of the files.

    Raises
    ------
    UserError
        If an image cannot be read, or the disk is full.
    """
    facts = [tower.sha256(), tower.precision, tower.frames_at_once, *map(sha256_of, files.paths)]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = folder / f"{name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fill_patches(path, *_movies(files), tower)
    return open_patches(path)


def _movies(files: ImageFiles) -> tuple[FrameTable, dict[str, Movie]]:
    """Return one row an image; neighbours of one size are given to the tower at once."""
    starts = [at for at, size in enumerate(files.sizes) if not at or size != files.sizes[at - 1]]
    stops = [*starts[1:], len(files.sizes)]
    lengths = [stop - start for start, stop in zip(starts, stops, strict=True)]
    runs = {
        f"{start}": _movie(files.paths[start:stop], files.sizes[start])
        for start, stop in zip(starts, stops, strict=True)
    }
    table = FrameTable(
        tuple(runs),
        np.repeat(np.arange(len(runs)), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
        ("",) * len(files.paths),
    )
    return table, {**runs}


def _movie(paths: Sequence[Path], size: tuple[int, int]) -> ImageMovie:
    return ImageMovie(tuple(paths), len(paths), *size, is_colour=True)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Order numbers by their value: 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name
