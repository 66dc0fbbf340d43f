"""Nearest neighbours: the training windows that look most like this one, by cosine.

Windows are z-scored sums over parts of a window. The weight of a neighbour is its cosine, or 0 if
that is negative. How many neighbours and how many parts is chosen on validation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.baselines.decoder import FrameMixture
from encoder_training.evaluation.baselines.training_data import N_PARTS, BaselineData, WindowParts

MAX_WINDOWS = 6000
"""Training windows that are kept, evenly thinned: 192 MB at 2,000 units and four parts."""

N_NEIGHBOURS = (1, 3, 10, 30, 100, 300)
"""To choose from."""

SMALLEST_COSINE = 1e-6
"""A window that is like no other takes all its neighbours alike."""


class NearestWindows(FrameMixture):
    """Some training windows and their frames."""

    name = "kNN"

    def __init__(self, training: BaselineData, stored: _Stored, k: int) -> None:
        super().__init__(training.data.targets, training.train_frames)
        self._stored, self._k = stored, k
        self.chosen = f"{stored.parts}, k = {k}, {len(stored.frame)} windows"

    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the frames' shares among the neighbours."""
        cosine, neighbour = self._stored.nearest(counts, self._k)
        return self._stored.weights(cosine, neighbour, len(self.train_frames))


def fit_knn(training: BaselineData) -> FrameMixture:
    """Keep the training windows and choose on validation."""
    best: tuple[float, _Stored, int] | None = None
    for n_parts in N_PARTS:
        stored = _Stored(training, training.parts(n_parts))
        blocks = [
            stored.nearest(counts, N_NEIGHBOURS[-1])
            for _, counts in training.blocks(training.chosen_by)
        ]
        cosine, neighbour = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
        for k in N_NEIGHBOURS:
            if k > cosine.shape[1]:
                break
            weights = stored.weights(cosine[:, :k], neighbour[:, :k], len(training.train_frames))
            error = training.error(weights)
            if best is None or error < best[0]:
                best = error, stored, k
    _, stored, k = best  # type: ignore[misc]
    return NearestWindows(training, stored, k)


class _Stored:
    """Training windows, for looking up."""

    def __init__(self, training: BaselineData, parts: WindowParts) -> None:
        try:
            from sklearn.neighbors import NearestNeighbors
        except ImportError as error:
            raise DependencyError(
                "The kNN baseline needs scikit-learn. Run: pip install 'neurrate[train]'."
            ) from error
        rows = thinned(training.train, MAX_WINDOWS)
        self.parts = parts
        self.frame = np.searchsorted(training.train_frames, training.data.frame[rows])
        z = np.concatenate([parts.z(counts) for _, counts in training.blocks(rows)])
        self._index = NearestNeighbors(metric="cosine", algorithm="brute").fit(z)

    def nearest(
        self, counts: NDArray[np.uint8], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the cosines and the rows of the nearest windows, nearest first."""
        distance, row = self._index.kneighbors(
            self.parts.z(counts), n_neighbors=min(k, len(self.frame))
        )
        return (1 - distance).astype(np.float32), row

    def weights(
        self, cosine: NDArray[np.float32], neighbour: NDArray[np.int64], n_train_frames: int
    ) -> NDArray[np.float32]:
        """Add the neighbours' weights up by frame, shape (n, n_train_frames)."""
        weight = np.maximum(cosine, SMALLEST_COSINE)
        weight = weight / weight.sum(axis=1, keepdims=True)
        by_frame = np.zeros((len(cosine), n_train_frames), dtype=np.float32)
        np.add.at(by_frame, (np.arange(len(cosine))[:, None], self.frame[neighbour]), weight)
        return by_frame
