"""Hostile peers on every socket of a narrated replay: nothing is lost, and nothing takes long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from contracts.manifest import Manifest
from tests.support.processes import Neurrate

N_MESSAGES = int(os.environ.get("NEURRATE_HOSTILE_MESSAGES", "20000"))
"""Hostile messages on each socket; a million in a full run (docs/decisions/0023-guard.md)."""

MAX_GROWTH_BYTES = 100 << 20
SECONDS = 60.0
SLACK_MS = 25.0
"""Of two runs on a machine that others use too."""


@dataclass
class _Observed:
    """What a subscriber saw of one run, and how the daemon ended."""

    latency_ms: list[float] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    rss_bytes: list[int] = field(default_factory=list)
    stop_s: float = 0.0
    n_sent: list[int] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.latency_ms, 99))


@contextmanager
def hostile_peer(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Start a hostile peer; it sends so many messages and then ends."""
    command = [sys.executable, "-m", "benchmarks.hostile_peers", *map(str, words)]
    peer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield peer
    finally:
        peer.kill()
        peer.communicate()


def narrated(recording: Path, bundle: Path, folder: Path, *, is_hostile: bool) -> _Observed:
    """Replay a recording at its own speed until it ends, or the hostile peers do."""
    folder.mkdir()
    observed = _Observed()
    with ExitStack() as stack:
        source = stack.enter_context(
            Neurrate(
                "stream", "nwb", recording, "--bind", "tcp://127.0.0.1:*",
                "--wait-subscribers", "1", folder=folder, name="source",
            )
        )  # fmt: skip
        spikes = source.addresses()["spikes"]
        connect = ["--connect", spikes]
        peers = []
        if is_hostile:
            peers.append(stack.enter_context(hostile_peer("source", N_MESSAGES, 1)))
            assert peers[0].stdout
            connect += ["--connect", peers[0].stdout.readline().strip()]
        daemon = stack.enter_context(
            Neurrate(
                "run", "--bundle", bundle, *connect, "--publish", "tcp://127.0.0.1:*",
                "--narrator", "retrieval", "--set", "http.port=0", folder=folder, name="daemon",
            )
        )  # fmt: skip
        publish = daemon.addresses()["publish"]
        process = psutil.Process(daemon.process.pid)
        context = stack.enter_context(zmq.Context())
        socket = stack.enter_context(context.socket(zmq.SUB))
        socket.set(zmq.LINGER, 0)
        socket.subscribe(b"narration.")
        socket.subscribe(b"stats")
        socket.connect(publish)
        stop_s = time.monotonic() + SECONDS
        while time.monotonic() < stop_s and source.process.poll() is None:
            if not socket.poll(200):
                continue
            topic, body = socket.recv_multipart()
            message = json.loads(body)
            if topic == b"stats":
                observed.stats = message
                observed.rss_bytes.append(process.memory_info().rss)
            elif not message["repeat"]:
                observed.latency_ms.append(message["latency_ms"]["total"])
            if is_hostile and len(peers) == 1 and len(observed.latency_ms) > 3:
                for number, address in enumerate((publish, spikes)):
                    words = "publish", address, N_MESSAGES, number
                    peers.append(stack.enter_context(hostile_peer(*words)))
        while socket.poll(1500):
            topic, body = socket.recv_multipart()
            if topic == b"stats":
                observed.stats = json.loads(body)
                if source.process.poll() is not None:
                    break
        began_s = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        observed.stop_s = time.monotonic() - began_s
        for peer in peers:
            if peer.poll() is not None and peer.stdout:
                observed.n_sent.append(int(peer.stdout.read().split()[-2]))
    return observed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_peers_on_every_socket_disturb_nobody(
    recording: Path, tiny_bundle: Manifest, tmp_path: Path
):
    """Noise, endless messages, mutations and floods: latency, memory and the sums stay."""
    quiet = narrated(recording, tiny_bundle.folder, tmp_path / "quiet", is_hostile=False)
    hostile = narrated(recording, tiny_bundle.folder, tmp_path / "hostile", is_hostile=True)
    counters = hostile.stats["counters"]
    growth = max(hostile.rss_bytes) - hostile.rss_bytes[0]
    figures = (
        f"p99 {quiet.p99_ms:.1f} and {hostile.p99_ms:.1f} ms, memory +{growth / 1e6:.0f} MB, "
        f"stopped after {hostile.stop_s:.1f} s, sent {hostile.n_sent}, {counters}"
    )
    assert hostile.p99_ms < 2 * quiet.p99_ms + SLACK_MS, figures
    assert growth < MAX_GROWTH_BYTES, figures
    assert counters["batches_lost"] == 0, figures
    assert counters["spikes_received"] == counters["spikes_binned"] + counters["spikes_late"]
    assert sum(counters["subscribers_dropped"].values()) > 0
    assert sum(counters["sources_dropped"].values()) > 0
    assert hostile.stop_s < quiet.stop_s + 5, figures
