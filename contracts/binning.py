"""A time becomes a bin here and nowhere else, in integers.

Bins are half open and lie on one absolute grid that starts at session time zero: bin ``b``
holds the nanoseconds ``t`` with ``floor(t * num / (den * 10**9)) == b``. The rate is a
fraction, so that 120 Hz, whose width is no whole number of nanoseconds, stays exact.
Training and serving call the same functions.

The product ``t * num`` would leave int64 after 21 hours at 120 kHz, so whole periods of
``den`` seconds are split off first; the result is the same integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.errors import MisuseError

MAX_RATE_TERM = 2_000_000_000
"""Bound on ``num * den``: the largest product below, ``num * den * 1e9``, stays in int64."""

FEW_BINS = 12
"""So many comparisons take less time than two divisions of int64."""


@dataclass(frozen=True, slots=True)
class BinRate:
    """Bins per second, as the fraction ``num / den``."""

    num: int
    den: int = 1

    def __post_init__(self) -> None:
        if self.num < 1 or self.den < 1 or self.num * self.den > MAX_RATE_TERM:
            raise MisuseError(
                f"a bin rate needs num >= 1, den >= 1 and num * den <= {MAX_RATE_TERM:,}, "
                f"got {self.num}/{self.den}"
            )

    @property
    def period_ns(self) -> int:
        """Nanoseconds in ``den`` seconds; ``num`` bins fill it exactly."""
        return self.den * NS_PER_S

    @property
    def bins_per_s(self) -> float:
        """The rate as a number, for people."""
        return self.num / self.den

    @overload
    def bin_of(self, session_ns: int) -> int: ...
    @overload
    def bin_of(self, session_ns: NDArray[np.int64]) -> NDArray[np.int64]: ...

    def bin_of(self, session_ns: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
        """Return the bin that holds each time.

        Takes a number or an int64 array of any shape; times may be negative.
        """
        period_ns = self.period_ns
        period = session_ns // period_ns
        rest = session_ns - period * period_ns
        rest *= self.num  # in place: both are ours, and this runs for every spike
        rest //= period_ns
        period *= self.num
        return period + rest

    def bins_from(
        self, session_ns: NDArray[np.int64], first: int, n_bins: int
    ) -> NDArray[np.int64]:
        """Return the bin of each time, all of which lie in `n_bins` bins from `first` on.

        The same as `bin_of`; for few bins it compares with their edges, in place of two divisions.
        """
        if n_bins > FEW_BINS:
            return self.bin_of(session_ns)
        row = np.zeros(len(session_ns), dtype=np.uint8)
        for number in range(first + 1, first + n_bins):
            row += session_ns >= self.start_ns(number)
        return row.astype(np.int64) + first

    def first_bin_at_or_after(self, session_ns: int) -> int:
        """Return the first bin that starts at or after a time."""
        return self.bin_of(session_ns - 1) + 1

    def start_ns(self, bin_index: int) -> int:
        """Return the first nanosecond of a bin."""
        return -(-bin_index * self.period_ns // self.num)

    def starts_ns(self, bins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first nanosecond of each bin."""
        period, rest = np.divmod(bins, self.num)
        starts: NDArray[np.int64] = period * self.period_ns - (-rest * self.period_ns // self.num)
        return starts


def bin_spikes(
    spike_time_ns: NDArray[np.int64],
    unit_index: NDArray[np.integer],
    *,
    first_bin: int,
    n_bins: int,
    rate: BinRate,
    n_units: int,
) -> NDArray[np.uint16]:
    """Count the spikes of each unit in each bin of one interval of the grid.

    The offline form: all counts at once, from the whole recording. What the daemon's
    ring holds must equal it, however the recording was cut into batches.

    Parameters
    ----------
    spike_time_ns : array, shape (n_spikes,), int64, nanoseconds
        Session clock. Need not be sorted.
    unit_index : array, shape (n_spikes,), any integer
        Row of each spike's unit in the population.

    Returns
    -------
    counts : array, shape (n_bins, n_units), uint16, spikes per bin
        Time first. Spikes outside the interval are ignored.

    Raises
    ------
    MisuseError
        If a unit index is outside ``[0, n_units)``.
    """
    if unit_index.size and (int(unit_index.max()) >= n_units or int(unit_index.min()) < 0):
        raise MisuseError(
            f"unit_index must be from 0 to {n_units - 1}, "
            f"got {int(unit_index.min())} to {int(unit_index.max())}"
        )
    row = rate.bin_of(spike_time_ns) - first_bin
    inside = (row >= 0) & (row < n_bins)
    flat = row[inside] * n_units + unit_index[inside].astype(np.int64)
    counts = np.bincount(flat, minlength=n_bins * n_units)
    return counts.astype(np.uint16).reshape(n_bins, n_units)
