"""The ramp: in each bin the units spell the bin's own number in binary.

Unit *k* fires once in bin *b* when bit *k* of *b* is set, so any window says which bins it holds,
and loss, repetition and reordering are differences of integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.population import Population, Unit
from contracts.spikes import SpikeBatch

N_BITS = 16
RUN = "0123456789abcdef"


def ramp_population(n_units: int = N_BITS, *, probe: str = "") -> Population:
    """Units named by their bit."""
    return Population([Unit(f"{bit}", probe=probe, area="VISp") for bit in range(n_units)])


def ramp_spikes(
    rate: BinRate, first_bin: int, stop_bin: int, *, n_units: int = N_BITS
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Spikes of bins [first_bin, stop_bin), each on the edge at which its bin starts."""
    bins = np.arange(first_bin, stop_bin)
    has_fired = (bins[:, None] >> np.arange(n_units)) & 1
    row, unit_index = np.nonzero(has_fired)
    starts = np.array([rate.start_ns(int(b)) for b in bins], dtype=np.int64)
    return starts[row], unit_index.astype(np.uint32)


def ramp_numbers(counts: NDArray[np.uint16]) -> list[int]:
    """Read the bins' numbers back from a window."""
    return [int(number) for number in counts.astype(np.int64) @ (1 << np.arange(counts.shape[1]))]


def batch_of(
    times: NDArray[np.int64],
    units: NDArray[np.uint32],
    start_ns: int,
    stop_ns: int,
    *,
    seq: int = 0,
    stream: str = "probeA",
    run: str = RUN,
) -> SpikeBatch:
    """Take the spikes of one span out of a session."""
    inside = (times >= start_ns) & (times < stop_ns)
    return SpikeBatch(
        stream=stream,
        run=run,
        seq=seq,
        start_ns=start_ns,
        stop_ns=stop_ns,
        spike_time_ns=times[inside],
        unit_index=units[inside],
    )
