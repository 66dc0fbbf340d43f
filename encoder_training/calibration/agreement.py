"""How well the online sorter finds the spikes of the offline sorting, unit by unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MATCH_S = 0.0004
"""Within which two spikes are the same, as in SpikeInterface's comparisons."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spikes of one unit in two sortings, matched one to one.

    Attributes
    ----------
    lag_samples : int
        By which the second is later; the best within `MATCH_S`, taken out before matching.
    """

    n_first: int
    n_second: int
    n_matched: int
    lag_samples: int = 0

    @property
    def score(self) -> float:
        """Matched spikes over all different ones, from 0 to 1; 0 where neither has a spike."""
        either = self.n_first + self.n_second - self.n_matched
        return self.n_matched / either if either else 0.0

    @property
    def precision(self) -> float:
        """Share of the second's spikes that the first has."""
        return self.n_matched / self.n_second if self.n_second else 0.0

    @property
    def recall(self) -> float:
        """Share of the first's spikes that the second has."""
        return self.n_matched / self.n_first if self.n_first else 0.0


def agreement(first: NDArray[np.int64], second: NDArray[np.int64], *, rate_hz: float) -> Agreement:
    """Match the spikes of one unit in two sortings; both are samples in order."""
    tolerance = round(MATCH_S * rate_hz)
    lag = _lag(first, second, tolerance)
    n_matched = n_matches(first, second - lag, tolerance)
    return Agreement(len(first), len(second), n_matched, lag)


def n_matches(first: NDArray[np.int64], second: NDArray[np.int64], tolerance: int) -> int:
    """Return how many spikes can be matched one to one, each within `tolerance` samples.

    The earliest partner that is free is taken, which gives the most matches on a line.
    """
    n_matched = at = 0
    others = second.tolist()
    for sample in first.tolist():
        while at < len(others) and others[at] < sample - tolerance:
            at += 1
        if at < len(others) and others[at] <= sample + tolerance:
            n_matched += 1
            at += 1
    return n_matched


def _lag(first: NDArray[np.int64], second: NDArray[np.int64], tolerance: int) -> int:
    """Return the most frequent difference of neighbouring spikes; of equal ones the smallest."""
    if not len(first) or not len(second):
        return 0
    after = np.searchsorted(second, first)
    neighbours = [np.clip(place, 0, len(second) - 1) for place in (after - 1, after)]
    near = np.concatenate([second[place] - first for place in neighbours])
    near = near[np.abs(near) <= tolerance]
    if not len(near):
        return 0
    values, counts = np.unique(near, return_counts=True)
    best = values[counts == counts.max()]
    return int(best[np.argmin(np.abs(best))])
