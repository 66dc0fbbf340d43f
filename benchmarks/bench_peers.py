"""The daemon's ingest beside other libraries for streams, on the same spikes.

    make bench-peers                                  (the first run installs the others)
    python -m benchmarks.bench_peers --quick          (for tests; leaves out what is missing)

What bounds it
--------------
For small batches the fixed cost of a message: system calls, threads, Python calls. For large ones
the binning of the spikes and the copies on the way. The libraries differ in what they promise:
`Ingest` checks every message and every spike and bounds what a peer can send, the others trust
theirs (docs/latency.md has what that means).

A sender on one core, a receiver with all of its threads and processes on another, each a process of
its own; brokers and servers are on the sender's core. Batches of 10 ms of 3,000 units, which the
receiver bins into a table of counts. At the end the sum of the table must be the number of spikes
that were sent. First as fast as they are taken, with at most 64 messages under way: messages a
second, and the receiver's processor time. Then at the rate of a rig, 100 messages and 30,000 spikes
a second: the time from before a batch is packed to when its last spike has a bin.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.latency_tables import peers_table
from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.peers.work import BATCH_NS, N_UNITS, WINDOW, Case, CountTable, open_board
from benchmarks.record import Options, Result, read_options, report, stop
from benchmarks.spike_data import spike_batches

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
MISSING = "'make bench-peers' installs it into .venv-peers"

MESSAGES = {300: 4_000, 3_000: 2_000, 30_000: 400}
"""Of a round, by spikes in each."""

QUICK_MESSAGES = 150
"""More than may be under way, so that a receiver that takes all at once is measured too."""

SKIPPED = 100
"""Messages at the start of each run; more than may be under way."""

RIG_MESSAGES, RIG_SPIKES, RIG_INTERVAL_S = 1_000, 300, 0.01
N_ROUNDS = 3
ALONE = "binning by numpy alone, us a batch"
"""What all receivers but ours do with a batch, without receiving it."""

LIMIT_S = 120.0
"""Of one run; it takes some seconds."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way from a sender to a table of counts.

    Attributes
    ----------
    module : str
        In `benchmarks.peers`, and its option after a colon.
    imports : str
        What it needs of the peers' environment; empty for one that runs in the product's.
    has_helper : bool
        Whether a broker or a server is started first.
    """

    name: str
    module: str
    imports: str = ""
    has_helper: bool = False

    @property
    def python(self) -> str:
        """The interpreter."""
        return str(PEERS_PYTHON) if self.imports else sys.executable


CONTENDERS = (
    Contender("ours", "ours"),
    Contender("pyzmq + msgpack", "plain_pyzmq"),
    Contender("ezmsg, shared memory", "with_ezmsg:shm", "ezmsg.core", has_helper=True),
    Contender("ezmsg, tcp", "with_ezmsg:tcp", "ezmsg.core", has_helper=True),
    Contender("timeflux", "with_timeflux", "timeflux.nodes.zmq", has_helper=True),
    Contender("pylsl", "with_pylsl", "pylsl"),
)


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    contenders = []
    for contender in CONTENDERS:
        if problem := _problem(contender):
            print(f"{contender.name} is left out: {problem}", file=sys.stderr)
        else:
            contenders.append(contender)
    n_rounds = 1 if options.is_quick else N_ROUNDS
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    versions: dict[str, dict[str, str]] = {}
    for n_spikes, n_messages in MESSAGES.items():
        n_sent = SKIPPED + (QUICK_MESSAGES if options.is_quick else n_messages)
        taken: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
        for _ in range(n_rounds):
            for contender in contenders:
                measured = _run(contender, options, n_messages=n_sent, n_spikes=n_spikes)
                taken[contender.name].append(measured)
                versions[contender.name] = measured["versions"]
        case = f"{n_spikes:,} spikes"
        figures += [*_figures(case, taken), figure(case, ALONE, _binning_us(n_spikes, options))]
    for contender in contenders:
        n_messages = SKIPPED + (QUICK_MESSAGES if options.is_quick else RIG_MESSAGES)
        measured = _run(
            contender,
            options,
            n_messages=n_messages,
            n_spikes=RIG_SPIKES,
            interval_s=RIG_INTERVAL_S,
        )
        rows.append(row("rig", contender.name, np.array(measured["latency_ns"], np.int64)))
        share = np.array([100 * measured["cpu_s"] / measured["wall_s"]])
        figures.append(figure("rig", f"{contender.name}, receiver cpu, % of a core", share))
    result = Result(
        benchmark="peers",
        parameters={
            "n_units": N_UNITS,
            "batch_ms": BATCH_NS // 1_000_000,
            "messages_under_way": WINDOW,
            "rig_messages_per_s": round(1 / RIG_INTERVAL_S),
            "rig_spikes_per_s": round(RIG_SPIKES / RIG_INTERVAL_S),
            "has_core_each": len(os.sched_getaffinity(0)) > 1,
            "versions": versions,
        },
        limits={"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)},
        rows=rows,
        figures=figures,
    )
    print(peers_table([asdict(row) for row in rows], [asdict(figure) for figure in figures]), "\n")
    return report(result, options)


def _problem(contender: Contender) -> str:
    """Return why a contender cannot run here; empty if it can."""
    if not contender.imports:
        return ""
    if not PEERS_PYTHON.exists():
        return MISSING
    tried = subprocess.run(
        [PEERS_PYTHON, "-c", f"import {contender.imports}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"{tried.stderr.strip().splitlines()[-1]}; {MISSING}"


def _run(
    contender: Contender,
    options: Options,
    *,
    n_messages: int,
    n_spikes: int,
    interval_s: float = 0.0,
) -> dict[str, Any]:
    """Run one sender and receiver, and return what the receiver measured."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        case = Case(
            n_messages=n_messages,
            n_spikes=n_spikes,
            n_skipped=SKIPPED,
            interval_s=interval_s,
            seed=options.seed,
            address=f"tcp://127.0.0.1:{_free_port()}",
            board=str(Path(folder) / "board"),
        )
        open_board(case.board, n_messages=n_messages, is_new=True)
        if contender.has_helper:
            stack.enter_context(_Side(contender, "helper", cores[-1], case))
            _wait_for(case.address)
        receiver = stack.enter_context(_Side(contender, "receive", cores[0], case))
        sender = stack.enter_context(_Side(contender, "send", cores[-1], case))
        deadline_s = time.monotonic() + LIMIT_S
        while receiver.process.poll() is None:
            if time.monotonic() > deadline_s or sender.process.poll():
                n_binned = int(open_board(case.board, n_messages=n_messages)[1])
                stop(f"{contender.name} binned {n_binned} of {n_messages} batches: {sender.error}")
            time.sleep(0.02)
        if receiver.process.returncode:
            stop(f"{contender.name}: {receiver.error}")
        measured: dict[str, Any] = json.loads(receiver.output)
    if measured["n_counted"] != case.end_spikes:
        stop(f"{contender.name} counted {measured['n_counted']} of {case.end_spikes} spikes")
    return measured


