"""Whether a number grows: its slope over time, with an interval that is wide enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BLOCKS = 12
"""Neighbouring seconds are alike, so that each is worth less than one observation. Means of twelve
stretches of the run are nearly independent."""

T_975 = 2.228
"""97.5 % point of Student's t with 10 degrees of freedom: twelve means, two of them fitted."""

MIN_PER_BLOCK = 2


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope and its 95 % confidence interval, per hour.

    Attributes
    ----------
    slope, low, high : float
    n : int
        Values that it was made of.
    """

    slope: float
    low: float
    high: float
    n: int

    def text(self, unit: str) -> str:
        """Say it."""
        return f"{self.slope:+.2f} {unit} an hour (95 %: {self.low:+.2f} to {self.high:+.2f})"


def trend(at_s: NDArray[np.float64], values: NDArray[np.float64]) -> Trend | None:
    """Fit a line through the means of twelve stretches.

    Parameters
    ----------
    at_s : array, shape (n,), float64, seconds
        In order.
    values : array, shape (n,), float64

    Returns
    -------
    Trend or None
        None of fewer than twice twelve values.
    """
    if len(values) < N_BLOCKS * MIN_PER_BLOCK:
        return None
    x = np.array([part.mean() for part in np.array_split(at_s / 3600, N_BLOCKS)])
    y = np.array([part.mean() for part in np.array_split(values, N_BLOCKS)])
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread
    residual = y - y.mean() - slope * centred
    error = float(np.sqrt((residual**2).sum() / (N_BLOCKS - 2) / spread))
    return Trend(slope, slope - T_975 * error, slope + T_975 * error, len(values))
