"""Scores that are ratios of sums over scenes: value, 95 % interval, and correction for chance.

F1 is the sum of 2 tp over the sum of 2 tp + fp + fn, an accuracy the sum of correct answers over
the sum of questions. So one bootstrap over scenes, drawn once, serves all scores, and two
populations that saw the same scenes are compared on the same draws. The bootstrap itself is that of
`encoder_training.evaluation.bootstrap`; here each scene is a group of its own.

References
----------
Wilson, Journal of the American Statistical Association 22, 1927: interval of a rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from encoder_training.evaluation.bootstrap import Draws, Interval, draw_groups, interval

N_DRAWS = 10_000  # Enough for the 2.5 % and 97.5 % points to be stable in the second decimal place

Z = 1.959964  # Of a 95 % interval

DRAWS_STREAM, DERANGEMENTS_STREAM = 1, 2
"""Random streams of a seed: the draws and the derangements must not depend on each other."""

N_DERANGEMENTS = 1_000
"""Orders over which chance is averaged; its standard error is then far below that of any score."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """One score, scene by scene."""

    # (n_scenes,): the score is the sum of the first over the sum of the second. Both are zero in a
    # scene to which the score does not apply.
    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    # The same score of the same sentences against other scenes; NaN where it has no meaning
    chance: float = float("nan")

    @property
    def value(self) -> float:
        """The score; NaN if it applies to no scene."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else float("nan")


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its 95 % bootstrap interval, raw and corrected for chance."""

    # As measured. NaN if it applies to no scene
    value: float
    low: float
    high: float
    chance: float  # The same score of the same sentences against other scenes
    n: int  # Scenes to which it applies

    @property
    def corrected(self) -> float:
        """The score on the scale on which 0 is chance and 1 is perfect."""
        return corrected(self.value, self.chance)

    @property
    def corrected_low(self) -> float:
        """Lower end of the interval on that scale, with chance held fixed."""
        return corrected(self.low, self.chance)

    @property
    def corrected_high(self) -> float:
        """Upper end of the interval on that scale, with chance held fixed."""
        return corrected(self.high, self.chance)


def draw_scenes(n_scenes: int, *, seed: int = 0, n_draws: int = N_DRAWS) -> Draws:
    """Draw scenes with replacement; the same seed gives the same draws.

    Raises
    ------
    MisuseError
        If there is no scene.
    """
    if n_scenes < 1:
        raise MisuseError("a bootstrap needs at least one scene, got none")
    scenes = np.arange(n_scenes, dtype=np.int64)
    return draw_groups(scenes, seed=seed, stream=DRAWS_STREAM, n_draws=n_draws)


def score(tally: Tally, draws: Draws) -> Score:
    """Return a score with its interval; `draws` are of the tally's scenes."""
    found = interval(_values(tally, draws))
    n = int(np.count_nonzero(tally.denominator))
    return Score(found.value, found.low, found.high, tally.chance, n)


def difference(first: Tally, second: Tally, draws: Draws) -> Interval:
    """Return one score of two populations on the same scenes, first minus second, paired."""
    return interval(_values(first, draws) - _values(second, draws))


def pooled(tallies: Sequence[Tally]) -> Tally:
    """Add repeats over the same scenes, such as random subsets of units, into one tally.

    The scenes remain the units of the bootstrap.
    """
    return Tally(
        np.sum([tally.numerator for tally in tallies], axis=0),
        np.sum([tally.denominator for tally in tallies], axis=0),
        float(np.mean([tally.chance for tally in tallies])),
    )


def rate_interval(rates: NDArray[np.float64]) -> Interval:
    """Return the mean of rates, each that of one draw, with Wilson's 95 % interval."""
    n, rate = len(rates), float(rates.mean())
    middle = (rate + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    # Exactly at the ends, which sums of rounded numbers miss.
    return Interval(rate, middle - half if rate > 0 else 0.0, middle + half if rate < 1 else 1.0)


def corrected(value: float, chance: float) -> float:
    """Put a score on the scale on which 0 is chance and 1 is perfect.

    >>> corrected(0.75, 0.5)
    0.5
    """
    return (value - chance) / (1 - chance) if chance < 1 else float("nan")


def number(value: float) -> str:
    """Return a number with two decimals; a dash for NaN.

    >>> number(0.456), number(float("nan"))
    ('0.46', '-')
    """
    return f"{value:.2f}" if math.isfinite(value) else "-"


def json_values(value: Any) -> Any:
    """Return the same tree with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: json_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def derangements(n: int, *, seed: int = 0, n_draws: int = N_DERANGEMENTS) -> NDArray[np.int64]:
    """Draw orders of `n` things in which nothing stays in its place, each equally likely.

    Returns int64 of shape (n_draws, n).

    Raises
    ------
    MisuseError
        If there are fewer than two things.
    """
    if n < 2:
        raise MisuseError(f"an order in which nothing stays needs two things or more, got {n}")
    rng = np.random.default_rng([seed, DERANGEMENTS_STREAM])
    identity = np.arange(n)
    orders = np.empty((n_draws, n), np.int64)
    missing = np.arange(n_draws)
    while missing.size:  # about one order in e is a derangement, whatever n is
        drawn = rng.permuted(np.broadcast_to(identity, (missing.size, n)), axis=1)
        orders[missing] = drawn
        missing = missing[(drawn == identity).any(axis=1)]
    return orders


def own_and_others(
    values: NDArray[np.float64], own: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each row's value in its own column, and the mean of its values in the others.

    `own` is the column of each row; the diagonal if omitted. The second is the exact mean over all
    derangements where every column belongs to one row.
    """
    rows = np.arange(len(values))
    matched = values[rows, rows if own is None else own]
    return matched, (values.sum(axis=1) - matched) / (values.shape[1] - 1)


def _values(tally: Tally, draws: Draws) -> NDArray[np.float64]:
    if draws.group.size != tally.numerator.size:
        raise MisuseError(
            f"draws are of {draws.group.size} scenes and the tally of {tally.numerator.size}"
        )
    return draws.ratio(tally.numerator, tally.denominator)
