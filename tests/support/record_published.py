"""Write down what a real daemon publishes, for tests of the clients.

``python -m tests.support.record_published`` writes ``tests/data/published.jsonl``: a line of topic
and message each, some of every kind. It simulates a session and runs source and daemon, in two
minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import zmq

from contracts.population import LABELS
from tests.support.processes import Neurrate

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests" / "data" / "published.jsonl"

OF_EACH = 4
"""Messages of each topic, and no more units than that: a table of 600 would be most of the file."""

SECONDS = 40.0


def main() -> None:
    """Record, and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session, bundle = folder / "session.nwb", folder / "bundle"
        simulate = ("simulate", "session", session, "--minutes", "2", "--repeats", "1")
        for words in (("bundle", "simulated", bundle), (*simulate, "--no-frames")):
            command = [sys.executable, "-m", "neurrate.cli", *map(str, words)]
            subprocess.run(command, check=True, cwd=ROOT)
        source_words = (
            "stream", "nwb", session, "--bind", "tcp://127.0.0.1:*", "--wait-subscribers", 1,
            "--start", 20, "--seconds", SECONDS, "--units-from", bundle,
        )  # fmt: skip
        with Neurrate(*source_words, folder=folder, name="source") as source:
            run_words = (
                "run", "--bundle", bundle, "--connect", source.addresses()["spikes"],
                "--publish", "tcp://127.0.0.1:*", "--populations", "all,VISp,silent",
                "--set", "http.port=0", "--set", "triggers.rules=configs/triggers/example.toml",
            )  # fmt: skip
            with Neurrate(*run_words, folder=folder, name="daemon") as daemon:
                recorded = record(daemon.addresses()["publish"])
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in recorded)
    # Paths of the machine that recorded tell nothing.
    OUT.write_text(text.replace(f"{ROOT}/", "").replace(f"{name}/", ""), encoding="utf-8")


def record(address: str) -> list[tuple[str, Any]]:
    """Return the first messages of each topic, and a trigger of each rule that fires."""
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(address)
    lines, counts = [], Counter[str]()
    deadline_s = time.monotonic() + SECONDS + 600  # the model may take minutes to load
    n_running = 0
    while time.monotonic() < deadline_s:
        if not socket.poll(5_000):
            continue
        topic, payload = (part.decode() for part in socket.recv_multipart())
        counts[topic] += 1
        message = json.loads(payload)
        if counts[topic] <= OF_EACH:
            lines.append((topic, shortened(topic, message)))
        n_running += topic == "stats" and message["session_s"] is not None
        if n_running > SECONDS:
            break
    socket.close(linger=0)
    context.term()
    return lines


def shortened(topic: str, message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with a table of the first units alone, or without one where it may be."""
    if topic.startswith("units."):
        return {
            key: value[:OF_EACH] if isinstance(value, list) else value
            for key, value in message.items()
        }
    if topic == "encoder":
        return {key: value for key, value in message.items() if key not in LABELS}
    return message


if __name__ == "__main__":
    main()
