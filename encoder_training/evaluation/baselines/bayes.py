"""Naive Bayes over frames: the training frame that would most likely have given these counts.

Frames are the classes. The mean count of a frame is drawn towards the mean over all frames as if
`prior` windows of it had been seen (a Gamma prior for Poisson counts). The posterior is tempered,
because units and parts of a window are not independent: the posterior of a naive model is far too
sure, which costs nothing in its decision and much in its mixture of patches. Likelihood, parts,
prior and temper are chosen on validation.

References
----------
The baseline of Schneider, Lee and Mathis, Nature 2023 (CEBRA), for decoding frames of a movie.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from encoder_training.data_set.training_set import STD_FLOOR
from encoder_training.evaluation.baselines.decoder import FrameMixture
from encoder_training.evaluation.baselines.training_data import N_PARTS, BaselineData, WindowParts

PRIORS = (0.5, 2.0, 8.0)
"""Windows' worth of the mean over all frames, to choose from."""

TEMPERS = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)
"""Factors of the log likelihood, to choose from."""

SMALLEST_MEAN = 1e-3
"""Spikes in a part. A unit that never fired in training must not rule out every frame."""


class NaiveBayes(FrameMixture):
    """Both likelihoods are linear in the counts: a gain for each frame and count, and a bias."""

    name = "naive Bayes"

    def __init__(
        self,
        training: BaselineData,
        parts: WindowParts,
        linear: _Linear,
        temper: float,
        chosen: str,
    ) -> None:
        super().__init__(training.data.targets, training.train_frames)
        self._parts, self._linear, self._temper = parts, linear, temper
        self.chosen = chosen

    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the tempered posterior."""
        return _posterior(_scores(self._parts.sums(counts), self._linear), self._temper)


_Linear = tuple[NDArray[np.float32], NDArray[np.float32]]


def fit_bayes(training: BaselineData) -> FrameMixture:
    """Fit on all training windows and choose on validation.

    The result takes one number for each frame and sum: 115 MB at 3,600 frames, 2,000 units,
    four parts.
    """
    best: tuple[float, NaiveBayes] | None = None
    for n_parts in N_PARTS:
        parts = training.parts(n_parts)
        moments = _Moments(training, parts)
        sums_of_chosen = np.concatenate(
            [parts.sums(c) for _, c in training.blocks(training.chosen_by)]
        )
        for likelihood, prior in product((_poisson, _gaussian), PRIORS):
            linear = likelihood(moments, prior)
            scores = _scores(sums_of_chosen, linear)
            before = np.inf
            for temper in TEMPERS:  # softer and softer, until it is too soft
                error = training.error(_posterior(scores, temper))
                if error > before:
                    break
                before = error
                if best is None or error < best[0]:
                    kind = likelihood.__name__.strip("_").capitalize()
                    chosen = f"{kind}, {parts}, prior of {prior:g} windows, temper {temper:g}"
                    best = error, NaiveBayes(training, parts, linear, temper, chosen)
    return best[1]  # type: ignore[index]


class _Moments:
    """Sums over the training windows of each frame."""

    def __init__(self, training: BaselineData, parts: WindowParts) -> None:
        n_train_frames = len(training.train_frames)
        self.total = np.zeros((n_train_frames, len(parts.mean)), dtype=np.float32)
        self.n = np.zeros(n_train_frames, dtype=np.float32)
        self.squares = np.zeros(len(parts.mean))
        for rows, counts in training.blocks(training.train):
            sums = parts.sums(counts)
            at = np.searchsorted(training.train_frames, training.data.frame[rows])
            np.add.at(self.total, at, sums)
            np.add.at(self.n, at, 1)
            self.squares += np.square(sums).sum(axis=0, dtype=np.float64)

    def mean(self, prior: float) -> NDArray[np.float32]:
        """Return the mean counts of each frame, drawn towards those of all."""
        overall = np.maximum(self.total.sum(axis=0) / self.n.sum(), SMALLEST_MEAN)
        drawn: NDArray[np.float32] = (self.total + prior * overall) / (self.n[:, None] + prior)
        return drawn

    def variance(self) -> NDArray[np.float32]:
        """Return the variance of a sum about the mean of its frame, alike for all frames."""
        n_free = float(self.n.sum()) - len(self.n)
        if n_free < len(self.n):  # frames shown once have no spread of their own
            mean = self.total.sum(axis=0, dtype=np.float64) / self.n.sum()
            spread = self.squares / self.n.sum() - mean**2
        else:
            own = (np.square(self.total) / self.n[:, None]).sum(axis=0, dtype=np.float64)
            spread = (self.squares - own) / n_free
        floored: NDArray[np.float32] = np.maximum(spread, STD_FLOOR**2).astype(np.float32)
        return floored


def _poisson(moments: _Moments, prior: float) -> _Linear:
    mean = moments.mean(prior)
    return np.log(mean), -mean.sum(axis=1)


def _gaussian(moments: _Moments, prior: float) -> _Linear:
    gain = moments.mean(prior) / moments.variance()
    return gain, -0.5 * (gain * moments.mean(prior)).sum(axis=1)


def _scores(sums: NDArray[np.float32], linear: _Linear) -> NDArray[np.float32]:
    gain, bias = linear
    likelihood: NDArray[np.float32] = sums @ gain.T + bias
    return likelihood


def _posterior(scores: NDArray[np.float32], temper: float) -> NDArray[np.float32]:
    posterior: NDArray[np.float32] = softmax(temper * scores, axis=1)
    return posterior
