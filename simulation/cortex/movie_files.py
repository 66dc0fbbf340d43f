"""The frames and the facts of what was shown, as files beside a recording.

The public sessions hold no frames either; theirs are files of their own.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from simulation.captions import caption
from simulation.cortex.drive import FrameSource
from simulation.scenes.facts import Facts
from simulation.scenes.scene import HEIGHT, WIDTH

GZIP_LEVEL = 1
N_CAPTIONS = 5
"""Sentences for each frame; the first is the one in the recording's table."""


class FrameFiles:
    """Writes frames as they are drawn to an existing folder: ``MOVIE.h5``, data set ``frames``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, movie: FrameSource, first: int, frames: NDArray[np.uint8]) -> None:
        """Write some frames of a movie; the first ones make the file."""
        with h5py.File(self._folder / f"{movie.name}.h5", "a") as file:
            if "frames" not in file:
                file.create_dataset(
                    "frames",
                    (movie.n_frames, HEIGHT, WIDTH),
                    np.uint8,
                    chunks=(1, HEIGHT, WIDTH),
                    compression="gzip",
                    compression_opts=GZIP_LEVEL,
                )
            file["frames"][first : first + len(frames)] = frames


def write_facts(movie: FrameSource, folder: Path) -> None:
    """Write ``MOVIE_facts.jsonl``: for each frame its number, facts and captions."""
    first_captions = frame_captions(movie)
    with (folder / f"{movie.name}_facts.jsonl").open("w", encoding="utf-8") as file:
        for frame, first in enumerate(first_captions):
            facts = movie.facts(frame)
            others = [text for text in _sentences(facts) if text != first]
            line = {
                "frame": frame,
                "facts": facts.to_json(),
                "captions": [first, *others][:N_CAPTIONS],
            }
            file.write(json.dumps(line) + "\n")


def frame_captions(movie: FrameSource) -> list[str]:
    """Return one caption for each frame, which stays the same as long as the facts do."""
    captions: list[str] = []
    before: Facts | None = None
    for frame in range(movie.n_frames):
        facts = movie.facts(frame)
        captions.append(captions[-1] if facts == before else caption(facts, frame))
        before = facts
    return captions


@lru_cache(maxsize=10_000)
def _sentences(facts: Facts) -> tuple[str, ...]:
    return tuple(dict.fromkeys(caption(facts, seed) for seed in range(2 * N_CAPTIONS)))
