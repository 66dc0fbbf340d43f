"""Time for the fast loop to evaluate the triggers of a window: probes, rules, publishing.

    python -m benchmarks.bench_trigger_evaluator
    python -m benchmarks.bench_trigger_evaluator --quick      (seconds; for tests)

What bounds it
--------------
The mean patch of every population is read once: 8 populations of 64 patches of 96 numbers are 0.2
MB, of 576 patches of 1,024 numbers 19 MB, which is more than the caches hold. "mean of patches" is
that sum alone, with numpy, at the memory bandwidth of one core. The probes are 40 products for each
population. The rest is Python: one state machine a rule, and one JSON message a trigger.

"quiet" windows trigger nothing. In "all fire" each of 8 rules, one a population, fires at every
second window. There are no subscribers and no sinks; sinks have threads of their own.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import zmq
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Result, read_options, report, stop
from contracts.binning import BinRate
from contracts.clock import HostClock
from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.window import Window, WindowSpec
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.triggers.crossing import Level
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.probes import ConceptProbes, PopulationProbes
from daemon.triggers.rule_file import RuleBook
from daemon.triggers.rules import Rule, read_condition

GRIDS = {"tiny": PatchGrid(8, 8, 96), "paper": PatchGrid(24, 24, 1024)}
N_POPULATIONS = 8
N_CONCEPTS = 40
N_WINDOWS = 400
N_WINDOWS_QUICK = 20
N_ROUNDS = 5
AIM_US = {"tiny": 200, "paper": 5_000}
"""Aim for a quiet window: little compared with an encoder that takes 2 ms, or 50 ms."""

SPEC = WindowSpec(BinRate(120), n_bins=20, stride_bins=8)
NAMES = tuple(f"p{number}" for number in range(N_POPULATIONS))


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    n_windows, n_rounds = (N_WINDOWS_QUICK, 1) if options.is_quick else (N_WINDOWS, N_ROUNDS)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for case, grid in GRIDS.items():
        rounds = [_round(grid, n_windows, options.seed) for _ in range(n_rounds)]
        rows += [row(case, name, np.concatenate([r[name] for r in rounds])) for name in rounds[0]]
        p50 = {name: np.array([np.median(r[name]) for r in rounds]) for name in rounds[0]}
        quiet = p50["evaluate, quiet"]
        figures += [
            figure(case, "evaluate, quiet / mean of patches", quiet / p50["mean of patches"]),
            figure(case, f"evaluate, quiet / aim of {AIM_US[case]} us", quiet / AIM_US[case] / 1e3),
        ]
    result = Result(
        benchmark="trigger_evaluator",
        parameters={"n_populations": N_POPULATIONS, "n_concepts": N_CONCEPTS, "n_rules": 8},
        limits={"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)},
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def _round(grid: PatchGrid, n_windows: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Evaluate quiet windows and windows in which all rules fire, in turns."""
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(N_POPULATIONS, grid.n_patches, grid.dim)).astype(np.float32)
    low[:, :, 0] = -3  # what the first concept's probe reads, as log odds
    high = low.copy()
    high[:, :, 0] = 3
    took: dict[str, list[int]] = {
        "evaluate, quiet": [],
        "evaluate, all fire": [],
        "mean of patches": [],
    }
    sums = np.empty((N_POPULATIONS, grid.dim), np.float32)
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:*")
        evaluator = _evaluator(grid, publisher)
        for number in range(n_windows):
            for name, patches in (("evaluate, all fire", high), ("evaluate, quiet", low)):
                embeddings = _embeddings(grid, patches, 2 * number + (patches is low))
                started_ns = time.perf_counter_ns()
                evaluator.evaluate(embeddings)
                took[name].append(time.perf_counter_ns() - started_ns)
            started_ns = time.perf_counter_ns()
            for population, patches in enumerate(low):
                np.add.reduce(patches, axis=0, out=sums[population])
            took["mean of patches"].append(time.perf_counter_ns() - started_ns)
        if publisher.n_published != N_POPULATIONS * n_windows:
            stop(f"{publisher.n_published} triggers of {N_POPULATIONS * n_windows}")
        publisher.close()
    return {name: np.array(durations, dtype=np.int64) for name, durations in took.items()}


def _evaluator(grid: PatchGrid, publisher: Publisher) -> TriggerEvaluator:
    concepts = tuple(f"c{number}" for number in range(N_CONCEPTS))
    probes = ConceptProbes(
        concepts,
        ("all",),
        np.eye(N_CONCEPTS, grid.dim, dtype=np.float32),
        np.zeros(N_CONCEPTS, np.float32),
        np.ones((1, N_CONCEPTS), np.float32),
        np.zeros((1, N_CONCEPTS), np.float32),
    )
    return TriggerEvaluator(
        RuleBook(tuple(_rule(name) for name in NAMES), {}),
        probes=PopulationProbes(probes, dict.fromkeys(NAMES, "all")),
        publisher=publisher,
        counters=Counters(),
        latencies=TriggerLatencies(CollectorRegistry()),
        clock=HostClock(),
        bundle="0" * 64,
    )


def _rule(population: str) -> Rule:
    text = f'probe "c0" of {population} > 0.8'
    return Rule(f"rule_{population}", text, read_condition(text), Level(True, 0.8, 0.5))


def _embeddings(grid: PatchGrid, patches: NDArray[np.float32], seq: int) -> list[PatchEmbedding]:
    window = Window(SPEC, seq * SPEC.stride_bins, np.empty((0, 0), np.uint16))
    return [
        PatchEmbedding(window, name, 100, grid, rows)
        for name, rows in zip(NAMES, patches, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
