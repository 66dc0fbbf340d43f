"""The client's README: its two programs, run from the built wheel, without this project."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from contracts.narration_wire import pack_narration
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.trigger import pack_trigger
from contracts.wire import unpack
from daemon.publisher import Publisher
from tests.support.daemon_components import Context
from tests.support.narrations import narration
from tests.support.once import made_once
from tests.support.subscribing import take_subscriptions
from tests.support.triggers import trigger

CLIENT = Path(__file__).parents[2] / "clients" / "python"
README = (CLIENT / "README.md").read_text(encoding="utf-8")
SUBSCRIBER, SOURCE = re.findall(r"```python\n(.*?)```", README, flags=re.S)
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel, unpacked, and links to the two packages that it needs."""

    def make(folder: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
            check=True,
            cwd=CLIENT,
            capture_output=True,
        )
        (wheel,) = folder.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
        for package in (msgspec, zmq):
            (where,) = package.__path__
            for path in Path(where).parent.glob(f"{package.__name__}*"):
                (folder / path.name).symlink_to(path)
        for path in Path(where).parent.glob("pyzmq.libs"):
            (folder / path.name).symlink_to(path)

    return made_once(tmp_path_factory, "client-wheel", make)


def _start(program: str, packages: Path, path: Path) -> subprocess.Popen[str]:
    """Run a program with the plain interpreter: of all packages it has those of the client."""
    path.write_text(program, encoding="utf-8")
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    return subprocess.Popen(
        [str(base), "-s", str(path)],
        cwd=path.parent,
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def daemon(context: Context) -> Iterator[Publisher]:
    """Yield the socket of a daemon."""
    daemon = Publisher(context, "tcp://127.0.0.1:*")
    yield daemon
    daemon.close()


def test_the_programs_are_as_short_as_promised():
    """Ten lines each, or fewer."""
    programs = [program.split("\n") for program in (SUBSCRIBER, SOURCE)]
    assert max(sum(line != "" for line in program) for program in programs) <= 10


def test_the_wheel_holds_types_and_schemas(packages):
    """What an author of a program in another language needs, too."""
    installed = packages / "neurrate_client"
    assert (installed / "py.typed").is_file()
    assert sorted(path.name for path in (installed / "schemas").iterdir()) == [
        f"{name}.schema.json"
        for name in (
            "daemon", "encoder", "mark", "narration", "partial", "probes", "rates", "stats",
            "trigger", "units",
        )
    ]  # fmt: skip


def test_the_subscriber_prints_what_a_daemon_publishes(daemon, packages, tmp_path):
    """Narrations, triggers, and what it missed."""
    program = SUBSCRIBER.replace("tcp://127.0.0.1:5571", daemon.address)
    process = _start(program, packages, tmp_path / "subscriber.py")
    try:
        assert take_subscriptions(daemon, 2) == [b"narration.", b"trigger."]
        for parts in (
            pack_narration(narration(seq=0)),
            pack_narration(narration(seq=3)),
            pack_trigger(trigger("car_seen")),
        ):
            daemon.publish(parts)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
    finally:
        process.kill()
        process.communicate()
    assert lines == [
        "all: A car drives away.\n",
        "missed 2 of narration.all\n",
        "all: A car drives away.\n",
        f"car_seen at {trigger().window.frame_s:.2f} s\n",
    ]


def test_the_source_is_read_by_the_daemons_reader(context, packages, tmp_path):
    """Fifty batches, their spikes, a mark and the end."""
    path = tmp_path / "socket"
    program = SOURCE.replace("tcp://127.0.0.1:5570", f"ipc://{path}")
    assert "ipc://" in program
    process = _start(program, packages, tmp_path / "source.py")
    with context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVTIMEO, int(1000 * DEADLINE_S))
        socket.subscribe(b"")
        socket.connect(f"ipc://{path}")
        messages = [unpack(socket.recv_multipart())]
        while not isinstance(messages[-1], StreamEnd):
            messages.append(unpack(socket.recv_multipart()))
    output = process.communicate(timeout=DEADLINE_S)[0]
    assert (process.returncode, output) == (0, "")
    assert isinstance(messages[0], Hello)
    batches = [message for message in messages if isinstance(message, SpikeBatch)]
    assert [batch.start_ns for batch in batches] == list(range(0, 10**9, 20_000_000))
    assert sum(isinstance(message, Mark) for message in messages) == 1
    end = messages[-1]
    assert isinstance(end, StreamEnd)
    assert (end.n_batches, end.n_spikes) == (50, 100)
