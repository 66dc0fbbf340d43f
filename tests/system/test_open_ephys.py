"""Emulated GUI, source and daemon as processes: every spike is accounted for."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contracts.manifest import Manifest
from tests.support.processes import Neurrate
from tests.system.test_daemon import stats_until, subscriber

Counts = dict[str, Any]
Run = Callable[..., tuple[Counts, Counts, Counts]]


@pytest.fixture
def run(tmp_path: Path, recording: Path, tiny_bundle: Manifest) -> Run:
    """Play the recording through all three; return what each of them counted."""
    table = tmp_path / "units.csv"

    def play(*words: str, stall_s: float = 0.0) -> tuple[Counts, Counts, Counts]:
        with ExitStack() as stack:

            def start(*words: object, name: str) -> Neurrate:
                return stack.enter_context(Neurrate(*words, folder=tmp_path, name=name))

            gui = start(
                "emulate", "open-ephys", recording, "--table", table, "--bind",
                "tcp://127.0.0.1:0", "--wait-subscribers", "2", *words, name="gui",
            )  # fmt: skip
            data = gui.addresses()["data"]
            source = start(
                "stream", "open-ephys", table, "--units-from", tiny_bundle.folder, "--connect",
                data, "--bind", "tcp://127.0.0.1:*", "--end-silence", "5", name="source",
            )  # fmt: skip
            daemon = start(
                "run", "--bundle", tiny_bundle.folder, "--connect", source.addresses()["spikes"],
                "--publish", "tcp://127.0.0.1:*", "--narrator", "retrieval", "--set",
                "http.port=0", "--exit-at-end", name="daemon",
            )  # fmt: skip
            stats_until(daemon.addresses()["publish"], lambda stats: stats["streams"])
            stack.enter_context(subscriber(data, b"the second, for whom the GUI waits"))
            if stall_s:
                time.sleep(5)
                source.signal(signal.SIGSTOP)
                time.sleep(stall_s)
                source.signal(signal.SIGCONT)
            for process in (gui, source, daemon):
                assert process.wait() == 0, process.text()
            return gui.summary(), source.summary(), daemon.summary()["counters"]

    return play


def test_spikes_of_the_gui_are_received_and_binned(run: Run):
    """Sent = received = binned, though the source's process stood still for a second."""
    gui, source, daemon = run(stall_s=1.0)
    assert gui["n_spikes"] == source["n_received"] == source["n_sent"] == 1200
    assert (daemon["spikes_received"], daemon["spikes_binned"]) == (1200, 1200)
    assert (source["n_messages_lost"], daemon["batches_lost"]) == (0, 0)


def test_planted_faults_lose_what_they_must_and_it_is_counted(run: Run):
    """A gap of 30 messages, a pause of the GUI and a restart of the acquisition."""
    faults = ("gap@5:30", "pause@8:1", "restart@12")
    gui, source, daemon = run(*(word for fault in faults for word in ("--fault", fault)))
    assert gui["n_messages_lost"] == source["n_messages_lost"] == 30
    assert gui["n_spikes"] == gui["n_spikes_lost"] + source["n_sent"] + source["n_in_gaps"] == 1200
    assert (source["n_gaps"], source["n_runs"]) == (1, 2)
    assert daemon["spikes_received"] == source["n_sent"]
    assert daemon["spikes_binned"] == daemon["spikes_received"]
    assert daemon["session_restarts"] == 1
