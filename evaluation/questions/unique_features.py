"""Which features are larger in one population than in any other of its kind.

Two measures, each a mean over windows: *magnitude*, the activation itself, and *following*, the
slope of the activation over that of the true patches. Magnitude can be a bias of the decoder, which
never depends on the frame; following cannot. A feature is *unique* to the population in which its
measure is largest, if the lead over the largest of the others, and of the controls, is larger than
chance gives to any feature: the names of the populations change places, in the same way for all
features, within blocks of time, and the largest lead of all features counts. Each lead is in units
of what a permutation moves that feature by. One that is unique by following must also follow the
frames by circular shifts: a population whose activations merely vary more than those of the others
has the larger slopes of either sign, and the permutation calls a quarter of these unique.

This is of these units. Any two sets of units differ in some features, so that the same count for
sets of random units stands beside it (`evaluation.questions.apart.random_divisions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from evaluation.questions.chance import (
    LEVEL,
    Positions,
    correlation_tests,
    is_discovered,
    is_rejected,
)

N_PERMUTATIONS = 999
BLOCK_LAGS = 2
"""Length of a block within which names change places, in minimal lags. With shorter ones names that
mean nothing have unique features too often (docs/decisions/0044-sparse-features.md)."""

FEWEST_BLOCKS = 5

NAMES_STREAM = 21


@dataclass(frozen=True, slots=True, eq=False)
class Uniqueness:
    """The features of several populations of one kind; arrays of shape (n, n_features)."""

    names: tuple[str, ...]
    mean: NDArray[np.float64]  # Of the measure
    lead: NDArray[np.float64]  # Over the largest of the others and the controls
    p: NDArray[np.float64]  # Of the largest lead of any feature, names permuted
    by_permutation: NDArray[np.int64]  # (n_permutations,): features that would be called unique

    @property
    def is_unique(self) -> NDArray[np.bool_]:
        """Whether each feature is unique to each population."""
        return is_rejected(self.p) & (self.lead > 0)


def uniqueness(
    measured: Mapping[str, NDArray[np.float64]],
    controls: Sequence[NDArray[np.float64]],
    block: NDArray[np.int64],
    *,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
) -> Uniqueness:
    """Compare populations by a measure; all values have the shape (n_windows, n_features).

    `block`, shape (n_windows,), is that of `name_blocks`.
    """
    n, n_windows = len(measured), len(block)
    sums = np.zeros((n, int(block.max()) + 1, next(iter(measured.values())).shape[1]))
    for at, values in enumerate(measured.values()):
        np.add.at(sums[at], block, values / n_windows)
    floor = np.max([values.mean(axis=0) for values in controls], axis=0) if controls else None
    scale = np.sqrt(sums.var(axis=0).sum(axis=0))
    mean = sums.sum(axis=1)
    lead = leads(mean, floor)
    rng = np.random.default_rng([seed, NAMES_STREAM])
    blocks = np.arange(sums.shape[1])
    drawn = []
    for _ in range(n_permutations):
        order = rng.permuted(np.tile(np.arange(n), (len(blocks), 1)), axis=1).T
        drawn.append(_scaled(leads(sums[order, blocks].sum(axis=1), floor), scale))
    largest = np.sort([one.max() for one in drawn])
    true = _scaled(lead, scale)
    n_above = len(largest) - np.searchsorted(largest, true - 1e-9)
    limit = np.quantile(largest, 1 - LEVEL)
    by_permutation = np.array([int((one > limit).sum()) for one in drawn])
    return Uniqueness(
        tuple(measured), mean, lead, (1 + n_above) / (1 + n_permutations), by_permutation
    )


def name_blocks(positions: Positions, minimal_lags: Sequence[int]) -> NDArray[np.int64]:
    """Cut each movie into parts that are nearly independent; the part of each window.

    Raises
    ------
    UserError
        If there are too few.
    """
    block = np.zeros(len(positions), np.int64)
    n_blocks = 0
    for rows, lag in zip(positions.movies, minimal_lags, strict=True):
        n = max(1, len(rows) // (BLOCK_LAGS * lag))
        block[rows] = n_blocks + np.arange(len(rows)) * n // len(rows)
        n_blocks += n
    if n_blocks < FEWEST_BLOCKS:
        raise UserError(
            f"unique features need {FEWEST_BLOCKS} parts of the movies that have nothing to do "
            f"with each other, and the scored frames, whose captions are unrelated from "
            f"{' and '.join(map(str, minimal_lags))} frames on, have {n_blocks}. Hold out more in "
            "'neurrate prepare', or leave this question out."
        )
    of_window: NDArray[np.int64] = block[positions.of_window]
    return of_window


def slopes(activations: NDArray[np.float64], shown: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each window adds to the slope over the true patches; its mean is the slope.

    Both of shape (n_windows, n_features); zeros for a feature that the true patches never vary.
    """
    own, true = (values - values.mean(axis=0) for values in (activations, shown))
    variance = (true**2).mean(axis=0)
    parts: NDArray[np.float64] = own * true / np.where(variance > 1e-12, variance, np.inf)
    return parts


def leads(
    mean: NDArray[np.float64], floor: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return each mean, shape (n, ...), less the largest of the others and of a floor."""
    others = np.stack([np.delete(mean, at, axis=0).max(axis=0) for at in range(len(mean))])
    lead: NDArray[np.float64] = mean - (others if floor is None else np.maximum(others, floor))
    return lead


def z_scores(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return z-scores over the first axis."""
    spread = mean.std(axis=0)
    z: NDArray[np.float64] = (mean - mean.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    return z


def following(
    activations: NDArray[np.float64],
    shown: NDArray[np.float64],
    positions: Positions,
    *,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Ask which features of a population follow the frames: r, p over circular shifts, whether.

    `activations`, of a population, and `shown`, of the true patches, have the shape (n_windows,
    n_features). A feature follows if p is at most 0.05 after Benjamini and Hochberg's correction
    over all features. Where features were chosen by their slope, p of these alone would be too
    small.
    """
    r, p = correlation_tests(
        mean_of(activations, positions), mean_of(shown, positions), positions, seed=seed
    )
    return r, p, is_discovered(p) & (r > 0)


def mean_of(values: NDArray[np.float64], positions: Positions) -> NDArray[np.float64]:
    """Average windows over those of each position, shape (n_positions, n_features)."""
    mean: NDArray[np.float64] = positions.table(values) / positions.n_windows[:, np.newaxis]
    return mean


def _scaled(lead: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return leads in units of a permutation's spread; none for a feature that is never active."""
    return np.divide(lead, scale, out=np.full_like(lead, -np.inf), where=scale > 1e-12)
