"""How many pairs an experiment needs, by simulation with the test that it will use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.clips.statistics import sign_flip_p
from evaluation.questions.chance import is_rejected

OBSERVED = "observed"
GIVEN = (0.1, 0.2, 0.3, 0.5)
"""Differences of the rates of mention to plan for, beside the one that was observed."""

NUMBERS = (5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300)
"""Of pairs that are tried."""

N_EXPERIMENTS = 500
"""Simulated for each number of pairs; the standard error of a power is at most 0.022."""

ENOUGH = 0.8
POWER_STREAM = 22


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """The share of experiments with p of 0.05 or less, by number of pairs."""

    difference: float
    power: tuple[float, ...]  # Of `NUMBERS`

    @property
    def pairs_needed(self) -> int | None:
        """The smallest number from which on the power is enough; None if more than the largest."""
        is_enough = [power >= ENOUGH for power in self.power]
        if not is_enough[-1]:
            return None
        last_short = max((at for at, enough in enumerate(is_enough) if not enough), default=-1)
        return NUMBERS[last_short + 1]


def power_curve(
    differences: NDArray[np.float64], wanted: float | None = None, *, seed: int
) -> PowerCurve:
    """Simulate experiments like one that was made.

    Parameters
    ----------
    differences : array, shape (n_pairs,), float64
        As observed: pairs are drawn from them with replacement.
    wanted : float, optional
        Another mean difference. The differences keep their sizes, and their signs are drawn so
        that this is their mean; where they are too small for it, pairs of difference 1 replace
        some.
    """
    rng = np.random.default_rng([seed, POWER_STREAM])
    power: list[float] = []
    for n in NUMBERS:
        if power[-3:] == [1.0] * 3:  # more pairs find no less
            power.append(1.0)
            continue
        drawn = rng.choice(differences, (N_EXPERIMENTS, n))
        if wanted is not None:
            drawn = _with_mean(np.abs(drawn), float(np.abs(differences).mean()), wanted, rng)
        power.append(float(is_rejected(sign_flip_p(drawn)).mean()))
    return PowerCurve(float(differences.mean()) if wanted is None else wanted, tuple(power))


def _with_mean(
    sizes: NDArray[np.float64], mean_size: float, wanted: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    share_up = 1.0 if mean_size <= wanted else (1 + wanted / mean_size) / 2
    share_of_ones = (wanted - mean_size) / (1 - mean_size) if mean_size < wanted else 0.0
    signs = np.where(rng.random(sizes.shape) < share_up, 1.0, -1.0)
    return np.where(rng.random(sizes.shape) < share_of_ones, 1.0, signs * sizes)
