"""Scores that are sums over scenes, and how sure they are.

Every score of this package is a ratio of two sums over scenes: F1 is the sum of 2 tp over the sum
of 2 tp + fp + fn, an accuracy the sum of right answers over the sum of questions. So one bootstrap
over scenes, drawn once, serves them all, and two populations that saw the same scenes are compared
on the same draws.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentile intervals, chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError

N_DRAWS = 10_000
"""Enough for the 2.5 % and 97.5 % points to stand still in the second decimal place."""

N_DERANGEMENTS = 1_000
"""Orders over which chance is averaged; its standard error is then far below that of any score."""

INTERVAL = (0.025, 0.975)
"""Quantiles of a 95 % interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """One score, scene by scene.

    Attributes
    ----------
    numerator, denominator : array, shape (n_scenes,), float64
        The score is the sum of the first over the sum of the second. A scene that the score does
        not ask about has zero in both.
    chance : float
        The same score of the same sentences against other scenes; NaN where it has no meaning.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    chance: float = float("nan")

    @property
    def value(self) -> float:
        """The score itself; NaN if no scene asks for it."""
        return _ratio(float(self.numerator.sum()), float(self.denominator.sum()))


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its 95 % bootstrap interval, raw and corrected for chance.

    Attributes
    ----------
    value, low, high : float
        As measured. NaN if no scene asks for it.
    chance : float
        The same score of the same sentences against other scenes.
    corrected, corrected_low, corrected_high : float
        ``(score - chance) / (1 - chance)``, with chance held fixed: 0 is chance, 1 is perfect.
    n : int
        Scenes that ask for it.
    """

    value: float
    low: float
    high: float
    chance: float
    corrected: float
    corrected_low: float
    corrected_high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of two populations on the same scenes: first less second, paired.

    Attributes
    ----------
    value, low, high : float
        Difference and its 95 % bootstrap interval.
    """

    value: float
    low: float
    high: float


def resamples(n_scenes: int, *, seed: int = 0, n_draws: int = N_DRAWS) -> NDArray[np.float64]:
    """Draw scenes with replacement.

    Parameters
    ----------
    n_scenes : int
        At least one.
    seed : int
        The same seed gives the same draws.
    n_draws : int
        Rows.

    Returns
    -------
    counts : array, shape (n_draws, n_scenes), float64
        How often each scene is in each draw; each row sums to `n_scenes`.

    Raises
    ------
    MisuseError
        If there is no scene.
    """
    if n_scenes < 1:
        raise MisuseError("a bootstrap needs at least one scene, got none")
    rng = np.random.default_rng([seed, 1])
    drawn = rng.multinomial(n_scenes, np.full(n_scenes, 1 / n_scenes), size=n_draws)
    return drawn.astype(np.float64)


def score(tally: Tally, draws: NDArray[np.float64]) -> Score:
    """Return a score with its intervals.

    Parameters
    ----------
    tally : Tally
        Scene by scene.
    draws : array, shape (n_draws, n_scenes), float64
        As `resamples` returns them.

    Returns
    -------
    Score
    """
    low, high = _interval(_drawn(tally, draws))
    chance = tally.chance
    return Score(
        value=tally.value,
        low=low,
        high=high,
        chance=chance,
        corrected=corrected(tally.value, chance),
        corrected_low=corrected(low, chance),
        corrected_high=corrected(high, chance),
        n=int(np.count_nonzero(tally.denominator)),
    )


def difference(one: Tally, other: Tally, draws: NDArray[np.float64]) -> Difference:
    """Compare two populations on the same scenes.

    Parameters
    ----------
    one, other : Tally
        Of the same score and the same scenes in the same order.
    draws : array, shape (n_draws, n_scenes), float64
        As `resamples` returns them.

    Returns
    -------
    Difference
        `one` less `other`.
    """
    low, high = _interval(_drawn(one, draws) - _drawn(other, draws))
    return Difference(one.value - other.value, low, high)


def pooled(tallies: Sequence[Tally]) -> Tally:
    """Add repeats over the same scenes, such as random subsets of units, into one tally.

    Parameters
    ----------
    tallies : sequence of Tally
        Of one score; the scenes stay the units of the bootstrap.

    Returns
    -------
    Tally
    """
    return Tally(
        np.sum([each.numerator for each in tallies], axis=0),
        np.sum([each.denominator for each in tallies], axis=0),
        float(np.mean([each.chance for each in tallies])),
    )


def corrected(value: float, chance: float) -> float:
    """Put a score on the scale on which 0 is chance and 1 is perfect.

    >>> corrected(0.75, 0.5)
    0.5
    """
    return (value - chance) / (1 - chance) if chance < 1 else float("nan")


def derangements(n: int, *, seed: int = 0, n_draws: int = N_DERANGEMENTS) -> NDArray[np.int64]:
    """Draw orders in which nothing stays in its place, each equally likely.

    Parameters
    ----------
    n : int
        Things to reorder, at least two.
    seed : int
        The same seed gives the same orders.
    n_draws : int
        Rows.

    Returns
    -------
    orders : array, shape (n_draws, n), int64

    Raises
    ------
    MisuseError
        If there are fewer than two things.
    """
    if n < 2:
        raise MisuseError(f"an order in which nothing stays needs two things or more, got {n}")
    rng = np.random.default_rng([seed, 2])
    home = np.arange(n)
    orders = np.empty((n_draws, n), np.int64)
    missing = np.arange(n_draws)
    while missing.size:  # about one order in e is a derangement, whatever n is
        drawn = rng.permuted(np.broadcast_to(home, (missing.size, n)), axis=1)
        orders[missing] = drawn
        missing = missing[(drawn == home).any(axis=1)]
    return orders


def _drawn(tally: Tally, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    if draws.shape[1] != tally.numerator.size:
        raise MisuseError(
            f"draws are of {draws.shape[1]} scenes and the tally of {tally.numerator.size}"
        )
    numerator, denominator = draws @ tally.numerator, draws @ tally.denominator
    values = np.full(len(draws), np.nan)
    np.divide(numerator, denominator, out=values, where=denominator > 0)
    return values


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, INTERVAL)
    return float(low), float(high)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
