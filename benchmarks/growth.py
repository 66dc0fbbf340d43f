"""How latency, processor time and memory grow with units, probes, populations and batches.

    python -m benchmarks.growth --picture docs/images/growth.png --json PATH     (some ten minutes)
    python -m benchmarks.growth --quick                                        (for tests)

What bounds it
--------------
The encoder: on a CPU its time is proportional to the populations. Units widen its first layer and
the bins; batches only say how long a spike waits at its source, which no latency here includes.

Source, daemon and subscriber run as processes of their own (`evaluation.trial`), at two windows a
second, with a small encoder of random weights and the back-end `retrieval`, so that no language
model is measured. One thing changes at a time, from 2,000 units of one probe, eight populations
and batches of 10 ms. Latency is from the newest spike received to the narration published, of
every narration after the first second. The sources and this process have the lowest priority,
where they share the cores with the daemon: on a rig they are elsewhere. Processor time and memory
are of the daemon and its worker.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure
from benchmarks.narrator_models import SHIPPED, SHIPPED_GRID
from benchmarks.record import Options, Result, markdown, read_options, report
from benchmarks.trigger_cases import N_BINS, RATE, poisson_rates, write_sorting
from contracts.manifest import load_manifest
from contracts.population import Population, Unit
from contracts.spikes import SpikeBatch
from contracts.window import WindowSpec
from encoder_export.bundle import ReferenceFrame
from encoder_export.random_bundle import make_random_bundle
from evaluation.latency.process_usage import worker_of
from evaluation.latency.rate import WARM_S, RateRun, SentBatch, pace
from evaluation.latency.run import RateResult, summarise
from evaluation.trial import QUEUE_MESSAGES, Trial, TrialPlan, running
from subscribers.listener import Received

WINDOWS_PER_S = 2.0
SECONDS = 20.0
QUICK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class GrowthPoint:
    """One point: what is recorded, and how it is sent."""

    units: int = 2_000
    probes: int = 1
    populations: int = 8
    batch_ms: float = 10.0


SAMPLE_S = 0.2
"""Between two looks at what the daemon has used."""

LAST = 19
"""The lowest priority of a process."""

BASE = GrowthPoint()
AXES: dict[str, tuple[float, ...]] = {
    "units": (500, 2_000, 6_000),
    "probes": (1, 6),
    "populations": (1, 8, 32, 128, 200),
    "batch_ms": (1, 10, 100),
}
RIG = ("probes of 1 ms", 6.0)
"""Six probes that send every millisecond, one population: 6,000 messages a second."""

QUICK_BASE = GrowthPoint(units=60, populations=2)
QUICK_AXES: dict[str, tuple[float, ...]] = {"units": (60, 90), "probes": (1, 2)}


@dataclass(frozen=True, slots=True)
class Usage:
    """What the daemon and its worker used together."""

    cpu_s: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One point, measured.

    `narrated` is of all windows of all populations: those that take turns (more than 64) are not
    narrated at every window. `cpu_share` is in cores.
    """

    result: RateResult
    narrated: float
    cpu_share: float
    rss_mb: float


