"""Ridge regression from counts to patches, by way of frames.

The patches of a training window are those of its frame, so that regressing patches is regressing
the indicator of the frame and mixing the frames' patches: exactly the same predictions, and the
size of the patches does not enter. Features up to `MAX_SIDE` are solved in the primal form, on all
windows; more of them in the dual form, on evenly thinned windows. One eigendecomposition serves
every strength; the strength and the parts of the window are chosen on validation. Features are
held within the range that training windows span: one burst beyond that range of one unit would
otherwise move the patches without limit.

References
----------
Saunders, Gammerman and Vovk, ICML 1998: ridge regression in dual variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.baselines.decoder import FrameMixture
from encoder_training.evaluation.baselines.training_data import N_PARTS, BaselineData, WindowParts

MAX_SIDE = 4000
"""Rows of the matrix that is decomposed, at most: 128 MB in float64, half a minute on one core. In
the dual form, as many windows are kept, and 128 MB hold their 8,000 sums at 2,000 units."""

STRENGTHS = tuple(10.0**power for power in np.arange(-3, 4.5, 0.5))
"""In units of the mean eigenvalue, to choose from."""


class Ridge(FrameMixture):
    """A linear map from z-scored sums to weights of frames."""

    name = "ridge"
    decides = False

    def __init__(self, training: BaselineData, solved: _Solved, strength: float) -> None:
        super().__init__(training.data.targets, training.train_frames)
        self._solved = solved
        self._map = solved.vectors @ (solved.shrunk(strength) * solved.along)
        self.chosen = f"{solved.parts}, strength {strength:.2g} of the mean eigenvalue, {solved.by}"

    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the regressed indicators of the frames."""
        weights: NDArray[np.float32] = self._solved.features(counts) @ self._map
        return weights + self._solved.mean


def fit_ridge(training: BaselineData) -> FrameMixture:
    """Fit and choose on validation."""
    best: tuple[float, _Solved, float] | None = None
    for n_parts in N_PARTS:
        solved = _solve(training, training.parts(n_parts))
        x = np.concatenate([solved.features(c) for _, c in training.blocks(training.chosen_by)])
        along = x @ solved.vectors
        # Mixing the frames first leaves few numbers to multiply for each strength.
        true = training.train_coordinates()
        to_true, mean = solved.along @ true, solved.mean @ true
        for strength in STRENGTHS:
            error = training.error_of(along @ (solved.shrunk(strength) * to_true) + mean)
            if best is None or error < best[0]:
                best = error, solved, strength
    _, solved, strength = best  # type: ignore[misc]
    return Ridge(training, solved, strength)


@dataclass(frozen=True, slots=True, eq=False)
class _Solved:
    """An eigendecomposition of the features."""

    parts: WindowParts
    by: str
    vectors: NDArray[np.float32]  # (n_features, n_kept): principal directions
    values: NDArray[np.float32]  # (n_kept,): their sums of squares
    # (n_kept, n_train_frames): product of the features along each direction with the indicators
    along: NDArray[np.float32]
    # (n_features,): mean and range of the features
    centre: NDArray[np.float32]
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    mean: NDArray[np.float32]  # (n_train_frames,): of the indicators

    def features(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return centred features within their range, shape (n, n_features)."""
        return np.clip(self.parts.z(counts), self.lowest, self.highest) - self.centre

    def shrunk(self, strength: float) -> NDArray[np.float32]:
        """Return the inverse of each value, ridged, shape (n_kept, 1)."""
        inverse: NDArray[np.float32] = 1 / (self.values + strength * self.values.mean())
        return inverse[:, None]


def _solve(training: BaselineData, parts: WindowParts) -> _Solved:
    is_primal = len(parts.mean) <= MAX_SIDE
    rows = training.train if is_primal else thinned(training.train, MAX_SIDE)
    times = np.bincount(_at(training, rows), minlength=len(training.train_frames))
    solve = _primal if is_primal else _dual
    vectors, values, along, centre = solve(training, parts, rows, times)
    spans = [np.stack([z.min(axis=0), z.max(axis=0)]) for z in _read(training, parts, rows)]
    thin = "" if is_primal else f", thinned evenly from {len(training.train)}"
    return _Solved(
        parts,
        f"{len(rows)} windows{thin}",
        vectors.astype(np.float32),
        values.astype(np.float32),
        along.astype(np.float32),
        centre.astype(np.float32),
        np.min([lowest for lowest, _ in spans], axis=0),
        np.max([highest for _, highest in spans], axis=0),
        (times / len(rows)).astype(np.float32),
    )


_Directions = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Vectors, values, along and centre of `_Solved`."""


def _primal(
    training: BaselineData, parts: WindowParts, rows: NDArray[np.int64], times: NDArray[np.int64]
) -> _Directions:
    """Decompose the sums of squares of the features."""
    n_features = len(parts.mean)
    total, square = np.zeros(n_features), np.zeros((n_features, n_features))
    by_frame = np.zeros((len(times), n_features), dtype=np.float32)
    train_frames = training.train_frames
    for block, counts in training.blocks(rows):
        z = parts.z(counts)
        total += z.sum(axis=0, dtype=np.float64)
        square += z.T @ z
        np.add.at(by_frame, np.searchsorted(train_frames, training.data.frame[block]), z)
    centre = total / len(rows)
    values, vectors = _largest(square - len(rows) * np.outer(centre, centre))
    along = vectors.T @ (by_frame - np.outer(times, centre)).T
    return vectors, values, along, centre


def _dual(
    training: BaselineData, parts: WindowParts, rows: NDArray[np.int64], times: NDArray[np.int64]
) -> _Directions:
    """Decompose the products of the windows with each other."""
    z = np.concatenate(list(_read(training, parts, rows)))
    centre = z.mean(axis=0)
    z -= centre
    values, of_windows = _largest(z @ z.T)
    vectors = (z.T @ of_windows) / np.sqrt(values)
    by_frame = np.zeros((len(times), len(values)), dtype=np.float32)
    np.add.at(by_frame, _at(training, rows), of_windows)
    return vectors, values, (by_frame * np.sqrt(values)).T, centre


def _read(
    training: BaselineData, parts: WindowParts, rows: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """Yield the features, a block of windows at a time."""
    return (parts.z(counts) for _, counts in training.blocks(rows))


def _at(training: BaselineData, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the windows' frames stand among the training frames."""
    return np.searchsorted(training.train_frames, training.data.frame[rows])


def _largest(square: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decompose, and leave out what is rounding."""
    values, vectors = eigh(square.astype(np.float64))
    kept = values > 1e-6 * values[-1]
    return values[kept].astype(np.float32), vectors[:, kept].astype(np.float32)
