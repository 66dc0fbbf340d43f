"""How fast a session becomes the counts of a data set, against other libraries.

    python -m benchmarks.bench_dataset
    python -m benchmarks.bench_dataset --quick      (seconds; for tests)

What bounds it
--------------
The full case is a session as the Allen Institute's largest: 2,700 units and 90 million spikes in
9,000 s, of which movies ran for 2,400 s in three blocks; 288,000 bins of 1/120 s. The 8 bytes of
each spike within the blocks must be read, and each of 778 million counts is cleared, read and
written out: those bytes at the memory's speed are the floor (``limits``). Above it come the
conversion of seconds to nanoseconds and to bins, about ten passes over the spikes, and one random
write for each.

The other contenders start from the same sorted trains in memory, each in the form that its
library keeps them in, and end with the same table of uint8. They go through it in blocks of
units or of time, because a table of int64 would take 6 GB. Ours also writes the table to a file,
as ``neurrate prepare`` does; "count" alone does not.

* ``numpy.histogram``: one call for each unit and block, with its fast path for equal bins.
* ``numpy.add.at``: integer bins of all spikes of a block, then one two-dimensional add.
* ``pynapple``: ``TsGroup.count`` with the blocks as its epochs. Making the group is not timed.
* ``spikeinterface``: a spike vector of the sorting, which is one sort by time, then bincount.

Spike times are whole samples of 30 kHz, so that one in 250 lies on the edge of a bin. Which bin it
gets depends on the arithmetic; ours is that of the daemon, in whole nanoseconds, so that training
and serving agree. "other bin" is the share of spikes that a contender counts elsewhere.

All run on one thread. "cpu" is the time of this process, which says more than the clock on the wall
where others share the machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Result, read_options, report, stop
from benchmarks.spike_data import RATE
from contracts.clock import NS_PER_S, seconds_to_ns
from encoder_training.data_set.counting import CountedIntervals, count_spans, write_counts
from stream_sources.recordings.trains import SpikeTrains, TrainReader

SAMPLING_HZ = 30_000
BLOCK_UNITS = 270
BLOCK_BINS = 8_192
OURS, COUNT = "write_counts", "count_spans"

Contender = Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Session:
    """A session at rest.

    Attributes
    ----------
    trains : SpikeTrains
        float64 seconds, unit after unit.
    spans : CountedIntervals
        Where movies ran.
    """

    trains: SpikeTrains
    spans: CountedIntervals

    @property
    def n_units(self) -> int:
        """Units in all."""
        return len(self.trains.start)

    def of_unit(self, unit: int) -> NDArray[np.float64]:
        """Return one train, seconds."""
        train: NDArray[np.float64] = self.trains.times[
            self.trains.start[unit] : self.trains.stop[unit]
        ].astype(np.float64, copy=False)
        return train

    def spans_s(self) -> list[tuple[float, float, int]]:
        """Return start, stop (seconds) and bins of each span."""
        return [
            (RATE.start_ns(a) / NS_PER_S, RATE.start_ns(b) / NS_PER_S, b - a)
            for a, b in zip(
                self.spans.first_bin.tolist(), self.spans.stop_bin.tolist(), strict=True
            )
        ]


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    n_units, n_spikes, seconds = (
        (60, 60_000, 90) if options.is_quick else (2_700, 90_000_000, 9_000)
    )
    session = make_session(n_units, n_spikes, seconds, options.seed)
    n_inside = _n_inside(session)
    case = f"{n_spikes:,} spikes"
    with tempfile.TemporaryDirectory(prefix="neurrate-bench-") as folder:
        contenders = _contenders(session, Path(folder) / "counts.npy")
        took_ns, cpu_ns, elsewhere = _rounds(contenders, 2)
    names = list(contenders)
    rows: list[MeasuredRow] = [row(case, name, took_ns[name], n_spikes=n_inside) for name in names]
    figures: list[Figure] = [
        figure(case, f"{name} / {OURS}, {clock}", took[name] / took[OURS])
        for clock, took in (("cpu", cpu_ns), ("wall", took_ns))
        for name in names
        if name != OURS
    ]
    figures += [figure(case, f"{name}, cpu s", cpu_ns[name] / 1e9) for name in names]
    figures += [
        figure(case, f"{name}, other bin", np.array([elsewhere[name] / n_inside])) for name in names
    ]
    bytes_per_s = copy_bytes_per_s(is_quick=options.is_quick)
    n_bytes = 8 * n_inside + 3 * session.spans.n_rows * n_units
    figures.append(
        figure(case, f"{COUNT} / memory bound, cpu", cpu_ns[COUNT] / 1e9 * bytes_per_s / n_bytes)
    )
    result = Result(
        benchmark="dataset",
        parameters={
            "n_units": n_units,
            "n_spikes": n_spikes,
            "n_spikes_in_movies": n_inside,
            "n_bins": session.spans.n_rows,
            "bins_per_s": RATE.bins_per_s,
            "session_s": seconds,
            "pynapple": version("pynapple"),
            "spikeinterface": version("spikeinterface"),
        },
        limits={"copy_bytes_per_s": bytes_per_s, "bytes": float(n_bytes)},
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def make_session(n_units: int, n_spikes: int, seconds: int, seed: int) -> Session:
    """Draw trains: log-normal rates, uniform times, whole samples.

    Parameters
    ----------
    n_units, n_spikes : int
    seconds : int
        Length of the recording; movies run for 4/15 of it in three blocks.
    seed : int

    Returns
    -------
    Session
    """
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 1, n_units)
    n_each = rng.multinomial(n_spikes, share / share.sum())
    stop_at = np.cumsum(n_each)
    times = np.empty(n_spikes, dtype=np.float64)
    for stop_row, n in zip(stop_at.tolist(), n_each.tolist(), strict=True):
        samples = np.sort(rng.integers(0, seconds * SAMPLING_HZ, n))
        times[stop_row - n : stop_row] = samples / SAMPLING_HZ
    third = seconds * 4 // 45
    begins = np.array([seconds // 9, seconds // 3, seconds * 7 // 9])
    spans = CountedIntervals(begins * 120, (begins + third) * 120)
    return Session(SpikeTrains(times, stop_at - n_each, stop_at), spans)


def _contenders(session: Session, path: Path) -> dict[str, Contender]:
    return {
        OURS: lambda: _write(session, path),
        COUNT: lambda: _count(session),
        "numpy.histogram": lambda: _histogram(session),
        "numpy.add.at": lambda: _add_at(session),
        "pynapple": _pynapple(session),
        "spikeinterface": _spikeinterface(session),
    }


def _rounds(
    contenders: dict[str, Contender], n_rounds: int
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]], dict[str, int]]:
    """Let each do the job once a round, in turns.

    Returns
    -------
    took_ns, cpu_ns : dict of array, shape (n_rounds,), int64, nanoseconds
        On the clock on the wall, and of this process.
    elsewhere : dict of int
        Spikes that each counts in another bin than ours.
    """
    took_ns = {name: np.empty(n_rounds, dtype=np.int64) for name in contenders}
    cpu_ns = {name: np.empty(n_rounds, dtype=np.int64) for name in contenders}
    elsewhere: dict[str, int] = {}
    others = [name for name in contenders if name != OURS]
    for number in range(n_rounds):
        expected: NDArray[np.uint8] | None = None
        for name in (OURS, *others):
            started_ns, started_cpu_ns = time.perf_counter_ns(), time.process_time_ns()
            counts = contenders[name]()
            took_ns[name][number] = time.perf_counter_ns() - started_ns
            cpu_ns[name][number] = time.process_time_ns() - started_cpu_ns
            expected = counts if expected is None else expected
            elsewhere[name] = _differences(counts, expected)
            del counts
            took_s = took_ns[name][number] / 1e9
            print(f"round {number + 1}: {name} {took_s:.1f} s", file=sys.stderr, flush=True)
        others = [*others[1:], others[0]]
    for name in (COUNT, "numpy.add.at"):
        if elsewhere[name]:
            stop(f"{name} and {OURS} differ in {elsewhere[name]} spikes")
    return took_ns, cpu_ns, elsewhere


def _differences(counts: NDArray[np.uint8], expected: NDArray[np.uint8]) -> int:
    """Return how many spikes stand in another bin: half the sum of the differences."""
    if counts.shape != expected.shape:
        stop(f"tables of {counts.shape} and {expected.shape}")
    total = 0
    for first in range(0, len(counts), BLOCK_BINS):
        part = slice(first, first + BLOCK_BINS)
        ours, theirs = expected[part], counts[part]
        total += int((np.maximum(ours, theirs) - np.minimum(ours, theirs)).sum(dtype=np.int64))
    return -(-total // 2)


def _write(session: Session, path: Path) -> NDArray[np.uint8]:
    reader = TrainReader(session.trains)
    write_counts(path, reader.between, session.spans, n_units=session.n_units, rate=RATE)
    counts: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return counts


def _count(session: Session) -> NDArray[np.uint8]:
    table = _empty(session)
    filled = 0
    reader = TrainReader(session.trains)
    for counts in count_spans(reader.between, session.spans, n_units=session.n_units, rate=RATE):
        table[filled : filled + len(counts)] = counts
        filled += len(counts)
    return table


def _histogram(session: Session) -> NDArray[np.uint8]:
    table = _empty(session)
    for first in range(0, session.n_units, BLOCK_UNITS):
        units = range(first, min(first + BLOCK_UNITS, session.n_units))
        block = np.empty((len(units), session.spans.n_rows), dtype=np.uint8)
        for place, unit in enumerate(units):
            train, filled = session.of_unit(unit), 0
            for start_s, stop_s, n_bins in session.spans_s():
                a, b = np.searchsorted(train, (start_s, stop_s))
                counts, _ = np.histogram(train[a:b], bins=n_bins, range=(start_s, stop_s))
                block[place, filled : filled + n_bins] = counts
                filled += n_bins
        table[:, first : units.stop] = block.T
    return table


def _add_at(session: Session) -> NDArray[np.uint8]:
    table = _empty(session)
    filled = 0
    for first, (start_s, stop_s, n_bins) in zip(
        session.spans.first_bin.tolist(), session.spans_s(), strict=True
    ):
        for begin in range(0, session.n_units, BLOCK_UNITS):
            units = range(begin, min(begin + BLOCK_UNITS, session.n_units))
            trains = [session.of_unit(unit) for unit in units]
            edges = [np.searchsorted(train, (start_s, stop_s)) for train in trains]
            inside = [train[a:b] for train, (a, b) in zip(trains, edges, strict=True)]
            unit_index = np.repeat(np.arange(begin, units.stop), [len(each) for each in inside])
            bins = RATE.bin_of(seconds_to_ns(np.concatenate(inside))) - first
            np.add.at(table[filled : filled + n_bins], (bins, unit_index), 1)
        filled += n_bins
    return table


def _pynapple(session: Session) -> Contender:
    import pynapple as nap

    whole = nap.IntervalSet(0, float(session.trains.times.max()) + 1)
    spans = session.spans_s()
    epochs = nap.IntervalSet([a for a, _, _ in spans], [b for _, b, _ in spans])
    groups = [
        nap.TsGroup({unit: nap.Ts(session.of_unit(unit)) for unit in units}, time_support=whole)
        for units in _unit_blocks(session.n_units)
    ]
    groups[0].count(1 / RATE.bins_per_s, ep=nap.IntervalSet(0, 1))  # compiles

    def count() -> NDArray[np.uint8]:
        table = _empty(session)
        for units, group in zip(_unit_blocks(session.n_units), groups, strict=True):
            counted: Any = group.count(1 / RATE.bins_per_s, ep=epochs)
            table[:, units.start : units.stop] = counted.values
        return table

    return count


def _spikeinterface(session: Session) -> Contender:
    from spikeinterface import NumpySorting

    samples = {
        unit: np.rint(session.of_unit(unit) * SAMPLING_HZ).astype(np.int64)
        for unit in range(session.n_units)
    }
    samples_a_bin = SAMPLING_HZ // int(RATE.bins_per_s)

    def count() -> NDArray[np.uint8]:
        table = _empty(session)
        vector = NumpySorting.from_unit_dict(samples, SAMPLING_HZ).to_spike_vector()
        filled = 0
        for span_first, span_stop in zip(
            session.spans.first_bin.tolist(), session.spans.stop_bin.tolist(), strict=True
        ):
            for first in range(span_first, span_stop, BLOCK_BINS):
                n = min(BLOCK_BINS, span_stop - first)
                edges = (first * samples_a_bin, (first + n) * samples_a_bin)
                a, b = np.searchsorted(vector["sample_index"], edges)
                bins = vector["sample_index"][a:b] // samples_a_bin - first
                flat = bins * session.n_units + vector["unit_index"][a:b]
                counts = np.bincount(flat, minlength=n * session.n_units)
                table[filled : filled + n] = counts.reshape(n, session.n_units)
                filled += n
        return table

    return count


def _unit_blocks(n_units: int) -> list[range]:
    return [
        range(first, min(first + BLOCK_UNITS, n_units)) for first in range(0, n_units, BLOCK_UNITS)
    ]


def _empty(session: Session) -> NDArray[np.uint8]:
    return np.zeros((session.spans.n_rows, session.n_units), dtype=np.uint8)


def _n_inside(session: Session) -> int:
    inside = 0
    for a, b in zip(session.spans.first_bin.tolist(), session.spans.stop_bin.tolist(), strict=True):
        first = session.trains.positions(RATE.start_ns(a), session.trains.start)
        inside += int((session.trains.positions(RATE.start_ns(b), first) - first).sum())
    return inside


if __name__ == "__main__":
    sys.exit(main())
