"""How soon a trigger leaves the daemon: newest spike received to trigger published.

    python -m benchmarks.bench_trigger
    python -m benchmarks.bench_trigger --quick      (seconds; for tests)

What bounds it
--------------
A trigger cannot leave before its window is encoded. The encoder alone is timed in this process,
through the same runtime on the same windows, before and after every run, while no other process
of a run exists: "encoder alone". What a trigger takes beyond it is the daemon's: to cut the window,
to evaluate it, to publish, and to share two cores with the source, the subscriber and the narrator.

Source, daemon and narrator are processes of their own, with their sockets. The source never waits.
Rules on four random probes fire at nearly every window, two of them as a rule, and the last
trigger of a window counts. Windows of the first second are left out.

"idle": the narrator gets no window. "busy": it is offered every window, and they come faster than
it narrates; "narrator busy" is the share of the time in which it was at work.
"tiny" is the encoder of the simulated animal with its small LLaVA; "paper" the paper's encoder at
2,000 units, 24 x 24 patches of 1,024 numbers, with a LLaVA of random weights that takes them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - its threads are set
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.record import Options, Result, read_options, report, stop
from benchmarks.trigger_cases import N_PROBES, TriggerSize, make_paper, make_tiny, populations
from contracts.narration import Narration
from contracts.trigger import Trigger
from daemon.encoders.auto import load_encoder
from evaluation.latency.messages import TimedMessage, read
from evaluation.latency.rate import WARM_S, pace
from evaluation.trial import TrialPlan, running
from subscribers.listener import Received

N_ROUNDS = 2
SECONDS = 9.0
SECONDS_QUICK = 2.0
N_ALONE = {"tiny": 60, "paper": 15}
N_ALONE_QUICK = 5

IDLE, BUSY = "idle", "busy"
NEVER = 1_000_000
"""Only every so many windows are narrated if the narrator is to be idle: the first alone."""

STAGES = ("cut", "encode", "decide", "publish")


@dataclass(frozen=True, slots=True)
class TriggerCase:
    """One encoder, some populations, and a rate of windows."""

    size: TriggerSize
    n_populations: int
    rate: float

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.size.name}, {self.n_populations} population{'s' * (self.n_populations > 1)}"


@dataclass(frozen=True, slots=True)
class Run:
    """Triggers and load of one run.

    Attributes
    ----------
    triggers : list of TimedMessage
        The last of each window.
    share : float
        Of the windows that triggered something.
    busy : float
        Share of the time in which the narrator was at work.
    """

    triggers: list[TimedMessage]
    share: float
    busy: float

    def total_ms(self) -> NDArray[np.float64]:
        """Return the whole latency of every window."""
        return np.array([each.total_ms for each in self.triggers])


def main() -> int:
    """Run, print, compare with the record."""
    options = read_options(__doc__)
    torch.set_num_threads(1)
    seconds = SECONDS_QUICK if options.is_quick else SECONDS
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="neurrate-bench-") as name:
        folder = Path(name)
        for case in _cases(folder, seconds + WARM_S + 1, options):
            found, alone_ns = _rounds(case, folder, seconds, options)
            rows.append(row(case.name, "encoder alone", alone_ns))
            for narrator, runs in found.items():
                rows += _rows(f"{case.name}, {narrator}", runs)
                figures += _figures(f"{case.name}, {narrator}", runs, float(np.median(alone_ns)))
    result = Result(
        benchmark="trigger",
        parameters={
            "rules": 2 * N_PROBES,
            "seconds_a_run": seconds,
            "warm_up_s": WARM_S,
            "onnxruntime": version("onnxruntime"),
            "torch": version("torch"),
        },
        limits={f"encoder alone p50 ms, {r.case}": r.p50_us / 1e3 for r in rows if _is_alone(r)},
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def _is_alone(found: MeasuredRow) -> bool:
    return found.contender == "encoder alone"


def _cases(folder: Path, seconds: float, options: Options) -> list[TriggerCase]:
    paper = make_paper(folder, seconds=seconds, seed=options.seed, is_quick=options.is_quick)
    if options.is_quick:
        return [TriggerCase(paper, 1, 20.0)]
    tiny = make_tiny(folder, seconds=seconds, seed=options.seed)
    return [TriggerCase(tiny, 1, 40.0), TriggerCase(tiny, 8, 20.0), TriggerCase(paper, 1, 5.0)]


def _rounds(
    case: TriggerCase, folder: Path, seconds: float, options: Options
) -> tuple[dict[str, list[Run]], NDArray[np.int64]]:
    """Let idle and busy take turns, and time the encoder alone around each."""
    n_rounds = 1 if options.is_quick else N_ROUNDS
    n_alone = N_ALONE_QUICK if options.is_quick else N_ALONE[case.size.name]
    narrators = (BUSY,) if options.is_quick else (IDLE, BUSY)
    found: dict[str, list[Run]] = {narrator: [] for narrator in narrators}
    alone = [_alone_ns(case, n_alone)]
    for number, narrator in product(range(n_rounds), found):
        place = folder / f"{case.name}-{narrator}-{number}"
        place.mkdir()
        found[narrator].append(_run(case, place, narrator, seconds))
        alone.append(_alone_ns(case, n_alone))
        print(f"{case.name}, {narrator}, round {number + 1}", file=sys.stderr, flush=True)
    return found, np.concatenate(alone)


def _alone_ns(case: TriggerCase, n: int) -> NDArray[np.int64]:
    """Time the daemon's encoder on windows of its own, here."""
    manifest = case.size.manifest
    selections = [
        manifest.population.select(name, name) for name in populations(case.n_populations)
    ]
    encoder = load_encoder(manifest, selections)
    took = []
    for number in range(2 + n):
        window = case.size.window(number)
        started_ns = time.perf_counter_ns()
        encoder.encode([window])
        took.append(time.perf_counter_ns() - started_ns)
    return np.array(took[2:])


