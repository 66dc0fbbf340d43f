"""Narrations of a real Ray cluster: the same as those of processes here, and nothing stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from contracts.errors import UserError
from contracts.manifest import load_manifest
from daemon.service.settings import NarratorSettings
from encoder_training.data_set.prepared_files import load_prepared
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.questions.narration_store import NarrationStore, _Files, _narrator
from neurrate.cli import main
from tests.support.captioned_bundle import write_captioned_inputs
from tests.support.processes import DEADLINE_S
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")

TOKEN = 64 * "5"

NARRATE = """
import sys
from pathlib import Path
from tests.system.test_ray import narrations
print(narrations(Path(sys.argv[1]), Path(sys.argv[2]), ray=sys.argv[3] or None))
"""


@pytest.fixture(scope="module")
def inputs(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, its data set and a sentence model."""
    folder = tmp_path_factory.mktemp("ray")
    write_captioned_inputs(folder, tiny_llava, n_frames=72)
    return folder


@pytest.fixture(scope="module")
def here(inputs: Path) -> str:
    """Return the narrations of two processes without Ray."""
    return narrate(inputs, inputs, "")


def narrations(inputs: Path, store: Path, *, ray: str | None) -> str:
    """Narrate three tasks: forty windows, through all units and from their frames."""
    manifest = load_manifest(inputs / "bundle")
    data, parts = load_prepared(inputs / "data").windows(manifest.window_spec.lag_ns)
    settings = NarratorSettings(device="cpu")
    kept = NarrationStore(store, inputs / "bundle", inputs / "data", settings, 2, ray)
    every = manifest.population.select("all")
    return repr(kept.narrate(data, parts.test[:40], [every, TRUE_PATCHES]))


def narrate(inputs: Path, folder: Path, address: str, *, token: str | None = None) -> str:
    """Narrate on a cluster, or without Ray, from a process of its own."""
    # Ray gives way to everything else, which on a busy machine is minutes.
    environment = {
        **os.environ,
        "RAY_worker_niceness": "0",
        **({} if token is None else {"RAY_AUTH_TOKEN": token}),
    }
    command = [sys.executable, "-c", NARRATE, inputs, folder / "store.sqlite", address]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True, text=True, check=False, timeout=DEADLINE_S, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ray_processes() -> list[psutil.Process]:
    """Return what runs of Ray, of this test alone: it inherits its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PYTEST_CURRENT_TEST") == os.environ["PYTEST_CURRENT_TEST"]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


@contextmanager
def cluster() -> Iterator[str]:
    """Start a node with two processors, as at the head of a cluster; yield its address."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with TemporaryDirectory(prefix="ray-") as folder:  # short: its sockets are in it
        command = [
            *ray, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", "0",
            "--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats",
            "--temp-dir", folder, "--object-store-memory", str(100 << 20),
        ]  # fmt: skip
        log = Path(folder) / "start.log"
        with log.open("wb") as file:
            environment = {
                **os.environ,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": TOKEN,
                "RAY_worker_niceness": "0",
            }
            head = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            address = re.compile(r"--address='([^']+)'")
            wait_until(
                lambda: address.search(log.read_text()), deadline_s=DEADLINE_S, what="an address"
            )
            found = address.search(log.read_text())
            assert found is not None
            yield found[1]
        finally:
            head.terminate()
            head.wait(DEADLINE_S)


def test_a_cluster_that_is_started_narrates_the_same(inputs: Path, here: str, tmp_path: Path):
    """Two workers, and no process of Ray outlives the command."""
    assert narrate(inputs, tmp_path, "local") == here
    wait_until(lambda: not ray_processes(), deadline_s=DEADLINE_S, what="the end of Ray")


def test_a_cluster_that_runs_narrates_the_same(inputs: Path, here: str, tmp_path: Path):
    """It is joined by its address with its token, and goes on afterwards."""
    with cluster() as address:
        assert narrate(inputs, tmp_path, address, token=TOKEN) == here
        assert ray_processes()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_address_without_a_cluster_is_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
):
    """Soon, with exit code 2 and what to give."""
    words = ["evaluate", "fidelity", str(inputs / "bundle"), str(inputs / "data")]
    words += ["--out", str(tmp_path), "--sentence-model", str(inputs / "bert")]
    assert main([*words, "--windows", "40", "--ray", address]) == 2
    assert f"'ray start' prints it, or local; {address}: " in capsys.readouterr().err


def test_another_machine_must_have_the_same_files(inputs: Path):
    """A task that finds another bundle, data set or model at its paths is refused."""
    files = _Files(inputs / "bundle", inputs / "data", NarratorSettings(), common="of another")
    with pytest.raises(UserError, match="the same bundle, data set and language model"):
        _narrator(files)
