"""Spikes as lists of pairs, so that two ways to read a recording can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.clock import seconds_to_ns
from contracts.spikes import SpikeBatch

Pairs = list[tuple[int, int]]


def of_batches(batches: Iterable[SpikeBatch]) -> Pairs:
    """Return (time in ns, row) of every spike, sorted."""
    return sorted(
        pair
        for batch in batches
        for pair in zip(batch.spike_time_ns.tolist(), batch.unit_index.tolist(), strict=True)
    )


def of_trains(trains: Sequence[NDArray[np.float64]]) -> Pairs:
    """Return the same of trains in seconds."""
    return sorted(
        (time_ns, row)
        for row, train in enumerate(trains)
        for time_ns in seconds_to_ns(train).tolist()
    )
