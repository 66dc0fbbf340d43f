"""Source and daemon with keys on two machines, through a cable that is pulled."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from contracts.journal_reader import JournalReader
from contracts.manifest import Manifest
from contracts.wire_header import hello_run
from peer_guard.source_reader import LOST_PEER_S
from tests.support.keys import allow, write_pair
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.two_machines import AHEAD_S, RIG, TwoMachines, two_machines
from tests.support.wait_until import wait_until


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    with two_machines() as machines:
        yield machines


class CableTrial:
    """A source at the rig and a daemon beside the GPU."""

    def __init__(self, machines: TwoMachines, folder: Path, recording: Path, bundle: Path) -> None:
        self.machines, self.folder, self._recording = machines, folder, recording
        rig, gpu = folder / "rig", folder / "gpu"
        write_pair(rig, "rig")
        allow(rig, gpu=write_pair(gpu, "gpu").public)
        self._run = (
            "run", "--bundle", bundle, "--connect", f"tcp://{RIG}:5570",
            "--publish", "tcp://127.0.0.1:*", "--set", "http.port=0", "--narrator", "retrieval",
            "--key", gpu / "gpu.key_secret", "--server-key", rig / "rig.key",
        )  # fmt: skip

    def source(self, name: str) -> Neurrate:
        words = (
            "stream", "nwb", self._recording, "--bind", f"tcp://{RIG}:5570", "--loop",
            "--seconds", 600, "--wait-subscribers", 1, "--key", self.folder / "rig/rig.key_secret",
        )  # fmt: skip
        return Neurrate(*words, folder=self.folder, name=name, before=self.machines.on_rig)

    def daemon(self) -> Neurrate:
        return Neurrate(*self._run, folder=self.folder, name="run", before=self.machines.on_gpu)

    def recorder(self) -> Neurrate:
        keys = (
            "--key",
            self.folder / "gpu/gpu.key_secret",
            "--server-key",
            self.folder / "rig/rig.key",
        )
        words = ("record", self.folder / "journal", "--spikes", f"tcp://{RIG}:5570",
                 "--empty-connect", "--min-free-mb", 1, *keys)  # fmt: skip
        return Neurrate(*words, folder=self.folder, name="record", before=self.machines.on_gpu)

    def n_runs(self) -> int:
        """Return of how many runs the recorder has hellos."""
        messages = JournalReader(self.folder / "journal").messages(
            lambda _, topic: topic.startswith("hello.")
        )
        return len({hello_run(message.parts[1]) for message in messages})

    def metrics(self, daemon: Neurrate) -> dict[str, float]:
        return self.machines.metrics(daemon.addresses()["http"] + "/metrics")

    def is_blind(self, daemon: Neurrate) -> None:
        """Wait until the daemon goes on without the source."""
        wait_until(
            lambda: total(self.metrics(daemon), "neurrate_streams_blind_total") > 0,
            deadline_s=DEADLINE_S,
            what="a blind stream",
        )

    def narrates(self, daemon: Neurrate, n: int = 3) -> dict[str, float]:
        """Wait for so many more narrations; return the metrics then."""
        wanted = n + narrations(self.metrics(daemon))
        newest: dict[str, float] = {}

        def has_narrated() -> bool:
            newest.update(self.metrics(daemon))
            return narrations(newest) >= wanted

        wait_until(has_narrated, deadline_s=DEADLINE_S, what="narrations")
        return newest


def narrations(metrics: dict[str, float]) -> float:
    return total(metrics, "neurrate_narrations_total")


def total(metrics: dict[str, float], name: str) -> float:
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)


def python_of(process: Neurrate) -> psutil.Process:
    """Return the program itself, behind what put it on its machine."""
    (child,) = psutil.Process(process.process.pid).children()
    return child


@pytest.fixture
def trial(
    machines: TwoMachines, tmp_path: Path, recording: Path, tiny_bundle: Manifest
) -> CableTrial:
    return CableTrial(machines, tmp_path, recording, tiny_bundle.folder)


@pytest.mark.parametrize(("pulled_s", "is_lost"), [(3.0, False), (LOST_PEER_S + 3.0, True)])
def test_a_cable_is_pulled_and_put_back(pulled_s: float, is_lost: bool, trial: CableTrial):
    """What was sent meanwhile is received late, or lost with the connection, and then counted."""
    with trial.source("source") as source, trial.daemon() as daemon:
        trial.narrates(daemon)
        delay = 'neurrate_source_delay_seconds{stream="nwb"}'
        wait_until(lambda: delay in trial.metrics(daemon), deadline_s=DEADLINE_S, what=delay)
        before = trial.metrics(daemon)
        offset_s = before['neurrate_source_clock_offset_seconds{stream="nwb"}']
        error_s = before['neurrate_source_clock_error_seconds{stream="nwb"}']
        assert abs(offset_s + AHEAD_S) <= error_s < AHEAD_S
        trial.machines.pull_cable()
        began_s = time.monotonic()
        trial.is_blind(daemon)
        time.sleep(max(0.0, began_s + pulled_s - time.monotonic()))
        trial.machines.put_cable_back()
        trial.narrates(daemon)
        wait_until(lambda: trial.metrics(daemon)["neurrate_ready"] == 1, deadline_s=DEADLINE_S)
        python_of(source).send_signal(signal.SIGTERM)
        wait_until(lambda: "stream ended" in daemon.text(), deadline_s=DEADLINE_S)
        after, sent = trial.metrics(daemon), source.summary()
    assert total(after, "neurrate_wire_errors_total") == 0
    received = total(after, "neurrate_spikes_received_total")
    kept = total(after, "neurrate_spikes_binned_total") + total(after, "neurrate_spikes_late_total")
    assert received == kept
    n_lost = total(after, "neurrate_batches_lost_total")
    if is_lost:
        assert n_lost > 0
    if not n_lost:  # a machine that is busy may lose its connection sooner
        assert received == sent["n_spikes"]


def test_a_machine_that_loses_its_power_is_found_again(trial: CableTrial):
    """It ends no connection; what is started on it afterwards is followed, and recorded."""
    with trial.daemon() as daemon, trial.recorder():
        with trial.source("source") as source:
            trial.narrates(daemon)
            trial.machines.cut_power_of_rig()
            python_of(source).kill()
        trial.is_blind(daemon)  # and nothing of the daemon's is on its way any more
        trial.machines.build_rig()
        with trial.source("source-again"):
            trial.narrates(daemon)
            wait_until(lambda: trial.n_runs() == 2, deadline_s=DEADLINE_S, what="a second run")
            after = trial.metrics(daemon)
    assert after["neurrate_stream_restarts_total"] == 1
    assert total(after, "neurrate_wire_errors_total") == 0
