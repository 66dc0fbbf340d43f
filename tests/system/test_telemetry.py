"""No process of ours leaves the machine, or an identifier on it, that the user did not ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts.manifest import Manifest
from contracts.telemetry import SWITCHED_OFF
from tests.support.processes import Neurrate

PEER = re.compile(
    r'connect\(.*sa_family=AF_INET6?\b.*(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)'
)
RESOLVER = re.compile(r"/etc/(?:resolv\.conf|hosts)|htons\(53\)")
LOOPBACK = "tcp://127.0.0.1:*"
HERE = {"127.0.0.1", "::1"}

CACHES = {".cache/pynwb-hdmf"}
"""What pynwb writes when it is imported: the NWB schema, read."""

OPEN_SESSION = (
    "import sys; from pathlib import Path; from contracts.manifest import load_manifest; "
    "from daemon.encoders.graph_check import cpu_graph, poisson_windows; "
    "m = load_manifest(Path(sys.argv[1])); cpu_graph(m).run(*poisson_windows(m))"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing; telemetry stays off under CI."""
    kept = {"PATH", "PYTHONPATH", "LANG", "TMPDIR"}
    return {name: value for name, value in os.environ.items() if name in kept} | {"HOME": str(home)}


def left_in(home: Path) -> set[str]:
    """Return the files in a home folder, those of a documented cache as its folder."""
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    return {file for file in files if not any(file.startswith(f"{cache}/") for cache in CACHES)}


def test_the_encoder_leaves_nothing_in_the_home_folder(tiny_bundle: Manifest, home: Path):
    """ONNX Runtime, as we import it, writes no identifier of the machine and no database."""
    arguments = [sys.executable, "-c", OPEN_SESSION, str(tiny_bundle.folder)]
    subprocess.run(arguments, env=environment(home), check=True)
    assert left_in(home) == set()


def test_an_inherited_variable_does_not_switch_it_on():
    """Whatever the caller has set, the variables are as they should be once we are imported."""
    program = (
        "import os, contracts; print(*(os.environ[name] for name in os.environ['NAMES'].split()))"
    )
    inherited = dict.fromkeys(SWITCHED_OFF, "") | {"NAMES": " ".join(SWITCHED_OFF)}
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **inherited},
        check=True,
        capture_output=True,
    ).stdout
    assert printed.split() == [value.encode() for value in SWITCHED_OFF.values()]


@pytest.fixture
def traced(tmp_path: Path, home: Path) -> Iterator[Callable[..., Neurrate]]:
    """Start commands under strace, as a user who has set nothing."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    probe = [strace, "-f", "-o", os.devnull, "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("strace may trace nothing here")
    calls = "trace=connect,sendto,sendmsg,sendmmsg,openat"
    with ExitStack() as started:

        def start(*words: object, name: str) -> Neurrate:
            trace = tmp_path / f"{name}.trace"
            before = (strace, "-f", "-qq", "-s", 256, "--seccomp-bpf", "-e", calls, "-o", trace)
            command = Neurrate(
                *words, folder=tmp_path, name=name, before=before, env=environment(home)
            )
            return started.enter_context(command)

        yield start


def test_no_process_looks_up_a_name_or_leaves_the_machine(
    traced: Callable[..., Neurrate],
    recording: Path,
    tiny_bundle: Manifest,
    tmp_path: Path,
    home: Path,
):
    """As the kernel sees source, daemon and worker: peers are local, and no resolver is read."""
    source = traced("stream", "nwb", recording, "--speed", "max", "--bind", LOOPBACK, name="source")
    daemon = traced(
        "run", "--bundle", tiny_bundle.folder, "--connect", source.addresses()["spikes"],
        "--publish", LOOPBACK, "--narrator", "retrieval", "--set", "http.port=0", "--exit-at-end",
        name="daemon",
    )  # fmt: skip
    assert (daemon.wait(), source.wait()) == (0, 0), daemon.text() + source.text()
    assert daemon.summary()["counters"]["narrations"]["ok"] > 0
    for name in ("source", "daemon"):
        lines = (tmp_path / f"{name}.trace").read_text(errors="replace").splitlines()
        assert any("retrieval" in line or "zmq" in line for line in lines)  # it did trace
        assert {peer[1] for line in lines if (peer := PEER.search(line))} <= HERE
        assert [line for line in lines if RESOLVER.search(line)] == []
    assert left_in(home) == set()
