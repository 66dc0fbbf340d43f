"""The daemon as a process whose words come from a server elsewhere."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from contracts.manifest import Manifest
from tests.support.processes import Neurrate, get
from tests.support.recorded_vllm import SENTENCE, RecordedVllm, recorded_vllm
from tests.support.wait_until import wait_until


@pytest.fixture
def spikes(tmp_path: Path, recording: Path) -> Iterator[str]:
    """Return the address of a source that repeats a recording."""
    words = ("stream", "nwb", recording, "--bind", "tcp://127.0.0.1:*", "--speed", "0.3")
    with Neurrate(*words, folder=tmp_path, name="source") as source:
        yield source.addresses()["spikes"]


def daemon_words(bundle: Manifest, llava: Path, spikes: str, url: str) -> tuple[object, ...]:
    return (
        "run", "--bundle", bundle.folder, "--connect", spikes, "--publish", "tcp://127.0.0.1:*",
        "--narrator", "vllm", "--model", llava, "--set", f"vllm.urls={url}",
        "--set", "vllm.model=tiny-llava", "--set", "vllm.retries=0", "--set", "http.port=0",
        "--set", "populations={all = 'all', silent = 'silent'}",
    )  # fmt: skip


@contextmanager
def narrations(address: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.set(zmq.LINGER, 0)
        subscriber.subscribe(b"narration.")
        subscriber.connect(address)
        yield subscriber


def heard_until(subscriber: zmq.Socket[bytes], status: str) -> dict[str, Any]:
    """Return the first narration of a status."""
    newest: dict[str, Any] = {}

    def is_it() -> bool:
        assert subscriber.poll(100_000)
        newest.update(json.loads(subscriber.recv_multipart()[1]))
        return bool(newest["status"] == status)

    wait_until(is_it, deadline_s=200, what=f"a narration that is {status}")
    return newest


def any_prompt(server: RecordedVllm) -> RecordedVllm:
    """Let the server not say what it makes of the prompt: it was recorded with another model."""
    server.preflight = "sentence"
    return server


def test_no_server_ends_the_start(tmp_path: Path, tiny_bundle: Manifest, tiny_llava: Path):
    """The daemon ends with code 3, and names the URL and the command that starts a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    nobody = "tcp://127.0.0.1:9"  # no spikes: the narrator ends the start before they are missed
    words = daemon_words(tiny_bundle, tiny_llava, nobody, url)
    patience = ("--set", "ingest.population_timeout_s=240")
    with Neurrate(*words, *patience, folder=tmp_path, name="daemon") as daemon:
        assert daemon.wait() == 3
        text = " ".join(daemon.text().split())
    assert f"no vLLM server is there: {url} cannot be reached" in text
    assert "configs/vllm/serve MODEL" in text
    assert "Traceback" not in text


def test_a_server_goes_and_comes_back(
    tmp_path: Path, tiny_bundle: Manifest, tiny_llava: Path, spikes: str
):
    """Words come from the server; without it narrations fail and say why, and the daemon is not
    ready; and all is well again with it, under the same worker."""
    with ExitStack() as stack, recorded_vllm() as server:
        port = any_prompt(server).server_port
        words = daemon_words(tiny_bundle, tiny_llava, spikes, server.url)
        daemon = stack.enter_context(Neurrate(*words, folder=tmp_path, name="daemon"))
        addresses = daemon.addresses()
        subscriber = stack.enter_context(narrations(addresses["publish"]))
        assert heard_until(subscriber, "ok")["text"] == SENTENCE
        ready = f"{addresses['http']}/readyz"
        wait_until(lambda: get(ready)[0] == 200, what="ready")
        later = stack.pop_all()
    with later:
        failed = heard_until(subscriber, "failed")
        assert f"127.0.0.1:{port}" in failed["reason"]
        wait_until(lambda: get(ready)[0] == 503, what="not ready")
        with recorded_vllm(port) as server:
            any_prompt(server)
            assert heard_until(subscriber, "ok")["text"] == SENTENCE
            wait_until(lambda: get(ready)[0] == 200, what="ready again")
            daemon.__exit__(None, None, None)
