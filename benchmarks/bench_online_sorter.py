"""How good, how fast and how late the online sorter is, by method, on known spikes.

    python -m benchmarks.bench_online_sorter
    python -m benchmarks.bench_online_sorter --quick      (a minute; for tests)

What bounds it
--------------
A second of 384 channels is 11.5 million samples: three second-order sections and a median of each
sample come first, for every method. `nearest` then looks for troughs and compares a few templates
at each; `tdc-peeler` subtracts what it found and looks again, at last in a convolution of all
channels; `wobble` and `circus-omp` convolve all templates with all samples.

One recording is generated: templates are estimated from its first part, and each method sorts the
rest, as fast as it goes and, with two processes, at the pace of a probe: chunks of 20 ms become
blocks of 100 ms. The latency is that of the paced run: from the arrival of the chunk with the last
sample of a block until its message has come out of a socket, so the wait for the margin of the next
chunk is in it. A method that is slower than real time is later and later, and its latency is of
this length of recording only.

"accuracy" is true positives over all true and all found spikes of a unit, within 0.4 ms. Templates
are estimated from true spikes, without drift: what is found in a brain is less. "offline" is the
same method by SpikeInterface's own pipeline over the whole, filtered in one piece; the run stops if
one spike differs. The real-time factor is the time of the run over the time recorded, with blocks
matched one after the other or by two processes; "cpu" is time of the processor with one, which
grows less where other programs take it too. All of them read the file. "in work" is with one.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from benchmarks.ground_truth_voltages import (
    FULL,
    QUICK,
    RATE_HZ,
    GroundTruthParts,
    make_ground_truth,
)
from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.record import Result, read_options, report, stop
from contracts.clock import NS_PER_S, HostClock
from contracts.spikes import Mark, SpikeBatch, StreamEnd
from contracts.wire import unpack
from stream_sources.live import publish_live
from stream_sources.online_sorter.causal_filter import CausalFilter
from stream_sources.online_sorter.matching import METHODS, matching_node
from stream_sources.online_sorter.recording_voltages import RecordingVoltages
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from stream_sources.online_sorter.template_estimation import estimate_templates
from stream_sources.online_sorter.templates import SorterTemplates
from stream_sources.rigs.voltages import VoltageChunk

BLOCK_MS = 100.0
DELTA_MS = 0.4

N_WORKERS = 2
"""Processes that match blocks, as the sorter starts for 384 channels."""


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    size = QUICK if options.is_quick else FULL
    case = f"{size.n_channels} channels"
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        truth = make_ground_truth(Path(folder), size, options.seed)
        templates = estimate_templates(*truth.calibration, origin="ground truth")
        filter_s = _filter_only(truth, templates)
        for method in METHODS:
            measured = _measure(truth, templates, method)
            rows += [
                row(case, f"{method}, to the wire", measured.latencies_ns),
                row(case, f"{method}, in work", measured.in_work_ns),
            ]
            figures += [
                figure(case, f"{method}, {name}", np.array([value]))
                for name, value in measured.numbers.items()
            ]
    return report(
        Result(
            benchmark="online_sorter",
            parameters={
                "n_channels": size.n_channels,
                "n_units": len(templates.population),
                "rate_hz": RATE_HZ,
                "calibration_s": size.calibration_s,
                "test_s": size.test_s,
                "block_ms": BLOCK_MS,
            },
            limits={"filter and reference, real-time factor": filter_s / size.test_s},
            rows=rows,
            figures=figures,
        ),
        options,
    )


@dataclass(frozen=True, slots=True, eq=False)
class MethodResult:
    """What one method did: nanoseconds for each block, and numbers by name."""

    latencies_ns: NDArray[np.int64]
    in_work_ns: NDArray[np.int64]
    numbers: dict[str, float]


def _measure(truth: GroundTruthParts, templates: SorterTemplates, method: str) -> MethodResult:
    recording, sorting = truth.test
    expected = _offline(recording, templates, method)
    runs = [_sort(recording, templates, method, n_workers) for n_workers in (1, N_WORKERS)]
    for run in runs:
        found = _spikes_of(run.batches)
        if found != expected:
            n_other = len(set(found) ^ set(expected))
            stop(f"{method}: {n_other} of {len(expected)} spikes are not those of the offline run")
    alone, together = runs
    accuracy = _accuracy(sorting, templates, expected)
    latencies_ns, paced = _latencies(recording, templates, method)
    sorted_s = alone.source.load.sorted_s
    return MethodResult(
        latencies_ns=latencies_ns,
        in_work_ns=(alone.source.load.recent * BLOCK_MS * 1e6).astype(np.int64),
        numbers={
            "accuracy, mean over units": float(accuracy.mean()),
            "accuracy, median over units": float(np.median(accuracy)),
            "spikes equal to offline, share": 1.0,
            "spikes": float(len(expected)),
            "real-time factor, cpu": alone.cpu_s / sorted_s,
            "real-time factor, 1 worker": alone.wall_s / sorted_s,
            f"real-time factor, {N_WORKERS} workers": together.wall_s / sorted_s,
            f"behind at most, {N_WORKERS} workers, s": paced.load.max_behind_s,
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class UnpacedRun:
    """One run as fast as it goes. The processor's time is that of this process."""

    batches: list[SpikeBatch]
    source: OnlineSorterSource
    cpu_s: float
    wall_s: float


