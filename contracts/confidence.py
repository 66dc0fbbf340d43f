"""How sure a decoding is: three features of one window, and the probability that they stand for.

A least-squares encoder answers with the mean grid of its training when its units say nothing: the
length of a grid about that mean is how much they said. But spikes in the wrong order move a grid
as far as those in the right one. So the grid is also turned round: which activity would the frame
that was decoded evoke in the selected units, and is it in their spikes? Training and daemon call
the functions here. What the probability is of, and how it is fitted:
docs/decisions/0026-confidence.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

CHANCE = 0.1
"""The best tenth: a confidence is the probability that the frame that was shown is among the tenth
of held-out frames that are most like the decoded grid. It never falls below its chance."""

CONFIDENCE_VERSION = 2
"""Of the two files in a bundle. Raised when a name or a meaning in them changes."""

FEATURES = ("length", "strength", "shortfall", "cosine", "match", "misfit")
"""Names of the features, in their order."""

FEATURES_OF_VERSION = {1: FEATURES[:3], CONFIDENCE_VERSION: FEATURES}
"""What files of each version that is read weigh."""

ARRAYS = ("place", "patch_mean", "inverse_std", "component", "response", "inverse_noise")
"""Names of the tensors, the fields of `WindowFeatures`."""

MAX_PLACES = 64
"""Patches of a grid that are looked at: 64 of 576 give its length to a few per cent, in a tenth of
the time."""

SMALLEST_SQUARE = 1e-6
"""Added to a mean square before its logarithm: below it, a length is rounding of float16."""

SMALLEST_STRENGTH = 0.1
"""Added to a strength, in standard deviations of noise: below it, a grid asks nothing of the
spikes."""

LARGEST_LOGIT = 60.0
"""Beyond it a probability is 0 or 1 anyway, and exp does not overflow."""


class ConfidenceFile(BaseModel):
    """The whole of ``confidence.json``; the arrays lie beside it in a safetensors file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: int
    chance: float
    """`CHANCE`, for people."""
    features: tuple[str, ...]
    """`FEATURES_OF_VERSION`: the order of the lists below."""
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weight: tuple[float, ...]
    offset: float
    n_windows: int = Field(ge=0)
    """Validation windows, each through a population drawn at random, that it was fitted to."""
    n_groups: int = Field(ge=0)
    """Independent groups among them."""
    weights_sha256: str = ""
    """Of the ``encoder.safetensors`` that it was fitted for, where that lay beside it."""
    tested: dict[str, Any] = {}
    """What the test windows said, for people: the report of the training has the same."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowFeatures:
    """Measures windows, each with the grid that was decoded from it.

    Attributes
    ----------
    place : array, shape (n_places,), int64
        Patches of the grid that are looked at.
    patch_mean : array, shape (n_places, dim), float32
        Mean of these patches over the training frames.
    inverse_std : array, shape (dim,), float32
        One over the standard deviation of each dimension; 0 for one that never changes.
    component : array, shape (dim, n_components), float32
        Turns the mean of the scaled patches into a few numbers.
    response : array, shape (n_components, n_units), float32
        Mean z-score of each unit over a window for one of each number, in units of its noise.
    inverse_noise : array, shape (n_units,), float32
        One over the standard deviation of that z-score about what the frame evokes.
    """

    place: NDArray[np.int64]
    patch_mean: NDArray[np.float32]
    inverse_std: NDArray[np.float32]
    component: NDArray[np.float32]
    response: NDArray[np.float32]
    inverse_noise: NDArray[np.float32]

    def of(
        self,
        patches: NDArray[np.float32],
        activity: NDArray[np.float32],
        mask: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Return the features of windows, float64 of shape (n, 6).

        They are not finite where patches are not.

        ``length`` is the logarithm of the mean squared distance of the grid from the training
        mean. ``strength`` is the logarithm of the length of the activity that the grid predicts,
        in standard deviations of noise: how far it could be told from none. ``shortfall`` is by
        how much less of it is in the spikes; 0 where there is no less. ``cosine`` is that of
        predicted and true activity, ``match`` the logarithm of how much of the prediction is there.
        ``misfit`` is the logarithm of the mean square of what the prediction leaves.

        Parameters
        ----------
        patches : array, shape (n, n_patches, dim), float32
        activity : array, shape (n, n_units), float32
            Mean z-score of each row of the encoder's input over the window.
        mask : array, shape (n, n_units), float32
            1 for a selected row, 0 for one held at its mean.
        """
        z = (patches[:, self.place] - self.patch_mean) * self.inverse_std
        square = np.einsum("npd,npd->n", z, z, dtype=np.float64) / (z.shape[1] * z.shape[2])
        # Not BLAS: its threads take the cores from the encoder (daemon/triggers/probes.py).
        mean = np.add.reduce(z, axis=1) / z.shape[1]
        numbers = np.einsum("nd,dk->nk", mean, self.component)
        predicted = np.einsum("nk,ku->nu", numbers, self.response) * mask
        seen = activity * self.inverse_noise * mask
        strength = np.sqrt(np.einsum("nu,nu->n", predicted, predicted, dtype=np.float64))
        match = np.einsum("nu,nu->n", predicted, seen, dtype=np.float64)
        match /= np.maximum(strength, SMALLEST_STRENGTH)
        length = np.sqrt(np.einsum("nu,nu->n", seen, seen, dtype=np.float64))
        left = seen - predicted
        missed = np.einsum("nu,nu->n", left, left, dtype=np.float64)
        n_selected = np.add.reduce(mask, axis=1, dtype=np.float64)
        return np.stack(
            [
                np.log(square + SMALLEST_SQUARE),
                np.log(strength + SMALLEST_STRENGTH),
                np.minimum(match - strength, 0),
                match / np.maximum(length, SMALLEST_STRENGTH),
                np.log(np.maximum(match, 0) + SMALLEST_STRENGTH),
                # As if one more unit were selected and fitted as expected: no unit is no 0 / 0.
                np.log((missed + 1) / (n_selected + 1)),
            ],
            axis=1,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ConfidenceModel:
    """``CHANCE + (1 - CHANCE) * sigmoid(weight @ (features - centre) / spread + offset)``.

    `centre`, `spread` and `weight` are float64 of shape (n,): those of the first n features, all or
    the three of version 1.

    References
    ----------
    Wichmann and Hill, Perception & Psychophysics 2001: a sigmoid above the rate of guessing.
    """

    features: WindowFeatures
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    weight: NDArray[np.float64]
    offset: float

    def probability(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the confidence of windows, shape (n, 6) to (n,); NaN for what is not finite."""
        features = features[:, : len(self.weight)]
        logit = np.einsum("nf,f->n", (features - self.centre) / self.spread, self.weight)
        probability = guessed_sigmoid(logit + self.offset)
        return np.where(np.isfinite(features).all(axis=1), probability, np.nan)


def guessed_sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``CHANCE + (1 - CHANCE) * sigmoid(logit)``, element by element."""
    bounded = np.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT)
    probability: NDArray[np.float64] = CHANCE + (1 - CHANCE) / (1 + np.exp(-bounded))
    return probability
