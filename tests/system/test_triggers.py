"""Triggers of a whole daemon: published, delivered, and the same at any speed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from contracts.manifest import Manifest, load_manifest, sha256_of, write_manifest
from daemon.encoders.auto import load_encoder
from tests.support.processes import Neurrate
from tests.support.tiny_bundle import tiny_windows
from tests.support.triggers import concept_probes, write_probes
from tests.support.wait_until import wait_until

RULES = """
[triggers.seen]
when = 'probe "car" of all > 0.5 for 2 windows'
refractory_s = 1.0
sinks = ["file"]

[triggers.said]
when = 'narration of all says "dog"'
sinks = ["file"]

[triggers.tried]
when = 'probe "car" of all < 0.5'
dry_run = true
sinks = ["file"]

[sinks.file]
kind = "command"
command = ["sh", "-c", 'cat > "$0"', "OUT"]
max_age_s = 60
"""


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the bundle probes; the first is as often above one half as below it."""
    folder = tmp_path_factory.mktemp("probed") / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    everyone = tiny_bundle.population.select("all")
    encoder = load_encoder(tiny_bundle, [everyone], threads=1, device="cpu")
    seen = np.array([encoder.encode([w])[0].patches.mean(axis=0)[0] for w in tiny_windows(40)])
    probes = concept_probes()
    spread = float(seen.std())
    probes = replace(
        probes,
        weight=probes.weight / spread,
        bias=np.full_like(probes.bias, -np.median(seen) / spread),
    )
    write_probes(folder, probes)
    name = "probes.safetensors"
    hashes = {**tiny_bundle.model.sha256, name: sha256_of(folder / name)}
    write_manifest(folder, tiny_bundle.model.model_copy(update={"sha256": hashes}))
    return load_manifest(folder).folder


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Neurrate]]:
    """End the processes that are left."""
    commands: list[Neurrate] = []
    yield commands
    for command in reversed(commands):
        command.__exit__(None, None, None)


def _run(
    folder: Path, bundle: Path, recording: Path, started: list[Neurrate], *, speed: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Replay the recording through a daemon; return what its sink was given, and its summary."""
    out, rules = folder / f"{speed}.jsonl", folder / f"{speed}.toml"
    rules.write_text(RULES.replace("OUT", str(out)))
    source = Neurrate(
        "stream", "nwb", recording, "--bind", "tcp://127.0.0.1:*", "--speed", speed,
        folder=folder, name=f"source-{speed}",
    )  # fmt: skip
    started.append(source)
    daemon = Neurrate(
        "run", "--bundle", bundle, "--connect", source.addresses()["spikes"],
        "--publish", "tcp://127.0.0.1:*", "--narrator", "retrieval", "--populations", "all,VISp",
        "--set", "http.port=0", "--set", "narrator.mode=sequential", "--exit-at-end",
        "--set", f"triggers.rules={rules}", folder=folder, name=f"daemon-{speed}",
    )  # fmt: skip
    started.append(daemon)
    assert daemon.wait() == 0, daemon.text()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    return lines, daemon.summary()["counters"]


def test_two_speeds_give_the_same_triggers(
    bundle: Path, recording: Path, tmp_path: Path, started: list[Neurrate]
):
    """Rules fire at the same windows at 40 times real time and at full speed."""
    heard = []
    for speed in ("40", "max"):
        lines, counters = _run(tmp_path, bundle, recording, started, speed=speed)
        n = counters["triggers"]
        assert n["seen"] > 1
        assert n["said"] > 1
        assert n["tried"] > 1
        assert {line["name"] for line in lines} == {"seen", "said"}
        assert counters["trigger_sink_sent"] == {"file": n["seen"] + n["said"]}
        assert len(lines) == n["seen"] + n["said"]
        heard.append([(line["name"], line["window"]["seq"], line["score"]) for line in lines])
        ends = [line["window"]["stop_s"] for line in lines if line["name"] == "seen"]
        assert min(np.diff(ends)) > 1.0 - 1e-9
    assert heard[0] == heard[1]


def test_a_killed_daemon_takes_its_command_along(
    bundle: Path, recording: Path, tmp_path: Path, started: list[Neurrate]
):
    """The program of a sink reads the end of its input when the daemon is killed."""
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES.replace("OUT", str(tmp_path / "out")))
    daemon = Neurrate(
        "run", "--bundle", bundle, "--publish", "tcp://127.0.0.1:*", "--narrator", "retrieval",
        "--populations", "all,VISp", "--set", "http.port=0", "--set", "narrator.mode=sequential",
        "--set", f"triggers.rules={rules}", folder=tmp_path, name="daemon",
    )  # fmt: skip
    started.append(daemon)
    daemon.addresses()
    process = psutil.Process(daemon.process.pid)
    wait_until(lambda: process.children(), what="the program")
    children = process.children(recursive=True)
    daemon.signal(signal.SIGKILL)
    daemon.process.wait()
    wait_until(lambda: not any(_runs(child) for child in children), what="its end")


def _runs(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
