"""Pulses of one line in a digital word. No file and no clock here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SYNC_BIT = 6
"""Of the SY word: the SMA connector of the base station (SpikeGLX manual, "Sync Tab")."""


class PulseReader:
    """Finds the pulses of a bit over consecutive blocks of samples.

    A pulse is complete when the bit is low again. One that was high at the first sample is none, as
    its beginning is unknown.
    """

    def __init__(self, bit: int = SYNC_BIT) -> None:
        self._bit = bit
        self._last: bool | None = None
        self._since: int | None = None

    def take(self, first_sample: int, words: NDArray[np.int16]) -> list[tuple[int, int]]:
        """Take the next block; return the first sample of each pulse and the first after it.

        Parameters
        ----------
        first_sample : int
            Number of the first of `words`.
        words : array, shape (n_samples,), int16
            The digital word of each sample.
        """
        if not words.size:
            return []
        is_high = (words.view(np.uint16) >> self._bit & 1).astype(np.int8)
        before = is_high[0] if self._last is None else np.int8(self._last)
        changes = np.flatnonzero(np.diff(is_high, prepend=before))
        pulses = []
        for change in changes.tolist():
            if is_high[change]:
                self._since = first_sample + change
            elif self._since is not None:
                pulses.append((self._since, first_sample + change))
                self._since = None
        self._last = bool(is_high[-1])
        return pulses
