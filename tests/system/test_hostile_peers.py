"""Hostile peers on every socket of a narrated replay: nothing is lost, and nothing takes long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from contracts.manifest import Manifest
from tests.support.daemon_components import Context
from tests.support.processes import DEADLINE_S, Neurrate

N_MESSAGES = int(os.environ.get("NEURRATE_HOSTILE_MESSAGES", "5000"))
"""Hostile messages on each socket; a million in a full run (docs/decisions/0023-guard.md)."""

QUIET_S = 3.0
IS_FULL = N_MESSAGES >= 100_000
HOSTILE_S = 500.0 if IS_FULL else 7.0
"""At most. A full run goes on until each peer has sent all of its messages."""

MAX_GROWTH_BYTES = 100 << 20
MAX_STOP_S = 15.0
SLACK_MS = 25.0 if IS_FULL else 500.0
"""For what else runs on the machine: nothing in a full run, other tests in a short one. A loop that
peers hold up stands still for seconds."""


@contextmanager
def hostile_peer(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Start a hostile peer; it sends so many messages and then ends."""
    command = [sys.executable, "-m", "benchmarks.hostile_peers", *map(str, words)]
    pipe = subprocess.PIPE
    peer = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        yield peer
    finally:
        peer.kill()
        peer.communicate()


class _NarrationReader:
    """A subscriber to narrations and statistics; `stats` are the newest."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.stats: dict[str, Any] = {}
        self._socket = socket
        socket.set(zmq.LINGER, 0)
        socket.subscribe(b"narration.")
        socket.subscribe(b"stats")

    def observe(self, seconds: float, should_stop: Callable[[], bool]) -> list[float]:
        """Return the latencies of the narrations that arrive within some seconds, in ms."""
        latency_ms = []
        stop_s = time.monotonic() + seconds
        while time.monotonic() < stop_s and not should_stop():
            if self._socket.poll(100):
                topic, body = self._socket.recv_multipart()
                message = json.loads(body)
                if topic == b"stats":
                    self.stats = message
                elif not message["repeat"]:
                    latency_ms.append(message["latency_ms"]["total"])
        return latency_ms


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_peers_on_every_socket_disturb_nobody(
    recording: Path, tiny_bundle: Manifest, context: Context, tmp_path: Path
):
    """Noise, endless messages, mutations and floods: latency, memory and the sums stay."""
    with ExitStack() as stack:
        peers = [stack.enter_context(hostile_peer("source", N_MESSAGES, 1))]
        source = stack.enter_context(
            Neurrate(
                "stream", "nwb", recording, "--bind", "tcp://127.0.0.1:*",
                "--wait-subscribers", "1", *(["--loop", "--seconds", "900"] * IS_FULL),
                folder=tmp_path, name="source",
            )
        )  # fmt: skip
        spikes = source.addresses()["spikes"]
        assert peers[0].stdin
        assert peers[0].stdout
        connect = "--connect", spikes, "--connect", peers[0].stdout.readline().strip()
        daemon = stack.enter_context(
            Neurrate(
                "run", "--bundle", tiny_bundle.folder, *connect, "--publish", "tcp://127.0.0.1:*",
                "--narrator", "retrieval", "--set", "http.port=0", folder=tmp_path, name="daemon",
            )
        )  # fmt: skip
        publish = daemon.addresses()["publish"]
        process = psutil.Process(daemon.process.pid)
        socket = stack.enter_context(context.socket(zmq.SUB))
        socket.connect(publish)
        reader = _NarrationReader(socket)
        quiet_ms = reader.observe(QUIET_S, lambda: False)
        before = process.memory_info().rss
        for number, address in enumerate((publish, spikes)):
            words = "publish", address, N_MESSAGES, number
            peers.append(stack.enter_context(hostile_peer(*words)))
        peers[0].stdin.write("\n")
        peers[0].stdin.flush()

        def is_over() -> bool:
            all_sent = all(peer.poll() is not None for peer in peers)
            return source.process.poll() is not None or (IS_FULL and all_sent)

        hostile_ms = reader.observe(HOSTILE_S, is_over)
        growth = process.memory_info().rss - before
        sent = [peer.stdout.read() for peer in peers if peer.stdout and peer.poll() is not None]
        source.signal(signal.SIGTERM)
        source.wait()
        reader.observe(DEADLINE_S, lambda: is_complete(reader.stats["counters"]))
        began_s = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        stop_s = time.monotonic() - began_s
    counters = reader.stats["counters"]
    quiet, hostile = (float(np.percentile(one, 99)) for one in (quiet_ms, hostile_ms))
    figures = (
        f"p99 {quiet:.1f} and {hostile:.1f} ms of {len(quiet_ms)} and {len(hostile_ms)}, "
        f"sent {sent}, memory +{growth / 1e6:.0f} MB, stopped after {stop_s:.1f} s, {counters}"
    )
    sys.stdout.write(f"{figures}\n")  # pytest -s shows it
    assert hostile < 2 * quiet + SLACK_MS, figures
    assert growth < MAX_GROWTH_BYTES, figures
    assert counters["batches_lost"] == 0, figures
    assert is_complete(counters), figures
    assert sum(counters["subscribers_dropped"].values()) > 0
    assert sum(counters["sources_dropped"].values()) > 0
    assert stop_s < MAX_STOP_S, figures


def is_complete(counters: dict[str, Any]) -> bool:
    """Whether every spike that was received is accounted for."""
    return bool(counters["spikes_received"] == counters["spikes_binned"] + counters["spikes_late"])
