"""The linear-Gaussian model of the counts, in closed form.

The features of each unit are a linear function of the frame's first principal components, and
independent noise. The posterior of these components, given any units, has the precision
I + sum over the units of W W' / noise, and the mean that solves it for the precision-weighted
features; both sums are over units.

The model is too sure where what it cannot explain is common to units, so that all precisions are
tempered by one factor. It and the ridge of W are chosen on validation windows, through random
populations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - the network's own solver is tried
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above

from encoder_training.evidence.network import solve

RIDGES = (0.01, 0.1, 1.0)
"""Added to each component's sum of squares, as a share of it, to choose from."""

TEMPERS = (1.0, 0.5, 0.3, 0.2, 0.1)
"""Factors of the precisions, to choose from."""

SMALLEST_NOISE = 1e-3
"""Variance of a feature about the model. Features are z-scores."""


@dataclass(frozen=True, slots=True, eq=False)
class GaussianModel:
    """The linear map of every feature, each divided by its noise."""

    gain: NDArray[np.float32]  # (n_features, n_gaussian): of the features, precision-weighted
    precision: NDArray[np.float32]  # (n_units, n_gaussian ** 2): that a unit adds
    scale: NDArray[np.float32]  # (n_gaussian,): standard deviation of each component

    def mean(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the posterior, coordinates of shape (n, n_gaussian).

        As the network computes it: `x` are its features, of shape (n, n_features).
        """
        n = len(self.scale)
        precision = (mask @ torch.from_numpy(self.precision)).view(-1, n, n)
        mean = solve(precision, x @ torch.from_numpy(self.gain))
        return mean * torch.from_numpy(self.scale)

    def tempered(self, temper: float) -> GaussianModel:
        """Return the model, less sure."""
        factor = np.float32(temper)
        return GaussianModel(self.gain * factor, self.precision * factor, self.scale)


class GaussianMoments:
    """Products of features and components over the training windows."""

    def __init__(self, n_features: int, n_gaussian: int) -> None:
        self._yy = np.zeros((n_gaussian, n_gaussian))
        self._yx = np.zeros((n_gaussian, n_features))
        self._xx = np.zeros(n_features)
        self._n = 0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Add windows: features (n, n_features), and components (n, n_gaussian)."""
        self._yy += y.T @ y
        self._yx += y.T @ x
        self._xx += np.square(x).sum(axis=0, dtype=np.float64)
        self._n += len(x)

    def model(self, n_units: int, ridge: float) -> GaussianModel:
        """Solve for the map and its noise."""
        squares = np.maximum(np.diagonal(self._yy), np.finfo(np.float64).tiny)
        weight = np.linalg.solve(self._yy + ridge * np.diag(squares), self._yx)
        missed = self._xx - 2 * (weight * self._yx).sum(axis=0)
        missed += (weight * (self._yy @ weight)).sum(axis=0)
        noise = np.maximum(missed / self._n, SMALLEST_NOISE)
        scale = np.sqrt(squares / self._n)
        unit = (weight * scale[:, None]).reshape(len(scale), -1, n_units)
        over_noise = unit / noise.reshape(-1, n_units)
        precision = np.einsum("lpu,kpu->ulk", over_noise, unit, optimize=True)
        return GaussianModel(
            np.ascontiguousarray(over_noise.reshape(len(scale), -1).T, dtype=np.float32),
            np.ascontiguousarray(precision.reshape(n_units, -1), dtype=np.float32),
            scale.astype(np.float32),
        )
