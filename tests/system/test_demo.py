"""The demo as a process: it ends by itself, and leaves nothing however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from contracts.manifest import Manifest
from tests.support.processes import DEADLINE_S
from tests.support.wait_until import wait_until

RETRIEVAL = {"NEURRATE_NARRATOR__BACKEND": "retrieval"}
"""A narrator without a language model, for tests of processes."""


@contextmanager
def demo(
    recording: Path,
    bundle: Manifest,
    folder: Path,
    *words: str,
    environment: Mapping[str, str] = RETRIEVAL,
) -> Iterator[subprocess.Popen[str]]:
    """Run a demo whose temporary files lie in a folder of the test."""
    command = [
        sys.executable, "-m", "neurrate.cli", "demo", "--recording", str(recording),
        "--bundle", str(bundle.folder), *words,
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder), **environment},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()


def narrating(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait for the first narration; return every process below the demo."""
    assert process.stdout
    assert process.stdout.readline()
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return children


def wait_until_gone(processes: list[psutil.Process]) -> None:
    def is_gone() -> bool:
        return not any(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            for process in processes
        )

    wait_until(is_gone, deadline_s=DEADLINE_S, what="the end of every process")


def test_demo_ends_by_itself_with_every_spike_accounted_for(
    recording: Path, tiny_bundle: Manifest, tiny_llava: Path, tmp_path: Path
):
    """The whole recording through real processes: three equal numbers, and the JSON says so."""
    words = ("--model", str(tiny_llava), "--speed", "max", "--json", str(tmp_path / "demo.json"))
    with demo(recording, tiny_bundle, tmp_path, *words, environment={}) as process:
        output, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, error
    numbers = json.loads((tmp_path / "demo.json").read_text())
    assert numbers["spikes_sent"] == 1200
    assert numbers["spikes_received"] == numbers["spikes_binned"] == 1200
    assert numbers["windows"] == numbers["windows_narrated"] + numbers["drops"]
    assert numbers["narrations"] > 0
    assert set(numbers["latency_ms"]["total"]) >= {"p50", "p95", "p99"}
    assert "Every one of 1,200 spikes sent was received and binned" in output
    assert not list(tmp_path.glob("neurrate-*"))


def test_killed_daemon_is_a_sentence(recording: Path, tiny_bundle: Manifest, tmp_path: Path):
    """kill -9 of the daemon ends the demo with one sentence, and nothing stays behind."""
    with demo(recording, tiny_bundle, tmp_path) as process:
        children = narrating(process)
        (daemon,) = [child for child in children if "run" in child.cmdline()]
        daemon.kill()
        _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "the daemon was killed by SIGKILL" in error
    assert "Traceback" not in error
    wait_until_gone(children)
    assert not list(tmp_path.glob("neurrate-demo-*"))


def test_second_interrupt_leaves_nothing_behind(
    recording: Path, tiny_bundle: Manifest, tmp_path: Path
):
    """Ctrl-C twice ends the demo at once, with its processes and its folder."""
    with demo(recording, tiny_bundle, tmp_path) as process:
        children = narrating(process)
        for child in children:
            child.suspend()  # so that none of them stops gently
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)  # two of one kind might arrive as one
        _, error = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in error
    for worker in children:  # a worker ends by itself once its daemon has
        with suppress(psutil.NoSuchProcess):
            worker.resume()
    wait_until_gone(children)
    assert not list(tmp_path.glob("neurrate-demo-*"))


def test_reader_that_leaves_ends_the_demo_quietly(
    recording: Path, tiny_bundle: Manifest, tmp_path: Path
):
    """A closed pipe, as behind ``| head``, is no traceback."""
    with demo(recording, tiny_bundle, tmp_path) as process:
        children = narrating(process)
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        error = process.stderr.read()
        process.wait(DEADLINE_S)
    assert "Traceback" not in error
    wait_until_gone(children)
