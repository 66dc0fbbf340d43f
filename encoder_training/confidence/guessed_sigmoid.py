"""Fits a sigmoid above chance to how often windows were decoded well.

References
----------
Wichmann and Hill, Perception & Psychophysics 2001: maximum likelihood above a rate of guessing.
Gelman and others, Annals of Applied Statistics 2008: a weak prior of scale 2.5 on the weight of a
standardized feature, 10 on the offset.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from contracts.confidence import CHANCE

WEIGHT_STD = 2.5
OFFSET_STD = 10.0
"""Of normal priors."""

CLOSEST = 1e-6
"""A probability is never taken to be nearer to 1 than this."""

SMALLEST_SPREAD = 1e-9
"""Of a feature that is the same in all windows, whose weight stays 0."""


def fit_guessed_sigmoid(
    features: NDArray[np.float64], right: NDArray[np.float64], *, n_independent: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Return centre and spread of the features, their weights, and the offset.

    Windows are weighted alike, and together as if there were `n_independent` of them: neighbours
    show the same scene.

    Parameters
    ----------
    features : array, shape (n, n_features), float64
    right : array, shape (n,), float64
        From 0 to 1: the label, or where frames were equally similar the chance of it.
    """
    centre = features.mean(axis=0)
    spread = features.std(axis=0)
    is_constant = spread < SMALLEST_SPREAD
    spread = np.where(is_constant, 1.0, spread)
    z = np.where(is_constant, 0.0, (features - centre) / spread)

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, offset = at[:-1], at[-1]
        sigmoid = expit(z @ weight + offset)
        probability = np.clip(CHANCE + (1 - CHANCE) * sigmoid, CLOSEST, 1 - CLOSEST)
        likelihood = right * np.log(probability) + (1 - right) * np.log1p(-probability)
        prior = (weight @ weight) / WEIGHT_STD**2 + offset**2 / OFFSET_STD**2
        by_probability = (probability - right) / (probability * (1 - probability))
        by_logit = by_probability * (1 - CHANCE) * sigmoid * (1 - sigmoid)
        gradient = np.append(z.T @ by_logit, by_logit.sum()) / len(z)
        of_prior = np.append(weight / WEIGHT_STD**2, offset / OFFSET_STD**2)
        value = -likelihood.mean() + prior / (2 * n_independent)
        return float(value), gradient + of_prior / n_independent

    start = np.zeros(features.shape[1] + 1)
    solution = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return centre, spread, solution[:-1], float(solution[-1])
