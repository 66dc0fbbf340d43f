"""How long each question of ``neurrate evaluate`` takes, in how much memory, and with more workers.

    python -m benchmarks.evaluate --bundle bundle --dataset data --json PATH     (some 20 minutes)
    python -m benchmarks.evaluate --bundle bundle --dataset data --quick        (for tests)

What bounds it
--------------
The language model: each worker has one of its own, with one thread. `docs/evaluate.md` says how
bundle and data set of the simulated animal are made.

Each question runs as a command of its own, in an empty folder, so that it makes all narrations that
it needs. The speed-up is of narrating: a command's time less that of the same command again,
which finds them all. Numbers of workers take turns. Memory is each process's largest resident set
(VmHWM), in which pages shared with others count in full.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Options, Result, markdown, read_options, report
from evaluation.questions.narration_store import STORE
from evaluation.questions.run import QUESTIONS

N_ROUNDS = 3
POLL_S = 0.1
LOKY = "loky"  # In the command line of a worker


@dataclass(slots=True)
class CommandRun:
    """One command that ran to its end."""

    seconds: float = 0.0
    n_sentences: int = 0  # In its store at the end
    driver_mb: float = 0.0
    workers_mb: dict[int, float] = field(default_factory=dict)  # By process id

    @property
    def worker_mb(self) -> float:
        """Of the largest worker; 0 if this was the only process."""
        return max(self.workers_mb.values(), default=0.0)


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__, _add_options)
    n_cores = len(os.sched_getaffinity(0))
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as name:
        sweep = _Sweep(options, Path(name))
        found, speed = sweep.speed_up((1, 2))
        rows += found
        figures += speed
        for question in ("fidelity",) if options.is_quick else QUESTIONS:
            run = sweep.run(question, n_cores)
            rows.append(_row(question, n_cores, [run]))
            figures += _figures(question, run)
    print(_table(figures))
    parameters = {"windows": sweep.windows, "workers": n_cores, "rounds": sweep.n_rounds}
    limits = {"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)}
    return report(Result("evaluate", parameters, limits, rows, figures), options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--sentence-model")
    parser.add_argument(
        "--rounds", type=int, default=N_ROUNDS, help="turns of each number of workers"
    )


class _Sweep:
    """Runs questions in empty folders."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._n_runs = 0
        self.windows = 20 if options.is_quick else 400
        self.n_rounds = 1 if options.is_quick else options.more["rounds"]

    def speed_up(self, workers: Sequence[int]) -> tuple[list[MeasuredRow], list[Figure]]:
        """Answer the question with most narrations with each number of workers, in turns.

        A worker needs some seconds to start, which a short sweep does not repay.
        """
        question = "fidelity" if self._options.is_quick else "scaling"
        runs: dict[int, list[CommandRun]] = {n: [] for n in workers}
        narrating: dict[int, list[float]] = {n: [] for n in workers}
        for _ in range(self.n_rounds):
            for n in workers:
                runs[n].append(self.run(question, n))
                again = self.run(question, n, again=True)
                narrating[n].append(runs[n][-1].seconds - again.seconds)
        rows = [_row(question, n, of) for n, of in runs.items()]
        figures = []
        for n in workers:
            case, spent = f"{n} workers", np.array(narrating[n])
            n_sentences = runs[n][0].n_sentences
            figures += [
                figure(case, "sentences a second", n_sentences / spent),
                figure(case, "speed-up", np.array(narrating[workers[0]]) / spent),
            ]
        return rows, figures

    def run(self, question: str, workers: int, *, again: bool = False) -> CommandRun:
        """Answer a question in an empty folder, or `again` in that of the last one."""
        self._n_runs += not again
        out = self._folder / str(self._n_runs)
        more = self._options.more
        command = [
            sys.executable, "-m", "neurrate", "evaluate", question, more["bundle"],
            more["dataset"], "--out", str(out), "--windows", str(self.windows),
            "--workers", str(workers), "--device", "cpu", "--seed", str(self._options.seed),
        ]  # fmt: skip
        if more["sentence_model"]:
            command += ["--sentence-model", more["sentence_model"]]
        run = _measured(command)
        if (out / STORE).exists():  # not every question narrates
            with closing(sqlite3.connect(out / STORE)) as store:
                [[run.n_sentences]] = store.execute("SELECT count(*) FROM narrations")
        return run


def _measured(command: Sequence[str]) -> CommandRun:
    """Run a command, and watch its memory and that of its workers."""
    run = CommandRun()
    started_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.Error, OSError):
                run.driver_mb = _peak_mb(process.pid) or run.driver_mb
                for child in driver.children(recursive=True):
                    if any(LOKY in word for word in child.cmdline()):
                        run.workers_mb[child.pid] = _peak_mb(child.pid) or run.workers_mb[child.pid]
            time.sleep(POLL_S)
    run.seconds = time.perf_counter() - started_s
    if process.returncode:
        sys.exit(f"the command ended with code {process.returncode}: {' '.join(command)}")
    return run


def _peak_mb(pid: int) -> float:
    """Return the largest resident set so far, 10**6 bytes; 0 of a process that has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 / 1e6 if lines else 0.0


def _row(question: str, workers: int, runs: Sequence[CommandRun]) -> MeasuredRow:
    durations_ns = np.array([round(run.seconds * 1e9) for run in runs], np.int64)
    return row(question, f"{workers} workers", durations_ns)


def _figures(question: str, run: CommandRun) -> list[Figure]:
    found = {
        "seconds": run.seconds,
        "sentences made": run.n_sentences,
        "driver, MB": run.driver_mb,
        "worker, MB": run.worker_mb,
    }
    return [figure(question, name, np.array([value], float)) for name, value in found.items()]


def _table(figures: Sequence[Figure]) -> str:
    """Return the questions as a table for `docs/evaluate.md`."""
    of = {(one.case, one.name): one.median for one in figures}
    names = ("seconds", "sentences made", "driver, MB", "worker, MB")
    cases = dict.fromkeys(one.case for one in figures if one.name in names)
    lines = [[case, *(float(round(of[case, name])) for name in names)] for case in cases]
    return markdown(("question", *names), lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
