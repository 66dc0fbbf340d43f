"""What recording costs at a rig's load, and what a kill takes.

    python -m benchmarks.bench_recorder
    python -m benchmarks.bench_recorder --kills 100 --picture docs/images/recorder.svg
    python -m benchmarks.bench_recorder --quick      (seconds; for tests)

What bounds it
--------------
Thirty thousand spikes a second are 360 kB/s of times and units, far below any disk. A message costs
a few dozen Python calls, a chunk its compression, and every quarter of a second a wait for the
disk, which is no processor time. So the cost grows with messages a second, and the bytes with
spikes.

The first rows are of the file alone: the same batches written in four layouts, in turns, each
flushed four times a second of data; figures are bytes of a journal over bytes of the batches. The
others are of `neurrate record` as a process, with a source of 100 batches a second: from the sent
stamp to the received one, its processor time over wall time, bytes an hour, and memory, over
--minutes; of half an hour or more also by how much it grows (slope and its 95 % interval). With
--kills the recorder is killed (SIGKILL) so often, at random moments: milliseconds from the newest
batch in the journal to the kill, which is what is lost. With --picture other loads are recorded
too, 20 s each.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.record import Options, Result, read_options, report, stop
from benchmarks.spike_data import N_UNITS, RUN, STREAM, population
from contracts import wire
from contracts.clock import NS_PER_S, HostClock
from contracts.journal import Origin, framed, parts_of
from contracts.journal_reader import JournalReader
from contracts.spikes import Hello, SpikeBatch
from evaluation.faults.sockets import free_port
from evaluation.latency.trend import trend
from evaluation.processes import Child
from stream_sources.publisher import SpikePublisher


@dataclass(frozen=True, slots=True)
class SpikeLoad:
    """What a source sends."""

    spikes_per_s: int = 30_000
    batches_per_s: int = 100

    @property
    def name(self) -> str:
        """Name of its figures."""
        return f"recorder, {self.spikes_per_s:,} spikes/s in {self.batches_per_s} batches"


RIG = SpikeLoad()
SPIKES_PER_S = (1_000, 10_000, RIG.spikes_per_s, 100_000)
BATCHES_PER_S = (10, RIG.batches_per_s, 300, 1_000)
LOADS = (
    *(SpikeLoad(spikes_per_s=value) for value in SPIKES_PER_S),
    *(SpikeLoad(batches_per_s=value) for value in BATCHES_PER_S),
)
LOAD_S = 20
LOOP_S = 10
"""Batches are made once for so long, and sent again and again at later times."""

CPU, BYTES = "cpu, % of a core", "MB an hour"
GROWTH = "memory growth in the second half, MB an hour"
LONG_S = 1800
"""Three parts of a journal: only then is a growth of memory one that lasts."""

FLUSH_EVERY = 25
LAYOUTS: dict[str, dict[str, Any]] = {
    "no chunks": {"use_chunking": False},
    "chunks": {"compression": CompressionType.NONE},
    "chunks, lz4": {"compression": CompressionType.LZ4},
    "chunks, zstd": {"compression": CompressionType.ZSTD},
}

N_SYNCS = 20
QUARTER_SECOND_BYTES = 12 * RIG.spikes_per_s // 4

DEADLINE_S = 60.0
PAUSE_S = 0.02


def main() -> int:
    """Measure and report."""
    options = read_options(__doc__, _add)
    seconds = 2 if options.is_quick else 60 * options.more["minutes"]
    n_kills = options.more["kills"] or (1 if options.is_quick else 10)
    rows, figures = file_alone(2 if options.is_quick else 20, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        limits = {"disk_sync_ms": sync_ms(Path(folder))}
        for one in (
            recorder(Path(folder), seconds, options),
            kills(Path(folder), n_kills, options),
        ):
            rows += one[0]
            figures += one[1]
        if picture := options.more["picture"]:
            costs = loads(Path(folder), 2 if options.is_quick else LOAD_S, options)
            figures += [of for of_load in costs.values() for of in of_load.values()]
            draw(picture, costs)
    parameters = {"spikes_per_s": RIG.spikes_per_s, "batches_per_s": RIG.batches_per_s}
    parameters |= {"units": N_UNITS, "seconds": seconds, "kills": n_kills}
    return report(Result("recorder", parameters, limits, rows, figures), options)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=0, help="times that the recorder is killed")
    parser.add_argument("--minutes", type=int, default=1, help="how long the load of a rig lasts")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw the cost of loads here")


def file_alone(seconds: int, seed: int) -> tuple[list[MeasuredRow], list[Figure]]:
    """Write the same batches in every layout, in memory; time each message with its flushes."""
    messages = [framed(wire.pack(batch)[1:]) for batch in _batches(RIG, seconds, seed)]
    n_raw = sum(map(len, messages))
    rows, figures = [], []
    for name, layout in LAYOUTS.items():
        output = io.BytesIO()
        writer: Any = Writer(output, chunk_size=1 << 30, **layout)
        writer.start()
        channel = writer.register_channel(f"spikes.{STREAM}", "msgpack", 0)
        durations = []
        for number, data in enumerate(messages, 1):
            begun = time.perf_counter_ns()
            writer.add_message(channel, number, data, number)
            if number % FLUSH_EVERY == 0:
                writer.flush()
            durations.append(time.perf_counter_ns() - begun)
        writer.finish()
        n_spikes = RIG.spikes_per_s // RIG.batches_per_s
        rows.append(row("file", name, np.array(durations), n_spikes=n_spikes))
        share = np.array([len(output.getvalue()) / n_raw])
        figures.append(figure("file", f"bytes, {name}", share))
    return rows, figures


def sync_ms(folder: Path) -> float:
    """Return how long this disk takes for a quarter of a second of spikes; the median of some."""
    durations = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(N_SYNCS):
            file.write(bytes(QUARTER_SECOND_BYTES))
            begun = time.perf_counter_ns()
            os.fdatasync(file.fileno())
            durations.append(time.perf_counter_ns() - begun)
    return float(np.median(durations)) / 1e6


def recorder(
    folder: Path, seconds: int, options: Options, load: SpikeLoad = RIG, case: str = "recorder"
) -> tuple[list[MeasuredRow], list[Figure]]:
    """Record a source in real time; return how late batches are received, CPU and bytes."""
    journal = folder / f"load-{load.spikes_per_s}-{load.batches_per_s}-{case == 'recorder'}"
    with _SpikeSender(options.seed, load) as address, _recorder(folder, journal, address) as child:
        child.addresses(deadline_s=DEADLINE_S)
        _wait_for_batches(journal)
        process = psutil.Process(child.pid)
        before, n_before, begun = process.cpu_times(), _size(journal), time.monotonic()
        sampled_s, memory_mb = _memory_over(process, seconds)
        after, n_after, wall_s = process.cpu_times(), _size(journal), time.monotonic() - begun
        child.ask_to_stop()
        child.wait(deadline_s=DEADLINE_S)
    cpu_s = after.user + after.system - before.user - before.system
    late_ns = [
        batch.received_host_ns - batch.sent_host_ns for batch in _recorded(journal) if batch.seq
    ]
    figures = {
        CPU: np.array([100 * cpu_s / wall_s]),
        BYTES: np.array([(n_after - n_before) / wall_s * 3600 / 1e6]),
        "memory, MB": memory_mb,
    }
    half = sampled_s > wall_s / 2  # by then the index of a part has been as long as it becomes
    if growth := trend(sampled_s[half], memory_mb[half]) if seconds >= LONG_S else None:
        figures[GROWTH] = np.array([growth.slope, growth.low, growth.high])
    return [row(case, "sent to received", np.array(late_ns))], [
        figure(case, name, values) for name, values in figures.items()
    ]


def _memory_over(
    process: psutil.Process, seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wait so long; return when a process was looked at and its memory in MB, each second."""
    begun = time.monotonic()
    samples: list[tuple[float, float]] = []
    while not samples or samples[-1][0] < seconds:
        time.sleep(min(1.0, seconds))
        samples.append((time.monotonic() - begun, process.memory_info().rss / 1e6))
    sampled = np.array(samples)
    return sampled[:, 0], sampled[:, 1]


