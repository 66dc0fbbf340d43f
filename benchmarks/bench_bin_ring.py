"""How fast spikes are binned: BinRing.add against plain numpy.

    python -m benchmarks.bench_bin_ring
    python -m benchmarks.bench_bin_ring --quick      (seconds; for tests)

What bounds it
--------------
Each spike is 12 bytes to read and one 2-byte count to read and write, at a random column of the
two rows that a 10 ms batch touches. Those rows take 12 kB, so the counts stay in the first-level
cache and the floor is twofold: the memory's speed for 16 bytes a spike (``limits``), and one
scatter of the same, already computed indices into the same table (contender "scatter"). Above that
come the integer divisions that turn nanoseconds into bins, and for small batches the fixed cost of
some twenty numpy calls, a few tens of microseconds whatever the batch holds.

The others do the same job, time to bin to two-dimensional counts with integer binning, on the
same batches in turn, and must end with the same counts. They keep no watermark, mark no
gaps, refuse no late spikes and clear no old rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row, take_turns
from benchmarks.record import Result, read_options, report, stop
from benchmarks.spike_data import CAPACITY_BINS, N_UNITS, RATE, WINDOW_BINS, spike_batches
from contracts.spikes import SpikeBatch
from daemon.bin_ring import BinRing

SPIKES_A_BATCH = (30, 300, 3_000, 50_000)
BYTES_A_SPIKE = 8 + 4 + 2 + 2

Contender = Callable[[SpikeBatch], object]


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    rng = np.random.default_rng(options.seed)
    n_rounds, n_batches = (2, 10) if options.is_quick else (15, 100)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for n_spikes in SPIKES_A_BATCH:
        batches = spike_batches(rng, n_batches=n_batches, n_spikes=n_spikes)
        case = f"{n_spikes:,} spikes"
        rounds = [_round(batches) for _ in range(n_rounds)]
        names = list(rounds[0])
        rows += [
            row(case, name, np.concatenate([r[name] for r in rounds]), n_spikes=n_spikes)
            for name in names
        ]
        p50 = {name: np.array([np.median(r[name]) for r in rounds]) for name in names}
        ring = p50.pop("BinRing.add")
        figures += [
            figure(case, f"{name} / BinRing.add", took / ring) for name, took in p50.items()
        ]
    bytes_per_s = copy_bytes_per_s(is_quick=options.is_quick)
    result = Result(
        benchmark="bin_ring",
        parameters={"n_units": N_UNITS, "bins_per_s": RATE.bins_per_s, "batch_ms": 10},
        limits={
            "copy_bytes_per_s": bytes_per_s,
            "spikes_per_s_at_copy_speed": bytes_per_s / BYTES_A_SPIKE,
        },
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def _round(batches: list[SpikeBatch]) -> dict[str, NDArray[np.int64]]:
    """Let each contender fill a table of its own from the same batches, in turns."""
    ring = BinRing(RATE, N_UNITS, capacity_bins=CAPACITY_BINS, window_bins=WINDOW_BINS)
    tables = {
        name: np.zeros((CAPACITY_BINS, N_UNITS), dtype=np.uint16)
        for name in ("numpy.add.at", "numpy.bincount", "scatter")
    }
    contenders: dict[str, Contender] = {
        "BinRing.add": ring.add,
        "numpy.add.at": _add_at(tables["numpy.add.at"]),
        "numpy.bincount": _bincount(tables["numpy.bincount"]),
        "scatter": _scatter(tables["scatter"], batches),
    }
    durations_ns = take_turns(contenders, batches)
    _check(ring, tables)
    return durations_ns


def _add_at(table: NDArray[np.uint16]) -> Contender:
    """Bin in integers, then add one at each (row, unit)."""

    def add(batch: SpikeBatch) -> None:
        bins = RATE.bin_of(batch.spike_time_ns)
        np.add.at(table, (bins % len(table), batch.unit_index), 1)

    return add


def _bincount(table: NDArray[np.uint16]) -> Contender:
    """Bin in integers, then count into the rows that the batch touches, and add those."""

    def add(batch: SpikeBatch) -> None:
        first = RATE.bin_of(batch.start_ns)
        n_rows = RATE.bin_of(batch.stop_ns - 1) + 1 - first
        flat = (RATE.bin_of(batch.spike_time_ns) - first) * N_UNITS + batch.unit_index
        counts = np.bincount(flat, minlength=n_rows * N_UNITS).reshape(n_rows, N_UNITS)
        rows = np.arange(first, first + n_rows) % len(table)
        table[rows] += counts.astype(np.uint16)

    return add


def _scatter(table: NDArray[np.uint16], batches: list[SpikeBatch]) -> Contender:
    """Write to the same places with everything computed beforehand: the lower bound."""
    places = [
        RATE.bin_of(batch.spike_time_ns) % len(table) * N_UNITS + batch.unit_index
        for batch in batches
    ]
    flat = table.reshape(-1)

    def write(batch: SpikeBatch) -> None:
        flat[places[batch.seq]] = 1

    return write


def _check(ring: BinRing, tables: dict[str, NDArray[np.uint16]]) -> None:
    """Refuse a result if the contenders did not do the same job."""
    for first in range(0, ring.head_bin - WINDOW_BINS + 1, WINDOW_BINS):
        ours = ring.counts(first, WINDOW_BINS)
        for name, table in tables.items():
            theirs = table[first : first + WINDOW_BINS]
            if not np.array_equal(np.minimum(ours, 1) if name == "scatter" else ours, theirs):
                stop(f"{name} and BinRing.add from bin {first}")


if __name__ == "__main__":
    sys.exit(main())