def main() -> int:
    """Measure, draw, print and return the exit code."""
    options = read_options(__doc__, _add_options)
    base, axes = (QUICK_BASE, QUICK_AXES) if options.is_quick else (BASE, AXES)
    points = {
        (axis, value): replace(base, **{axis: type(getattr(base, axis))(value)})
        for axis, values in axes.items()
        for value in values
    }
    if not options.is_quick:
        points[RIG] = replace(base, units=600, probes=6, populations=1, batch_ms=1)
    measured: dict[GrowthPoint, Measured] = {}
    for point in dict.fromkeys(points.values()):
        print(f"growth: {point}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            measured[point] = _measure(point, Path(folder), options)
    lines = {at: measured[point] for at, point in points.items()}
    print(table(lines), "\n")
    if picture := options.more["picture"]:
        draw(picture, lines)
    return report(_result(base, lines, options), options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw the curves here")


def _measure(point: GrowthPoint, folder: Path, options: Options) -> Measured:
    seconds = QUICK_SECONDS if options.is_quick else SECONDS
    rate = replace(pace(WINDOWS_PER_S, RATE.bins_per_s), batch_ms=point.batch_ms)
    plan = _plan(point, folder, seconds=seconds + WARM_S, seed=options.seed)
    messages: list[Received] = []
    batches: list[SentBatch] = []
    usage: list[tuple[float, Usage]] = []
    with running(plan, folder / "trial") as trial:
        if not options.is_quick:  # or, on a busy machine, a short run is over before its samples
            _step_aside(trial)
        next_s = 0.0
        for received in trial.received():
            for message in received:
                if isinstance(message.value, SpikeBatch):
                    batches.append(SentBatch.of(message.value))
                else:
                    messages.append(message)
            now_s = time.monotonic()
            if batches and now_s >= next_s and (used := _usage(trial)):
                usage.append((now_s, used))
                next_s = now_s + SAMPLE_S
        summary = trial.wait()
    summary.check_spikes()
    spec = load_manifest(plan.bundle, check_hashes=False).window_spec
    result = summarise(
        RateRun(messages, batches, summary),
        rate,
        spec=replace(spec, stride_bins=rate.stride_bins),
        populations=plan.populations,
    )
    (began_s, first), (ended_s, last) = usage[0], usage[-1]
    return Measured(
        result,
        narrated=result.stages_ms["total"]["n"] / (result.measured_windows * point.populations),
        cpu_share=(last.cpu_s - first.cpu_s) / (ended_s - began_s),
        rss_mb=max(used.rss_mb for _, used in usage),
    )


def _step_aside(trial: Trial) -> None:
    """Give daemon and worker the processor first: on a rig the sources are elsewhere."""
    group = Path(f"/proc/{trial.daemon.pid}/autogroup")
    for pid in (os.getpid(), *(source.pid for source in trial.sources)):
        os.setpriority(os.PRIO_PROCESS, pid, LAST)
        # Where Linux groups processes by session, a priority counts only within the group.
        own_group = Path(f"/proc/{pid}/autogroup")
        if group.exists() and own_group.read_text() != group.read_text():
            own_group.write_text(str(LAST))


def _usage(trial: Trial) -> Usage | None:
    """Return what the daemon and its worker have used; None if one is not there."""
    import psutil

    pids = (trial.daemon.pid, worker_of(trial.daemon.pid))
    try:
        processes = [psutil.Process(pid) for pid in pids if pid is not None]
        cpu_s = sum(sum(process.cpu_times()[:2]) for process in processes)
        rss_mb = sum(process.memory_info().rss for process in processes) / 1e6
    except psutil.Error:
        return None
    return Usage(cpu_s, rss_mb) if len(processes) == len(pids) else None


def _plan(point: GrowthPoint, folder: Path, *, seconds: float, seed: int) -> TrialPlan:
    """Write a recording of each probe and a bundle of all units."""
    rng = np.random.default_rng(seed)
    scaling = poisson_rates(point.units)
    n_areas = max(1, point.populations - 1)
    recordings = []
    for number, rows in enumerate(np.array_split(np.arange(point.units), point.probes)):
        recording = folder / f"probe{number}"
        first_unit = int(rows[0])
        write_sorting(recording, scaling.mean[rows], seconds + 2, rng, first_unit=first_unit)
        recordings.append(str(recording))
    units = [Unit(unit_id=str(row), area=f"area{row % n_areas}") for row in range(point.units)]
    manifest = make_random_bundle(
        folder / "bundle",
        population=Population(units),
        unit_mean=scaling.mean,
        unit_std=scaling.std,
        window=WindowSpec(RATE, n_bins=N_BINS, stride_bins=N_BINS),
        grid=SHIPPED_GRID,
        language_model_id=str(SHIPPED),
        recording_label="benchmark",
        command="benchmarks",
        references=[ReferenceFrame("0", "a frame", np.ones(SHIPPED_GRID.dim, np.float32))],
    )
    names = ["all", *(f"area{number}" for number in range(n_areas))][: point.populations]
    return TrialPlan(
        recordings[0],
        manifest.folder,
        str(SHIPPED),
        {name: name for name in names},
        stride_bins=pace(WINDOWS_PER_S, RATE.bins_per_s).stride_bins,
        batch_ms=point.batch_ms,
        start=0.0,
        seconds=seconds,
        settings=("narrator.backend=retrieval",),
        queue_messages=QUEUE_MESSAGES,
        listens_to_spikes=True,
        more_recordings=tuple(recordings[1:]),
    )


def _result(
    base: GrowthPoint, lines: dict[tuple[str, float], Measured], options: Options
) -> Result:
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for at, measured in lines.items():
        case, total = _name(*at), measured.result.stages_ms["total"]
        p50, p95, p99, most = (1000 * total[name] for name in ("p50", "p95", "p99", "max"))
        rows.append(MeasuredRow(case, "narration", int(total["n"]), p50, p95, p99, most))
        figures += [
            figure(case, name, np.array([value]))
            for name, value in (
                ("narrated, %", 100 * measured.narrated),
                ("daemon and worker, cores", measured.cpu_share),
                ("daemon and worker, MB", measured.rss_mb),
            )
        ]
    parameters = {
        "windows_per_s": WINDOWS_PER_S,
        "units": base.units,
        "probes": base.probes,
        "populations": base.populations,
        "batch_ms": base.batch_ms,
    }
    limits = {"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)}
    return Result("growth", parameters, limits, rows, figures)


def _name(axis: str, value: float) -> str:
    return f"{axis.replace('_ms', ', ms')} {value:,g}"


def table(lines: dict[tuple[str, float], Measured]) -> str:
    """Return a row for each point."""
    headers = ["", "narrated", "p50 ms", "p95", "p99", "max", "cores", "MB"]
    return markdown(
        headers,
        [
            [
                _name(*at),
                f"{measured.narrated:.1%}",
                *(
                    measured.result.stages_ms["total"][name]
                    for name in ("p50", "p95", "p99", "max")
                ),
                measured.cpu_share,
                measured.rss_mb,
            ]
            for at, measured in lines.items()
        ],
    )


def draw(path: Path, lines: dict[tuple[str, float], Measured]) -> None:
    """Draw latency above, processor time and memory below, a column for each axis."""
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    from encoder_training.pictures import report_figure

    axes = list(dict.fromkeys(axis for axis, _ in lines if axis != RIG[0]))
    with report_figure(path, (2.6 * len(axes), 5.0)) as drawing:
        grid = drawing.subplots(3, len(axes), sharey="row", sharex="col", squeeze=False)
        for column, axis in enumerate(axes):
            values = [value for name, value in lines if name == axis]
            _column(grid[:, column], axis, values, [lines[axis, value] for value in values])
        for row, label in enumerate(("latency, ms", "cores", "memory, MB")):
            grid[row, 0].set_ylabel(label)
        grid[0, 0].legend(frameon=False, fontsize=7)
        grid[0, 0].set_yscale("log")
        grid[0, 0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        grid[0, 0].yaxis.set_minor_formatter(NullFormatter())
        for row in (1, 2):
            grid[row, 0].set_ylim(0, 1.1 * grid[row, 0].get_ylim()[1])


def _column(cells: Any, axis: str, values: Sequence[float], of: Sequence[Measured]) -> None:
    latency, cpu, memory = cells
    places = range(len(values))
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        total = [measured.result.stages_ms["total"][name] for measured in of]
        latency.plot(places, total, style, marker=".", color="#c8553d", label=name)
    cpu.plot(places, [measured.cpu_share for measured in of], marker=".", color="#2a6f97")
    memory.plot(places, [measured.rss_mb for measured in of], marker=".", color="#4f9d69")
    memory.set_xticks(places, [f"{value:,g}" for value in values])
    memory.set_xlabel(axis.replace("_ms", ", ms"))


if __name__ == "__main__":
    sys.exit(main())
