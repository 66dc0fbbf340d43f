"""Whether a number grows: its slope over time, with a confidence interval.

Neighbouring seconds of a soak are alike, and the standard error of an ordinary regression, which
takes them for independent, would be far too small. So the line is fitted through the means of a few
long blocks, which are nearly independent (batch means).

References
----------
Schmeiser, Operations Research 30, 1982: batch means; 10 to 30 batches are enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BLOCKS = 12
MIN_PER_BLOCK = 2


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope and its 95 % confidence interval, per hour, and the number of values behind it."""

    slope: float
    low: float
    high: float
    n: int

    def text(self, unit: str) -> str:
        """Return the slope and its interval in words."""
        return f"{self.slope:+.2f} {unit} an hour (95 %: {self.low:+.2f} to {self.high:+.2f})"


def trend(time_s: NDArray[np.float64], values: NDArray[np.float64]) -> Trend | None:
    """Fit a line through the means of `N_BLOCKS` blocks of neighbouring values.

    `time_s` is in order; it and `values` have shape (n,). None for fewer than `MIN_PER_BLOCK`
    values a block.
    """
    if len(values) < N_BLOCKS * MIN_PER_BLOCK:
        return None
    from scipy.stats import linregress, t

    hours, means = (
        [block.mean() for block in np.array_split(series, N_BLOCKS)]
        for series in (time_s / 3600, values)
    )
    line = linregress(hours, means)
    error = np.nan_to_num(line.stderr)  # NaN for constant values, whose error is 0
    margin = t.ppf(0.975, N_BLOCKS - 2) * error
    slope = float(line.slope)
    return Trend(slope, float(slope - margin), float(slope + margin), len(values))
