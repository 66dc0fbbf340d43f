"""Source, daemon and subscriber on addresses of their own, with keys, as on three machines."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from contracts.keys import ClientKeys, KeyPair
from contracts.manifest import Manifest
from contracts.narration import Narration
from subscribers.listener import NARRATION_TOPICS, Listener
from tests.support.keys import allow, as_client, new_pair, write_pair
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.wait_until import wait_until
from tests.support.zmtp_peer import connected, handshake, is_cut

TOKEN = "a-token-of-some-length"


def metrics_of(url: str) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


def counts(url: str, metric: str) -> Callable[[], bool]:
    def is_counted() -> bool:
        lines = [line for line in metrics_of(url).splitlines() if line.startswith(metric)]
        return bool(lines) and float(lines[0].rsplit(" ", 1)[1]) > 0

    return is_counted


def narration_comes(address: str, keys: ClientKeys) -> None:
    with Listener(address, NARRATION_TOPICS, setting="--connect", keys=keys) as listener:
        wait_until(
            lambda: any(isinstance(one.value, Narration) for one in listener.messages(wait_ms=100)),
            deadline_s=DEADLINE_S,
            what="a narration",
        )


def dashboard_follows(address: str, folder: Path) -> None:
    """Have a dashboard with the laptop's keys connect, until it has received events."""
    words = (
        "dashboard", "--connect", address, "--port", 0,
        "--key", folder / "laptop" / "laptop.key_secret",
        "--server-key", folder / "daemon" / "daemon.key",
    )  # fmt: skip
    with Neurrate(*words, folder=folder, name="dashboard") as page:
        health = page.addresses()["page"] + "health"

        def has_events() -> bool:
            with urllib.request.urlopen(health, timeout=5) as answer:
                return bool(json.load(answer)["events"] > 0)

        wait_until(has_events, deadline_s=DEADLINE_S, what="events on the page")


def refused(address: str, own: KeyPair, server: bytes, until: Callable[[], bool]) -> None:
    """Have a subscriber of libzmq try, until that was counted; it gets nothing."""
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.set(zmq.LINGER, 0)
        as_client(subscriber, ClientKeys(own, server))
        subscriber.subscribe(b"")
        subscriber.connect(address)
        wait_until(until, deadline_s=DEADLINE_S, what="a count of the refusal")
        assert not subscriber.poll(0)


def test_three_machines_with_keys(tmp_path: Path, recording: Path, tiny_bundle: Manifest):
    """Narrations arrive with the right keys; a wrong, an unlisted and no key are counted."""
    rig, daemon_folder = tmp_path / "rig", tmp_path / "daemon"
    write_pair(rig, "rig")
    daemon_pair = write_pair(daemon_folder, "daemon")
    laptop, stranger = write_pair(tmp_path / "laptop", "laptop"), new_pair()
    allow(rig, daemon=daemon_pair.public)
    allow(daemon_folder, laptop=laptop.public)
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(TOKEN)
    stream = (
        "stream", "nwb", recording, "--bind", "tcp://127.0.0.2:*", "--wait-subscribers", 1,
        "--loop", "--seconds", 600, "--key", rig / "rig.key_secret",
    )  # fmt: skip
    with Neurrate(*stream, folder=tmp_path, name="source") as source:
        spikes = source.addresses()["spikes"]
        run = (
            "run", "--bundle", tiny_bundle.folder, "--connect", spikes,
            "--publish", "tcp://0.0.0.0:*", "--narrator", "retrieval",
            "--key", daemon_folder / "daemon.key_secret", "--server-key", rig / "rig.key",
            "--set", "http.port=0", "--set", "http.host=0.0.0.0",
            "--set", f"http.token_file={tmp_path / 'token'}",
        )  # fmt: skip
        with Neurrate(*run, folder=tmp_path, name="run") as daemon:
            addresses = daemon.addresses()
            publish = addresses["publish"].replace("0.0.0.0", "127.0.0.3")
            url = addresses["http"].replace("0.0.0.0", "127.0.0.3") + "/metrics"
            narration_comes(publish, ClientKeys(laptop, daemon_pair.public))
            dashboard_follows(publish, tmp_path)
            dropped = "neurrate_subscribers_dropped_total"
            refused(
                publish, stranger, daemon_pair.public, counts(url, f'{dropped}{{reason="key"}}')
            )
            with connected(publish) as peer:
                peer.sendall(handshake(b"SUB"))
                assert is_cut(peer)
            wait_until(counts(url, f'{dropped}{{reason="mechanism"}}'), deadline_s=DEADLINE_S)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(url, timeout=5)
            wait_until(counts(url, "neurrate_http_refused_total"), deadline_s=DEADLINE_S)
            # A key that is allowed while all runs.
            allow(daemon_folder, stranger=stranger.public)
            narration_comes(publish, ClientKeys(stranger, daemon_pair.public))
            assert "insecure" not in daemon.text()
            assert "its key is not on the list" in daemon.text()


def test_insecure_is_warned_of_at_each_start(
    tmp_path: Path, recording: Path, tiny_bundle: Manifest
):
    """What anybody can read says so, each socket for itself."""
    run = (
        "run", "--bundle", tiny_bundle.folder, "--connect", "tcp://192.0.2.1:5570",
        "--publish", "tcp://0.0.0.0:*", "--narrator", "retrieval", "--insecure",
        "--set", "http.port=0", "--set", "http.host=0.0.0.0",
    )  # fmt: skip
    with Neurrate(*run, folder=tmp_path, name="run") as daemon:
        daemon.addresses()
        wait_until(lambda: daemon.text().count("insecure") >= 3, deadline_s=DEADLINE_S)
    for setting in ("publish.bind", "http.host", "tcp://192.0.2.1:5570"):
        assert any(setting in line for line in daemon.text().splitlines() if "insecure" in line)
