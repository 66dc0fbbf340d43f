"""How well calibrated a confidence is, as values: on test windows, none of which it was fitted to.

References
----------
Guo and others, ICML 2017: expected calibration error. El-Yaniv and Wiener, JMLR 2010: accuracy
over coverage, of a classifier that may refuse.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.confidence import ConfidenceModel
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Draws, Interval, interval
from encoder_training.files import plain
from encoder_training.probes.calibration import N_BINS, Reliability, bins_of, reliability

N_POINTS = 51
"""Of a curve for drawing."""


@dataclass(frozen=True, slots=True)
class ConfidenceTest:
    """Confidence against what was right, through one population or through all of them."""

    population: str
    n: int
    confidence: Interval  # mean
    right: Interval  # share of windows whose decoding was right; 0.1 by chance
    error: Interval  # expected calibration error, over ten bins
    reliability: Reliability


@dataclass(frozen=True, slots=True)
class SelectiveAccuracy:
    """How often the surest decodings are right."""

    kept: tuple[float, ...]  # share of windows, the surest first
    right: tuple[float, ...]  # share of these that are right
    at_half: Interval  # of the surer half
    of_all: Interval


@dataclass(frozen=True, slots=True, eq=False)
class FittedConfidence:
    """A calibration, how it came to be, and its test; or why there is none."""

    model: ConfidenceModel | None
    reason: str  # why there is none; empty if there is one
    n_windows: int  # validation windows that it was fitted to, through populations drawn at random
    n_groups: int  # independent groups among them
    n_candidates: int  # held-out frames that each decoding is compared with
    pooled: ConfidenceTest | None = None
    selective: SelectiveAccuracy | None = None
    populations: tuple[ConfidenceTest, ...] = ()

    def of(self, population: str) -> ConfidenceTest:
        """Return the test of one population."""
        return next(test for test in self.populations if test.population == population)

    def to_json(self) -> dict[str, Any]:
        """Return the test as plain values; what is no number is null."""
        if self.pooled is None or self.selective is None:
            return {}
        tree: dict[str, Any] = plain(
            {
                "n_candidates": self.n_candidates,
                "pooled": asdict(self.pooled),
                "selective": asdict(self.selective),
                "populations": [asdict(test) for test in self.populations],
            }
        )
        return tree


def measure_confidence(
    population: str,
    probability: NDArray[np.float64],
    right: NDArray[np.float64],
    draws: Draws,
) -> ConfidenceTest:
    """Compare confidence, shape (n,), with what was right, shape (n,) from 0 to 1."""
    return ConfidenceTest(
        population=population,
        n=len(right),
        confidence=interval(draws.ratio(probability)),
        right=interval(draws.ratio(right)),
        error=interval(calibration_errors(probability, right, draws)),
        reliability=reliability(probability, right),
    )


def calibration_errors(
    probability: NDArray[np.float64], right: NDArray[np.float64], draws: Draws
) -> NDArray[np.float64]:
    """Return the expected calibration error: of the data, then of each draw.

    Few windows in a bin are apart by chance, so that the error of a draw is rather larger than
    that of the data.
    """
    cell = draws.group * N_BINS + bins_of(probability)
    shape = (draws.n_groups, N_BINS)
    n_cells = draws.n_groups * N_BINS
    apart = np.bincount(cell, weights=probability - right, minlength=n_cells).reshape(shape)
    n = np.bincount(draws.group, minlength=draws.n_groups)
    times = np.concatenate([np.ones((1, draws.n_groups), np.float32), draws.times])
    errors: NDArray[np.float64] = np.abs(times @ apart).sum(axis=1) / (times @ n)
    return errors


def selective_accuracy(
    probability: NDArray[np.float64], right: NDArray[np.float64], draws: Draws
) -> SelectiveAccuracy:
    """Rank windows by confidence, and count how many of the surest are right."""
    surest = np.argsort(-probability, kind="stable")
    shares = np.cumsum(right[surest]) / np.arange(1, len(right) + 1)
    at = thinned(np.arange(len(right)), N_POINTS)
    is_kept = np.zeros(len(right))
    is_kept[surest[: (len(right) + 1) // 2]] = 1
    return SelectiveAccuracy(
        kept=tuple(((at + 1) / len(right)).tolist()),
        right=tuple(shares[at].tolist()),
        at_half=interval(draws.ratio(right * is_kept, is_kept)),
        of_all=interval(draws.ratio(right)),
    )