class _Side:
    """A process of a contender, which ends with the block."""

    def __init__(self, contender: Contender, side: str, core: int, case: Case) -> None:
        self._stem = Path(f"{case.board}-{side}")
        command = [contender.python, "-m", "benchmarks.peers", contender.module, side, str(core)]
        with self._stem.with_suffix(".out").open("w") as out, self._stem.open("w") as error:
            self.process = subprocess.Popen(
                [*command, json.dumps(asdict(case))],
                cwd=ROOT,
                stdout=out,
                stderr=error,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )

    def __enter__(self) -> _Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        """The last line that it printed."""
        return self._stem.with_suffix(".out").read_text(encoding="utf-8").splitlines()[-1]

    @property
    def error(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stem.read_text(encoding="utf-8").strip()[-300:]


def _binning_us(n_spikes: int, options: Options) -> NDArray[np.float64]:
    """Return what `CountTable.add` takes for a batch, microseconds; its turns are rounds."""
    table = CountTable()
    batches = spike_batches(np.random.default_rng(options.seed), n_batches=20, n_spikes=n_spikes)
    taken = []
    for batch in batches:
        started_s = time.perf_counter()
        table.add(batch.spike_time_ns, batch.unit_index)
        taken.append(1e6 * (time.perf_counter() - started_s))
    return np.array(taken)


def _free_port() -> int:
    """Return a port that is free, as is the next."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _wait_for(address: str) -> None:
    """Wait until somebody listens at an address."""
    host, _, port = address.removeprefix("tcp://").partition(":")
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    stop(f"nobody listens at {address}")


def _figures(case: str, taken: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    figures = []
    cpu_us = {
        name: np.array([1e6 * run["cpu_s"] / run["n_measured"] for run in runs])
        for name, runs in taken.items()
    }
    for name, runs in taken.items():
        per_s = np.array([run["n_measured"] / run["wall_s"] for run in runs])
        share = np.array([run["cpu_s"] / run["wall_s"] for run in runs])
        figures += [
            figure(case, f"{name}, messages/s", per_s),
            figure(case, f"{name}, receiver cpu, us a message", cpu_us[name]),
            figure(case, f"{name}, cpu / wall", share),
        ]
        if name != "ours":
            figures.append(figure(case, f"{name} / ours, cpu", cpu_us[name] / cpu_us["ours"]))
    return figures


if __name__ == "__main__":
    sys.exit(main())