def loads(folder: Path, seconds: int, options: Options) -> dict[SpikeLoad, dict[str, Figure]]:
    """Record several loads; return the figures of each by name."""
    costs = {}
    for load in dict.fromkeys(LOADS):
        _, figures = recorder(folder, seconds, options, load, load.name)
        costs[load] = {of.name: of for of in figures}
    return costs


def draw(path: Path, costs: dict[SpikeLoad, dict[str, Figure]]) -> None:
    """Draw processor time above and bytes below, over spikes and over batches a second."""
    from encoder_training.pictures import report_figure

    columns: dict[str, dict[int, SpikeLoad]] = {
        f"spikes a second, in {RIG.batches_per_s} batches": {
            value: SpikeLoad(spikes_per_s=value) for value in SPIKES_PER_S
        },
        f"batches a second, of {RIG.spikes_per_s:,} spikes": {
            value: SpikeLoad(batches_per_s=value) for value in BATCHES_PER_S
        },
    }
    with report_figure(path, (6.4, 4.2)) as drawing:
        grid = drawing.subplots(2, len(columns), sharex="col", sharey="row")
        for column, (label, of_values) in enumerate(columns.items()):
            for axes, name, colour in zip(
                grid[:, column], (CPU, BYTES), ("#2a6f97", "#4f9d69"), strict=True
            ):
                medians = [costs[load][name].median for load in of_values.values()]
                axes.plot(range(len(of_values)), medians, marker=".", color=colour)
                axes.set_xticks(range(len(of_values)), [f"{value:,}" for value in of_values])
            grid[1, column].set_xlabel(label)
        for axes, name in zip(grid[:, 0], (CPU, BYTES), strict=True):
            axes.set_ylabel(name)
            axes.set_ylim(bottom=0)  # of the whole row, once all of it is drawn


