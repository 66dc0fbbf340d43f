"""How sure a score is: windows drawn again in groups that hang together.

Neighbouring windows see almost the same frame through almost the same spikes, so that single
windows must not be drawn. What is drawn is what was held out as a whole, or, where that is less
than `FEWEST_GROUPS`, runs of a second of the movie, with the windows of all its repeats: twenty
showings of a hard second are still one hard second.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentile intervals, chapter 13.
Kuensch, Annals of Statistics 1989: blocks, where neighbours depend on each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.window import WindowSpec
from encoder_training.data_set.training_set import TrainingSet
from encoder_training.evaluation.movie_time import MovieTime

N_DRAWS = 2000
"""Enough for the 2.5 % and 97.5 % points to stand still in the second decimal place."""

INTERVAL = (0.025, 0.975)
"""Quantiles of a 95 % interval."""

FEWEST_GROUPS = 10
"""Below it, the draws of a bootstrap are too few and too alike."""

RUN_S = 1.0
"""Of movie time, or a window and its lag together where that is longer."""


SHORT = 0.05
"""Of a run: a chunk of thirty frames of 33.3 ms is a run of a second."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its 95 % bootstrap interval; NaN where it has none."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Say whether the interval contains a value."""
        return self.low <= value <= self.high

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
    """Groups drawn with replacement, once for all scores.

    Attributes
    ----------
    group : array, shape (n_windows,), int64
        From 0: what each window is drawn with.
    times : array, shape (n_draws, n_groups), float32
        How often each group is in each draw. A single group is never drawn: all draws would be
        alike, and a score without doubt.
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
    if n < 2:
        return Draws(where.astype(np.int64), np.empty((0, n), np.float32))
    times = np.random.default_rng([seed, 3]).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return Draws(where.astype(np.int64), times.astype(np.float32))


def runs(
    data: TrainingSet, rows: NDArray[np.int64], time: MovieTime
) -> tuple[NDArray[np.int64], str]:
    """Say what each window is drawn with.

    Parameters
    ----------
    data : TrainingSet
        Groups and frames of the windows.
    rows : array, shape (n,), int64
        The windows that judge.
    time : MovieTime
        Of the frames.

    Returns
    -------
    group : array, shape (n,), int64
        The data set's groups, or where they are few, runs of movie time: the windows of all
        repeats together.
    what : str
        In words.
    """
    group = data.group[rows]
    n_groups = len(np.unique(group))
    if n_groups >= FEWEST_GROUPS:
        return group, "held-out groups"
    run_s = run_seconds(data.window)
    what = f"runs of {run_s:.2g} s of movie time from {n_groups} held-out group"
    return movie_runs(data.frame[rows], time, run_s), what + "s" * (n_groups > 1)


def run_seconds(window: WindowSpec) -> float:
    """Return how long a run is: neighbouring runs share no spikes but at their border."""
    return max(RUN_S, window.duration_s + window.lag_ns / NS_PER_S)


def movie_runs(frame: NDArray[np.int64], time: MovieTime, run_s: float) -> NDArray[np.int64]:
    """Cut what was shown of each movie into runs of equal length, whenever it was shown.

    Parameters
    ----------
    frame : array, shape (n,), int64
        Rows of the targets.
    time : MovieTime
        Of them. A picture without a time is a run by itself.
    run_s : float
        Length, but for `SHORT` of it; longer where a stretch of frames does not divide by it, and
        shorter where it is shorter itself.

    Returns
    -------
    run : array, shape (n,), int64
        From 0.
    """
    shown, where = np.unique(frame, return_inverse=True)
    run = np.arange(len(shown))
    for movie in np.unique(time.movie[shown]):
        of_movie = np.flatnonzero(time.movie[shown] == movie)
        at_s = time.time_s[shown[of_movie]]
        if np.isnan(at_s).any():
            continue
        of_movie, at_s = of_movie[np.argsort(at_s)], np.sort(at_s)
        step_s = np.diff(at_s)
        gaps = np.flatnonzero(step_s > run_s) + 1
        for stretch in np.split(np.arange(len(at_s)), gaps):
            inside_s = np.diff(at_s[stretch])
            lasts_s = inside_s.sum() + (np.median(inside_s) if len(inside_s) else 0)
            n_runs = max(1, int(lasts_s / run_s + SHORT))
            piece = np.arange(len(stretch)) * n_runs // len(stretch)
            first_of = stretch[np.searchsorted(piece, piece)]
            run[of_movie[stretch]] = of_movie[first_of]
    return np.unique(run[where], return_inverse=True)[1].astype(np.int64)


def interval(values: NDArray[np.float64]) -> Interval:
    """Return a score with its interval, from what `Draws` gives."""
    drawn = values[1:]
    if np.isnan(drawn).all():
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, INTERVAL)
    return Interval(float(values[0]), float(low), float(high))
