"""The bootstrap of every score: whole groups are drawn with replacement, the same for all scores.

A group holds what depends on each other: neighbouring windows that see almost the same frame
through almost the same spikes, or one scene. Each score is a ratio of sums, or a median, over the
items; it is computed in every draw, and the 2.5 % and 97.5 % points of the results are its
interval. Scores computed on the same `Draws` are paired, so that the interval of a difference is
that of the differences draw by draw.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentile intervals, chapter 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 2000
"""Enough for the 2.5 % and 97.5 % points to be stable in the second decimal place."""

INTERVAL = (0.025, 0.975)
"""Quantiles of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its 95 % bootstrap interval; NaN where it has none."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Say whether the interval contains a value."""
        return self.low <= value <= self.high

    def less(self, value: float) -> Interval:
        """Return the score less a number that does not vary with it."""
        return Interval(self.value - value, self.low - value, self.high - value)

    @property
    def is_known(self) -> bool:
        """Whether there is one."""
        return not math.isnan(self.low)

    def __str__(self) -> str:
        if not self.is_known:
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Groups drawn with replacement, once for all scores."""

    group: NDArray[np.int64]
    # (n_draws, n_groups): how often each group is in each draw. Fewer than two groups are not
    # drawn: all draws would be alike, and the interval would have no width.
    times: NDArray[np.float32]

    @property
    def n_groups(self) -> int:
        """Number of groups to draw from."""
        return int(self.times.shape[1])

    def ratio(
        self, numerator: NDArray[np.float64], denominator: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the ratio of two sums over items: of the data, then of each draw.

        Returns float64 of shape (1 + n_draws,), the data's own value first; NaN where the
        denominator is 0.
        """
        if denominator is None:
            denominator = np.ones_like(numerator)
        top, bottom = self._sums(numerator), self._sums(denominator)
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)

    def median(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (lower) median over items: of the data, then of each draw."""
        order = np.argsort(values, kind="stable")
        weights = self.times[:, self.group[order]]
        reached = np.cumsum(weights, axis=1)
        middle = (reached >= reached[:, -1:] / 2).argmax(axis=1)
        whole = values[order][(len(values) - 1) // 2]
        return np.concatenate(([whole], values[order][middle]))

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(self.group, weights=values, minlength=self.n_groups)
        return np.concatenate(([sums.sum()], self.times @ sums))


def draw_groups(
    group: NDArray[np.int64], *, seed: int, stream: int = 3, n_draws: int = N_DRAWS
) -> Draws:
    """Draw whole groups with replacement.

    `group` holds any labels, int64 of shape (n_items,); ``np.arange(n_items)`` draws every item
    by itself.
    """
    labels, index = np.unique(group, return_inverse=True)
    n = len(labels)
    if n < 2:
        return Draws(index.astype(np.int64), np.empty((0, n), np.float32))
    times = np.random.default_rng([seed, stream]).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return Draws(index.astype(np.int64), times.astype(np.float32))


def interval(values: NDArray[np.float64]) -> Interval:
    """Return a score with its percentile interval.

    `values` are as the methods of `Draws` return them, or the difference of two such arrays of
    the same draws. NaN draws are left out.
    """
    drawn = values[1:]
    if np.isnan(drawn).all():
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, INTERVAL)
    return Interval(float(values[0]), float(low), float(high))
