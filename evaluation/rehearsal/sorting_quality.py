"""How well sortings find the planted spikes, unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_training.calibration.agreement import agreement

FOUND = 0.8
"""A planted unit counts as found if some unit of the sorting agrees this well."""


@dataclass(frozen=True, slots=True)
class SortingQuality:
    """One sorting against the truth, by each planted unit's best partner."""

    n_planted: int
    n_units: int  # of the sorting
    n_found: int  # planted units with an agreement of `FOUND` or more
    median_agreement: float  # over all planted units; 0 for one that is not found at all
    recall: float  # share of all planted spikes that the best partners have
    measured_on: str  # the part of the session whose spikes were compared

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def sorting_quality(
    planted: Sequence[NDArray[np.int64]],
    found: Sequence[NDArray[np.int64]],
    *,
    rate_hz: float,
    measured_on: str,
) -> SortingQuality:
    """Compare two sets of spike trains, samples in order."""
    best = [_best(train, found, rate_hz) for train in planted]
    n_spikes = sum(map(len, planted))
    scores = np.array([score for score, _ in best])
    return SortingQuality(
        n_planted=len(planted),
        n_units=len(found),
        n_found=int((scores >= FOUND).sum()),
        median_agreement=float(np.median(scores)) if len(scores) else 0.0,
        recall=sum(n for _, n in best) / n_spikes if n_spikes else 0.0,
        measured_on=measured_on,
    )


def _best(
    train: NDArray[np.int64], found: Sequence[NDArray[np.int64]], rate_hz: float
) -> tuple[float, int]:
    """Return the agreement with the best partner, and how many spikes they share."""
    near = sorted(found, key=lambda other: -_n_near(train, other))[:3]
    compared = [agreement(train, other, rate_hz=rate_hz) for other in near]
    return max(((one.score, one.n_matched) for one in compared), default=(0.0, 0))


def _n_near(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return about how many spikes are shared, over the larger number: quick, to choose by."""
    if not len(first) or not len(second):
        return 0.0
    at = np.clip(np.searchsorted(second, first), 1, max(1, len(second) - 1))
    gaps = np.minimum(
        np.abs(second[at - 1] - first), np.abs(second[np.minimum(at, len(second) - 1)] - first)
    )
    return float((gaps <= 15).sum()) / max(len(first), len(second))