def _sort(recording: Any, templates: SorterTemplates, method: str, n_workers: int) -> UnpacedRun:
    voltages = RecordingVoltages(recording, label="recording:test", speed=None)
    options = SorterOptions(method=method, block_ms=BLOCK_MS, speed=None, n_workers=n_workers)
    source = OnlineSorterSource(voltages, templates, options)
    cpu_s, started = time.process_time(), time.perf_counter()
    batches = list(source.batches())
    wall_s = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_s
    source.close()
    return UnpacedRun(batches, source, cpu_s, wall_s)


def _spikes_of(batches: list[SpikeBatch]) -> list[tuple[int, int]]:
    return sorted(
        (round(time_ns * RATE_HZ / NS_PER_S), unit)
        for batch in batches
        for time_ns, unit in zip(
            batch.spike_time_ns.tolist(), batch.unit_index.tolist(), strict=True
        )
    )


def _filter_only(truth: GroundTruthParts, templates: SorterTemplates) -> float:
    """Return how long the filter and the reference of the test take by themselves, seconds."""
    voltages = RecordingVoltages(truth.test[0], label="recording:test", speed=None)
    causal, took_s = CausalFilter(templates.preprocessing, RATE_HZ), 0.0
    for chunk in voltages.chunks():
        if isinstance(chunk, VoltageChunk):
            started = time.perf_counter()
            causal.apply(chunk.voltages_uv)
            took_s += time.perf_counter() - started
    return took_s


def _offline(recording: Any, templates: SorterTemplates, method: str) -> list[tuple[int, int]]:
    """Return the spikes of SpikeInterface's pipeline, in chunks of a block."""
    from spikeinterface.core import NumpyRecording
    from spikeinterface.core.node_pipeline import run_node_pipeline

    raw = recording.get_traces(return_in_uV=True).astype(np.float32)
    filtered = NumpyRecording([CausalFilter(templates.preprocessing, RATE_HZ).apply(raw)], RATE_HZ)
    del raw
    filtered.set_probe(recording.get_probe())
    chunk = round(BLOCK_MS / 1e3 * RATE_HZ)
    job = {"n_jobs": 1, "chunk_size": chunk, "progress_bar": False}
    node = matching_node(templates, method)
    spikes = run_node_pipeline(filtered, [node], job)
    node.clean()
    spikes = spikes[spikes["cluster_index"] >= 0]
    pairs = zip(spikes["sample_index"].tolist(), spikes["cluster_index"].tolist(), strict=True)
    return sorted(pairs)


def _accuracy(
    truth: Any, templates: SorterTemplates, found: list[tuple[int, int]]
) -> NDArray[np.float64]:
    """Return the accuracy of each unit that has a template, from 0 to 1."""
    from spikeinterface.comparison import compare_sorter_to_ground_truth
    from spikeinterface.core import NumpySorting

    names = [unit.unit_id for unit in templates.population.units]
    sorting = NumpySorting.from_samples_and_labels(
        [np.array([sample for sample, _ in found], dtype=np.int64)],
        [np.array([names[unit] for _, unit in found])],
        RATE_HZ,
        unit_ids=names,
    )
    known = truth.select_units([unit for unit in truth.unit_ids if str(unit) in names])
    compared = compare_sorter_to_ground_truth(
        known, sorting, exhaustive_gt=True, delta_time=DELTA_MS
    )
    accuracy: NDArray[np.float64] = compared.get_performance()["accuracy"].to_numpy(np.float64)
    return accuracy


class TimedVoltages(RecordingVoltages):
    """Keeps when each chunk was due: its end, session nanoseconds, and the host's clock."""

    def __init__(self, recording: Any) -> None:
        super().__init__(recording, label="recording:test", speed=1.0)
        self.due: list[tuple[int, int]] = []

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield chunks, each noted."""
        began_ns = time.monotonic_ns()
        for chunk in super().chunks():
            if isinstance(chunk, VoltageChunk):
                last = chunk.first_sample + len(chunk.voltages_uv)
                end_ns = round(last / RATE_HZ * NS_PER_S)
                self.due.append((end_ns, began_ns + end_ns))
            yield chunk


def _latencies(
    recording: Any, templates: SorterTemplates, method: str
) -> tuple[NDArray[np.int64], OnlineSorterSource]:
    """Publish at the pace of a probe, receive in another process; return how late blocks are."""
    voltages = TimedVoltages(recording)
    options = SorterOptions(method=method, block_ms=BLOCK_MS, n_workers=N_WORKERS)
    source = OnlineSorterSource(voltages, templates, options)
    answers: list[Future[list[tuple[int, int]]]] = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        publish_live(
            source,
            "tcp://127.0.0.1:0",
            HostClock(),
            wait_for_subscribers=1,
            on_bound=lambda address: answers.append(pool.submit(_receive, address)),
        )
        received = np.array(answers[0].result())
    ends_ns, due_ns = np.array(voltages.due).T
    came = np.searchsorted(ends_ns, received[:, 0]).clip(max=len(ends_ns) - 1)
    return received[:, 1] - due_ns[came], source


def _receive(address: str) -> list[tuple[int, int]]:
    """Return the end of each batch, session nanoseconds, and when it came, host nanoseconds."""
    received = []
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(address)
        socket.subscribe(b"")
        while True:
            parts = socket.recv_multipart()
            now_ns = time.monotonic_ns()
            message = unpack(parts, received_host_ns=now_ns)
            if isinstance(message, SpikeBatch):
                received.append((message.stop_ns, now_ns))
            if isinstance(message, StreamEnd):
                return received


if __name__ == "__main__":
    sys.exit(main())
