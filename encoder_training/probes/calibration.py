"""Scores of a binary classifier: area under the curve, calibration, and how well calibrated it is.

References
----------
Platt, Advances in Large Margin Classifiers 1999: the scale and the offset of a sigmoid, fitted to
smoothed labels. Guo and others, ICML 2017: expected calibration error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Draws

N_BINS = 10
"""Of predicted probability, equally wide."""

CLOSEST = 1e-6
"""A probability is never taken to be nearer to 0 or 1 than this."""


def platt(
    score: NDArray[np.float64], label: NDArray[np.bool_], *, n_independent: int
) -> tuple[float, float]:
    """Fit ``sigmoid(scale * score + offset)`` to labels.

    Neighbouring windows show the same scene, so hundreds of them may be a handful of scenes. Labels
    are smoothed, and scale 1 and offset 0 preferred, as if there were only so many examples: a
    normal prior of standard deviation 1 on both.

    Parameters
    ----------
    label : array, shape (n,), bool
        Both kinds.
    n_independent : int
        Independent examples: groups of windows.
    """
    n_yes, n_no = n_independent * label.mean(), n_independent * (~label).mean()
    wanted = np.where(label, (n_yes + 1) / (n_yes + 2), 1 / (n_no + 2))
    mean, spread = float(score.mean()), float(score.std()) or 1.0
    centred = (score - mean) / spread

    def unscaled(at: NDArray[np.float64]) -> tuple[float, float]:
        scale = float(at[0]) / spread
        return scale, float(at[1]) - scale * mean

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = at[0] * centred + at[1]
        missed = expit(logit) - wanted
        scale, offset = unscaled(at)
        prior = ((scale - 1) ** 2 + offset**2) / (2 * n_independent)
        value = (np.logaddexp(0, logit) - wanted * logit).mean() + prior
        of_prior = np.array([(scale - 1 - offset * mean) / spread, offset]) / n_independent
        return float(value), np.array([(missed * centred).mean(), missed.mean()]) + of_prior

    start = np.array([spread, mean])
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return unscaled(solution.x)


def log_loss(probability: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Return the mean of minus the logarithm of the probability given to what was true."""
    given = np.clip(np.where(label, probability, 1 - probability), CLOSEST, 1)
    return float(-np.log(given).mean())


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted probability against what happened, bin by bin; empty bins are left out."""

    # Mean probability, and share of yes
    predicted: tuple[float, ...]
    happened: tuple[float, ...]
    n: tuple[int, ...]

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of the two, weighted by `n`."""
        apart = np.abs(np.array(self.predicted) - np.array(self.happened))
        return float(np.average(apart, weights=self.n)) if self.n else float("nan")


def bins_of(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of `N_BINS` equal bins each probability is in; 1 is in the last."""
    return np.minimum((probability * N_BINS).astype(np.int64), N_BINS - 1)


def reliability(
    probability: NDArray[np.float64], label: NDArray[np.bool_] | NDArray[np.float64]
) -> Reliability:
    """Sort predictions into ten bins of probability.

    A label may be a share from 0 to 1: how often it happened.
    """
    at = bins_of(probability)
    n, predicted, happened = (
        np.bincount(at, weights=weights, minlength=N_BINS)
        for weights in (None, probability, label.astype(np.float64))
    )
    full = n > 0
    return Reliability(
        tuple((predicted[full] / n[full]).tolist()),
        tuple((happened[full] / n[full]).tolist()),
        tuple(n[full].tolist()),
    )


def areas_under_curve(
    score: NDArray[np.float64], label: NDArray[np.bool_], draws: Draws
) -> NDArray[np.float64]:
    """Return the area under the ROC curve in each draw, the data itself first.

    Returns float64 of shape (1 + n_draws,), the probability that a yes scores above a no, ties
    counted half; NaN where a draw has only one of the two.
    """
    _, level = np.unique(score, return_inverse=True)
    times = np.concatenate([np.ones((1, draws.n_groups), np.float32), draws.times])
    weights = times[:, draws.group]
    order = np.argsort(level, kind="stable")
    firsts = np.flatnonzero(np.diff(level[order], prepend=-1))
    yes, no = (
        np.add.reduceat((weights * is_kind)[:, order], firsts, axis=1, dtype=np.float64)
        for is_kind in (label, ~label)
    )
    n_below = np.cumsum(no, axis=1) - no / 2
    n_pairs = yes.sum(axis=1) * no.sum(axis=1)
    won = (yes * n_below).sum(axis=1)
    area: NDArray[np.float64] = np.full(len(won), np.nan)
    np.divide(won, n_pairs, out=area, where=n_pairs > 0)
    return area


def roc(
    score: NDArray[np.float64], label: NDArray[np.bool_], *, n_points: int = 101
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a ROC curve for drawing: false and true alarms, from (0, 0) to (1, 1).

    The points are evenly thinned to `n_points`.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.concatenate(([0], np.cumsum(label[order])[ends])) / label.sum()
    alarms = np.concatenate(([0], np.cumsum(~label[order])[ends])) / (~label).sum()
    kept = thinned(np.arange(len(hits)), n_points)
    hits, alarms = hits[kept], alarms[kept]
    return tuple(alarms.tolist()), tuple(hits.tolist())
