"""How long it takes to cut a window: a view of the ring against making it from spike times.

    python -m benchmarks.bench_window_cut
    python -m benchmarks.bench_window_cut --quick      (seconds; for tests)

What bounds it
--------------
A window of 20 bins and 3,000 units is 120 kB of counts. The ring hands out a view, so nothing is
moved and the cost is that of some Python calls, whatever the units fired; only a window that runs
past the ring's last row copies its tail. The contender "copy" moves the window's bytes once, which
is the floor of every way that makes a window anew. Making it anew from spike times costs a few
divisions and one random count for each spike of the last 167 ms (`contracts.binning.bin_spikes`),
or a binary search for each edge of each unit.

The contenders take turns at each window and must return the same counts. "WindowCutter.ready" is
what the daemon calls: watermark, gaps, view, stamps. "BinRing.counts, wrapped" is the view alone of
a window that runs past the ring's end by 4 to 16 of its rows.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import NS_PER_US, Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Result, read_options, report, stop
from benchmarks.spike_data import (
    CAPACITY_BINS,
    N_UNITS,
    RATE,
    WINDOW_BINS,
    spike_batches,
)
from contracts.binning import bin_spikes
from contracts.clock import HostClock
from contracts.spikes import SpikeBatch
from contracts.window import Window, WindowSpec
from daemon.bin_ring import BinRing
from daemon.window_cutter import WindowCutter

SPIKES_A_BATCH = (300, 3_000)
"""3,000 units at 10 and at 100 spikes a second."""

SPEC = WindowSpec(RATE, n_bins=WINDOW_BINS, stride_bins=4)
"""The paper's window, thirty times a second."""

WINDOW_BYTES = WINDOW_BINS * N_UNITS * 2
N_SEARCHED = 5
"""Windows that are searched unit by unit, after the round: it takes milliseconds and the cache."""

AIM_US = 20
CUTTER = "WindowCutter.ready"

SHORT_BINS = 40
"""Length of a second ring, of whose windows four in ten run past the end."""

Durations = dict[str, list[int]]
T = TypeVar("T")
P = ParamSpec("P")


class Stopwatch:
    """Durations of calls, by contender."""

    def __init__(self) -> None:
        self.durations_ns: Durations = defaultdict(list)

    def time(self, name: str, contender: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, and note how long it took."""
        started_ns = time.perf_counter_ns()
        made = contender(*args, **kwargs)
        self.durations_ns[name].append(time.perf_counter_ns() - started_ns)
        return made


class SortedSpikes:
    """All spikes of a run in order of time, and each unit's own train."""

    def __init__(self, batches: list[SpikeBatch]) -> None:
        self.times = np.concatenate([batch.spike_time_ns for batch in batches])
        self.units = np.concatenate([batch.unit_index for batch in batches])
        by_unit = np.argsort(self.units, kind="stable")
        stops = np.cumsum(np.bincount(self.units, minlength=N_UNITS))[:-1]
        self.trains: list[NDArray[np.int64]] = np.split(self.times[by_unit], stops)

    def binned(self, first_bin: int) -> NDArray[np.uint16]:
        """Bin the window's spikes, found by their times."""
        span = (RATE.start_ns(first_bin), RATE.start_ns(first_bin + WINDOW_BINS))
        start, end = np.searchsorted(self.times, span)
        return bin_spikes(
            self.times[start:end],
            self.units[start:end],
            first_bin=first_bin,
            n_bins=WINDOW_BINS,
            rate=RATE,
            n_units=N_UNITS,
        )

    def searched(self, first_bin: int) -> NDArray[np.uint16]:
        """Find each bin edge in each unit's train."""
        edges = [RATE.start_ns(first_bin + i) for i in range(WINDOW_BINS + 1)]
        places = [np.searchsorted(train, edges) for train in self.trains]
        return np.diff(np.array(places), axis=1).T.astype(np.uint16)


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    rng = np.random.default_rng(options.seed)
    n_rounds, n_batches = (1, 40) if options.is_quick else (10, 300)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for n_spikes in SPIKES_A_BATCH:
        case = f"{n_spikes * 100:,} spikes/s"
        batches = spike_batches(rng, n_batches=n_batches, n_spikes=n_spikes)
        rounds = [_round(batches, SortedSpikes(batches)) for _ in range(n_rounds)]
        for name in rounds[0]:
            every = np.array([duration for r in rounds for duration in r[name]], dtype=np.int64)
            rows.append(row(case, name, every))
        figures += _figures(case, rounds)
    bytes_per_s = copy_bytes_per_s(is_quick=options.is_quick)
    result = Result(
        benchmark="window_cut",
        parameters={
            "n_units": N_UNITS,
            "bins_per_s": RATE.bins_per_s,
            "n_bins": WINDOW_BINS,
            "stride_bins": SPEC.stride_bins,
        },
        limits={
            "copy_bytes_per_s": bytes_per_s,
            "window_us_at_copy_speed": 2 * WINDOW_BYTES / bytes_per_s * 1e6,
        },
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def _figures(case: str, rounds: list[Durations]) -> list[Figure]:
    p50 = {name: np.array([np.median(r[name]) for r in rounds]) for name in rounds[0]}
    cutter = p50.pop(CUTTER)
    return [
        *(figure(case, f"{name} / {CUTTER}", took / cutter) for name, took in p50.items()),
        figure(case, "BinRing.counts / copy", p50["BinRing.counts"] / p50["copy"]),
        figure(case, f"{CUTTER} / aim of {AIM_US} us", cutter / AIM_US / NS_PER_US),
    ]


def _round(batches: list[SpikeBatch], recording: SortedSpikes) -> Durations:
    """Fill a ring batch by batch; whenever a window is complete, let everybody make it."""
    ring = BinRing(RATE, N_UNITS, capacity_bins=CAPACITY_BINS, window_bins=WINDOW_BINS)
    short = BinRing(RATE, N_UNITS, capacity_bins=SHORT_BINS, window_bins=WINDOW_BINS)
    cutter = WindowCutter(SPEC, HostClock())
    copied = np.empty((WINDOW_BINS, N_UNITS), dtype=np.uint16)
    watch = Stopwatch()
    first = 0
    for batch in batches:
        ring.add(batch)
        short.add(batch)
        if first + WINDOW_BINS > ring.complete_until:
            continue
        window = watch.time(CUTTER, _cut, cutter, ring)
        made = [
            watch.time("BinRing.counts", ring.counts, first, WINDOW_BINS),
            watch.time("bin_spikes", recording.binned, first),
        ]
        watch.time("copy", np.copyto, copied, window.counts)
        if first % SHORT_BINS + WINDOW_BINS > SHORT_BINS:
            made.append(watch.time("BinRing.counts, wrapped", short.counts, first, WINDOW_BINS))
        if window.first_bin != first or not all(np.array_equal(window.counts, m) for m in made):
            stop(f"the window from bin {first}")
        first += SPEC.stride_bins
    for searched in range(0, N_SEARCHED * SPEC.stride_bins, SPEC.stride_bins):
        made_anew = watch.time("searchsorted", recording.searched, searched)
        if not np.array_equal(ring.counts(searched, WINDOW_BINS), made_anew):
            stop(f"the window from bin {searched}, searched")
    return watch.durations_ns


def _cut(cutter: WindowCutter, ring: BinRing) -> Window:
    (window,) = cutter.ready(ring)
    return window


if __name__ == "__main__":
    sys.exit(main())
