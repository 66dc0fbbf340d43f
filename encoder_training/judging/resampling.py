"""How sure a score is: windows drawn again in groups that hang together.

Neighbouring windows see almost the same frame through almost the same spikes, so that single
windows must not be drawn. What is drawn is what was held out as a whole, or, where that is less
than `FEWEST_GROUPS`, runs of neighbouring windows of a second.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentile intervals, chapter 13.
Kuensch, Annals of Statistics 1989: blocks, where neighbours depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.data_set.training_set import TrainingSet

N_DRAWS = 2000
"""Enough for the 2.5 % and 97.5 % points to stand still in the second decimal place."""

INTERVAL = (0.025, 0.975)
"""Quantiles of a 95 % interval."""

FEWEST_GROUPS = 10
"""Below it, the draws of a bootstrap are too few and too alike."""

RUN_S = 1.0
"""Of neighbouring windows; longer than a window and its lag together."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its 95 % bootstrap interval; NaN where it has no meaning."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Say whether the interval contains a value."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Groups drawn with replacement, once for all scores.

    Attributes
    ----------
    group : array, shape (n_windows,), int64
        From 0: what each window is drawn with.
    times : array, shape (n_draws, n_groups), float32
        How often each group is in each draw.
    """

    group: NDArray[np.int64]
    times: NDArray[np.float32]

    @property
    def n_groups(self) -> int:
        """What there is to draw from."""
        return int(self.times.shape[1])

    def ratio(
        self, numerator: NDArray[np.float64], denominator: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the ratio of two sums over windows in each draw, the data itself first.

        Parameters
        ----------
        numerator, denominator : array, shape (n_windows,), float64
            A mean, without a denominator.

        Returns
        -------
        values : array, shape (1 + n_draws,), float64
        """
        below = np.ones_like(numerator) if denominator is None else denominator
        sums = [
            np.bincount(self.group, weights=each, minlength=self.n_groups)
            for each in (numerator, below)
        ]
        top, bottom = (np.concatenate(([s.sum()], self.times @ s)) for s in sums)
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)

    def median(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (lower) median over windows in each draw, the data itself first."""
        order = np.argsort(values, kind="stable")
        weights = self.times[:, self.group[order]]
        reached = np.cumsum(weights, axis=1)
        at = (reached >= reached[:, -1:] / 2).argmax(axis=1)
        whole = values[order][(len(values) - 1) // 2]
        return np.concatenate(([whole], values[order][at]))


def draw_groups(group: NDArray[np.int64], *, seed: int, n_draws: int = N_DRAWS) -> Draws:
    """Draw whole groups with replacement.

    Parameters
    ----------
    group : array, shape (n_windows,), int64
        Any labels.
    seed : int
        The same seed draws the same groups.
    n_draws : int
        How often.

    Returns
    -------
    Draws
    """
    labels, where = np.unique(group, return_inverse=True)
    n = len(labels)
    times = np.random.default_rng([seed, 3]).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return Draws(where.astype(np.int64), times.astype(np.float32))


def runs(data: TrainingSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], str]:
    """Say what each window is drawn with.

    Parameters
    ----------
    data : TrainingSet
        Groups and times of the windows.
    rows : array, shape (n,), int64
        The windows that judge.

    Returns
    -------
    group : array, shape (n,), int64
        The data set's groups, or where they are few, runs within them.
    what : str
        In words.
    """
    group = data.group[rows]
    if len(np.unique(group)) >= FEWEST_GROUPS:
        return group, "held-out groups"
    run_bins = int(np.ceil(RUN_S * data.window.rate.bins_per_s))
    stacked = np.stack([group, data.first_bin[rows] // run_bins], axis=1)
    _, run = np.unique(stacked, axis=0, return_inverse=True)
    return run.reshape(-1).astype(np.int64), f"runs of {RUN_S:g} s within held-out groups"


def interval(values: NDArray[np.float64]) -> Interval:
    """Return a score with its interval, from what `Draws` gives."""
    drawn = values[1:]
    if np.isnan(drawn).all():
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, INTERVAL)
    return Interval(float(values[0]), float(low), float(high))
