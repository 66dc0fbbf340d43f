"""Spikes for the benchmarks: uniform in time and over units, which is the worst for a cache."""

from __future__ import annotations

import numpy as np

from contracts.binning import BinRate
from contracts.population import Population, Unit
from contracts.spikes import SpikeBatch

N_UNITS = 3_000
"""Units of a large recording with several probes."""

RATE = BinRate(120)
"""The paper's encoder."""

WINDOW_BINS = 20
"""The paper's encoder: 167 ms."""

CAPACITY_BINS = 600
"""Five seconds."""

BATCH_NS = 10_000_000
STREAM = "probeA"
RUN = "0123456789abcdef"


def population() -> Population:
    """Return the units of all benchmarks."""
    return Population([Unit(str(i), probe=STREAM) for i in range(N_UNITS)])


def spike_batches(rng: np.random.Generator, *, n_batches: int, n_spikes: int) -> list[SpikeBatch]:
    """Return consecutive 10 ms batches of `n_spikes` each, sorted by time.

    Every unit is equally likely at every nanosecond.
    """
    return [_spike_batch(rng, seq, n_spikes) for seq in range(n_batches)]


def _spike_batch(rng: np.random.Generator, seq: int, n_spikes: int) -> SpikeBatch:
    start_ns = seq * BATCH_NS
    return SpikeBatch(
        stream=STREAM,
        run=RUN,
        seq=seq,
        start_ns=start_ns,
        stop_ns=start_ns + BATCH_NS,
        spike_time_ns=np.sort(rng.integers(start_ns, start_ns + BATCH_NS, n_spikes)),
        unit_index=rng.integers(0, N_UNITS, n_spikes, dtype=np.uint32),
    )