def kills(folder: Path, n_kills: int, options: Options) -> tuple[list[MeasuredRow], list[Figure]]:
    """Kill recorders at random moments; return how much of what was sent is lost."""
    chance = random.Random(options.seed)
    lost_ms = []
    with _SpikeSender(options.seed, RIG) as address:
        for number in range(n_kills):
            journal = folder / f"kill-{number}"
            with _recorder(folder, journal, address) as child:
                child.addresses(deadline_s=DEADLINE_S)
                _wait_for_batches(journal)
                time.sleep(chance.uniform(0, 1.5))
                killed_ns = time.monotonic_ns()
                child.kill()
            batches = list(_recorded(journal))
            seqs = [batch.seq for batch in batches]
            if seqs != list(range(seqs[0], seqs[-1] + 1)):
                stop(f"kill {number}: the journal has a hole: {seqs}")
            lost_ms.append((killed_ns - batches[-1].sent_host_ns) / 1e6)
    return [], [
        figure("kill -9", "lost, ms", np.array(lost_ms)),
        figure("kill -9", "lost, ms, at most", np.array([max(lost_ms)])),
    ]


def _batches(load: SpikeLoad, seconds: int, seed: int) -> list[SpikeBatch]:
    """Return batches of so many seconds; every unit is equally likely at every nanosecond."""
    rng = np.random.default_rng(seed)
    n_spikes, span_ns = load.spikes_per_s // load.batches_per_s, NS_PER_S // load.batches_per_s
    batches = []
    for seq in range(seconds * load.batches_per_s):
        start_ns, stop_ns = seq * span_ns, (seq + 1) * span_ns
        times = np.sort(rng.integers(start_ns, stop_ns, n_spikes))
        units = rng.integers(0, N_UNITS, n_spikes, dtype=np.uint32)
        batches.append(SpikeBatch(STREAM, RUN, seq, start_ns, stop_ns, times, units))
    return batches


def _recorder(folder: Path, journal: Path, address: str) -> Child:
    words = ["record", str(journal), "--spikes", address, "--empty-connect", "--min-free-mb", "1"]
    return Child(journal.name, words, folder)


def _wait_for_batches(journal: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while next(iter(_recorded(journal)), None) is None:
        if time.monotonic() > deadline:
            sys.exit(f"nothing was recorded in {DEADLINE_S:.0f} s")
        time.sleep(PAUSE_S)


def _recorded(journal: Path) -> Any:
    for message in JournalReader(journal).messages(lambda origin, _: origin is Origin.SOURCE):
        if message.kind == "spikes":
            yield wire.unpack(message.parts, received_host_ns=message.host_ns)


def _size(journal: Path) -> int:
    return sum(path.stat().st_size for path in parts_of(journal))


class _SpikeSender:
    """A process that sends batches at a fixed rate, whoever listens."""

    def __init__(self, seed: int, load: SpikeLoad) -> None:
        context = multiprocessing.get_context("spawn")
        self._must_stop = context.Event()
        self._address = f"tcp://127.0.0.1:{free_port()}"
        self._process = context.Process(
            target=_send, args=(self._address, seed, load, self._must_stop), daemon=True
        )

    def __enter__(self) -> str:
        self._process.start()
        return self._address

    def __exit__(self, *_: object) -> None:
        self._must_stop.set()
        self._process.join()


def _send(address: str, seed: int, load: SpikeLoad, must_stop: Event) -> None:
    clock = HostClock()
    batches = _batches(load, LOOP_S, seed)
    with zmq.Context() as context:
        hello = Hello(STREAM, RUN, "bench", population())
        publisher = SpikePublisher(context, address, hello, clock)
        origin_ns, seq = clock.now_ns(), 0
        while not must_stop.is_set():
            clock.sleep_ns(origin_ns + seq * NS_PER_S // load.batches_per_s - clock.now_ns())
            batch = batches[seq % len(batches)]
            publisher.send(_numbered(batch, seq, LOOP_S * NS_PER_S * (seq // len(batches))))
            seq += 1
        publisher.close(is_urgent=True)


def _numbered(batch: SpikeBatch, seq: int, shift_ns: int) -> SpikeBatch:
    """Return a batch of the loop with a number and times of its own."""
    return SpikeBatch(
        STREAM,
        RUN,
        seq,
        batch.start_ns + shift_ns,
        batch.stop_ns + shift_ns,
        batch.spike_time_ns + shift_ns,
        batch.unit_index,
    )


if __name__ == "__main__":
    sys.exit(main())
