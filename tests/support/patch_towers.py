"""A vision tower that is arithmetic, and two movies for it to look at."""

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchGrid
from encoder_training.data_set.prepared import FrameTable
from encoder_training.frames.array_movies import ArrayMovie

N_FIRST, N_SECOND = 11, 7


class ArithmeticTower:
    """Sums of pixels in place of a network.

    Parameters
    ----------
    factor : int
        Another tower has another.
    stop_at : int, optional
        The look at which a user interrupts.
    """

    grid = PatchGrid(rows=2, cols=2, dim=5)
    precision = "float32"
    frames_at_once = 4

    def __init__(self, factor: int = 1, stop_at: int | None = None) -> None:
        self._factor, self._stop_at = factor, stop_at
        self._n_looks = self.n_frames = 0

    def sha256(self) -> str:
        """Return what tells this tower from others."""
        return f"{self._factor}"

    def patches(self, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return patches of the grid, shape (n, 4, 5), float16."""
        self._n_looks += 1
        if self._n_looks == self._stop_at:
            raise KeyboardInterrupt
        self.n_frames += len(frames)
        sums = frames.reshape(len(frames), -1).astype(np.float32).mean(axis=1) * self._factor
        ramp = np.arange(20, dtype=np.float32).reshape(4, 5) / 7
        patches: NDArray[np.float16] = (sums[:, np.newaxis, np.newaxis] + ramp).astype(np.float16)
        return patches


def two_movies() -> tuple[FrameTable, dict[str, ArrayMovie]]:
    """Return a grey movie of 11 frames and one of 7 of another size in colour, and all frames."""
    rng = np.random.default_rng(0)
    movies = {
        "first": ArrayMovie(rng.integers(0, 256, (N_FIRST, 6, 8), dtype=np.uint8)),
        "second": ArrayMovie(rng.integers(0, 256, (N_SECOND, 4, 4, 3), dtype=np.uint8)),
    }
    numbers = np.concatenate([np.arange(N_FIRST), np.arange(N_SECOND)]).astype(np.int64)
    movie = np.repeat([0, 1], [N_FIRST, N_SECOND]).astype(np.int64)
    return FrameTable(tuple(movies), movie, numbers, ("",) * len(numbers)), movies