def _run(case: TriggerCase, folder: Path, narrator: str, seconds: float) -> Run:
    size = case.size
    at = pace(case.rate, size.manifest.window_spec.rate.bins_per_s)
    plan = TrialPlan(
        str(size.recording),
        size.manifest.folder,
        str(size.model),
        {name: name for name in populations(case.n_populations)},
        stride_bins=at.stride_bins,
        batch_ms=at.batch_ms,
        seconds=seconds + WARM_S,
        start=0.0,
        settings=(
            f"triggers.rules={size.rules}",
            f"narrator.backend={size.backend}",
            f"handover.every={NEVER if narrator == IDLE else 1}",
        ),
    )
    messages: list[Received] = []
    with running(plan, folder) as trial:
        for received in trial.received():
            messages += received
        summary = trial.wait()
    summary.check_spikes()
    triggers, narrations = _of(messages, Trigger), _of(messages, Narration)
    last = {trigger.window_seq: trigger for trigger in triggers}
    if not last:
        stop(f"nothing was triggered in {case.name}, narrator {narrator}")
    first_ns = min(trigger.first_ns for trigger in triggers) + round(WARM_S * 1e9)
    measured = [trigger for trigger in last.values() if trigger.first_ns >= first_ns]
    share = len(last) / summary.counters["windows"]
    return Run(measured, share, _busy(narrations, first_ns, measured[-1].first_ns))


def _of(messages: Sequence[Received], kind: type[Narration] | type[Trigger]) -> list[TimedMessage]:
    timed = (read(message) for message in messages if isinstance(message.value, kind))
    return [message for message in timed if message is not None]


def _busy(narrations: Sequence[TimedMessage], start_ns: int, stop_ns: int) -> float:
    """Return the share of an interval in which the narrator was at work."""
    spans = sorted((n.host_ns["worker_start"], n.host_ns["last_token"]) for n in narrations)
    busy_ns, reached_ns = 0, start_ns
    for begun_ns, ended_ns in spans:
        begun_ns, ended_ns = max(begun_ns, reached_ns), min(ended_ns, stop_ns)
        busy_ns += max(0, ended_ns - begun_ns)
        reached_ns = max(reached_ns, ended_ns)
    return busy_ns / (stop_ns - start_ns)


def _rows(case: str, runs: Sequence[Run]) -> list[MeasuredRow]:
    triggers = [trigger for run in runs for trigger in run.triggers]
    columns = {name: [trigger.stages_ms[name] for trigger in triggers] for name in STAGES}
    columns["total"] = [trigger.total_ms for trigger in triggers]
    columns["published > here"] = [
        (trigger.received_ns - trigger.published_ns) / 1e6 for trigger in triggers
    ]
    return [
        row(case, name, np.array([round(ms * 1e6) for ms in values]))
        for name, values in columns.items()
    ]


def _figures(case: str, runs: Sequence[Run], alone_ns: float) -> list[Figure]:
    p50, p99 = (np.array([np.percentile(run.total_ms(), p) for run in runs]) for p in (50, 99))
    own = np.array([[each.stages_ms["encode"] for each in run.triggers] for run in runs], object)
    encode = np.array([np.median(np.array(each, dtype=float)) for each in own])
    alone_ms = alone_ns / 1e6
    found = {
        "p50, ms": p50,
        "p99, ms": p99,
        "p50 / encoder alone": p50 / alone_ms,
        "p99 / encoder alone": p99 / alone_ms,
        "p99 / encode in the daemon": p99 / encode,
        "narrator busy": np.array([run.busy for run in runs]),
        "windows with a trigger": np.array([run.share for run in runs]),
    }
    return [figure(case, name, by_round) for name, by_round in found.items()]


if __name__ == "__main__":
    sys.exit(main())
