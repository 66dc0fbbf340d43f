"""The examples in other languages, each with its own runtime, beside the daemon's publisher."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import zmq

from contracts.allow_list import load_server_keys
from contracts.narration_wire import pack_narration
from contracts.trigger import pack_trigger
from daemon.publisher import Publisher
from tests.support.daemon_components import Context
from tests.support.keys import allow, write_pair
from tests.support.narrations import narration
from tests.support.once import made_once
from tests.support.subscribing import take_subscriptions
from tests.support.triggers import trigger
from tests.support.wait_until import wait_until

CLIENTS = Path(__file__).parents[2] / "clients"
DEADLINE_S = 60
LANGUAGES = pytest.mark.parametrize("language", ["javascript", "cpp"])


@pytest.fixture
def javascript() -> list[str]:
    """Return the command of the program for Node.js."""
    if shutil.which("node") is None or not (CLIENTS / "javascript" / "node_modules").is_dir():
        pytest.skip("needs node, and `npm ci` in clients/javascript: scripts/install-servers")
    return ["node", str(CLIENTS / "javascript" / "subscriber.mjs")]


@pytest.fixture
def cpp(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of the program in C++, compiled as its first lines say."""
    headers = ("zmq.hpp", "nlohmann/json.hpp")
    found = [any(Path(at, name).exists() for at in ("/usr/include", "/usr/local/include"))
             for name in headers]  # fmt: skip
    if shutil.which("g++") is None or not all(found):
        pytest.skip("needs g++, cppzmq and nlohmann/json: scripts/install-servers")

    def compile_to(path: Path) -> None:
        source = CLIENTS / "cpp" / "subscriber.cpp"
        words = ["g++", "-std=c++17", "-Wall", "-Werror", str(source), "-lzmq", "-o", str(path)]
        subprocess.run(words, check=True)

    return [str(made_once(tmp_path_factory, "cpp-subscriber", compile_to))]


@pytest.fixture
def daemon(context: Context) -> Iterator[Publisher]:
    """Yield the socket of a daemon that has published a narration."""
    daemon = Publisher(context, "tcp://127.0.0.1:*")
    daemon.publish(_spoken(4))
    yield daemon
    daemon.close()


def _spoken(seq: int, *, run: str = "run", text: str = "A car drives away.") -> list[bytes]:
    return pack_narration(replace(narration(seq=seq, text=text), id=f"{run}-all-{seq}"))


@LANGUAGES
def test_the_example_prints_what_is_new_and_says_what_it_missed(language, request, context, daemon):
    """Neither repeats nor messages of another version; a restart of the daemon is none."""
    command: list[str] = request.getfixturevalue(language)
    process = subprocess.Popen(
        [*command, daemon.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert take_subscriptions(daemon, 2) == [b"narration.", b"trigger."]
        with context.socket(zmq.SUB) as newcomer:  # for whom everybody gets the last value again
            newcomer.subscribe(b"narration.")
            newcomer.connect(daemon.address)
            assert daemon.socket.poll(1000 * DEADLINE_S)
            daemon.serve()
        fired = trigger("car_seen")
        daemon.publish(_spoken(5))
        daemon.publish(_spoken(5))
        daemon.publish(_spoken(8, text="Straße, 車"))
        daemon.publish(_spoken(1, run="next"))
        daemon.publish([b"narration.all", b'{"version":2}'])
        daemon.publish([b"narration.all", b"{"])
        daemon.publish(pack_trigger(fired))
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip("\n") for _ in range(6)]
    finally:
        process.kill()
        errors = process.communicate()[1]
    assert lines == [
        "all: A car drives away.",
        "missed 2 of narration.all",
        "all: Straße, 車",
        "missed 1 of narration.all",
        "all: A car drives away.",
        f"car_seen at {fired.window.frame_s:.2f} s",
    ]
    assert errors.count("not read") == 2


@LANGUAGES
def test_the_example_reaches_a_daemon_with_keys(language, request, context, tmp_path):
    """With the files that ``neurrate keys new`` writes; a key that is not allowed gets nothing."""
    command: list[str] = request.getfixturevalue(language)
    write_pair(tmp_path, "gpu")
    mine = write_pair(tmp_path / "mine", "laptop")
    write_pair(tmp_path / "other", "laptop")
    allow(tmp_path, laptop=mine.public)
    keys = load_server_keys(str(tmp_path / "gpu.key_secret"), setting="test")
    daemon = Publisher(context, "tcp://127.0.0.1:*", keys=keys)
    started = [
        subprocess.Popen([*command, daemon.address, *files], stdout=subprocess.PIPE, text=True)
        for folder in (tmp_path / "mine", tmp_path / "other")
        for files in [(str(folder / "laptop.key_secret"), str(tmp_path / "gpu.key"))]
    ]
    try:
        assert take_subscriptions(daemon, 2) == [b"narration.", b"trigger."]
        wait_until(lambda: daemon.dropped["key"] > 0)
        daemon.publish(_spoken(5))
        assert started[0].stdout is not None
        assert started[0].stdout.readline() == "all: A car drives away.\n"
    finally:
        for process in started:
            process.kill()
        printed = [process.communicate()[0] for process in started]
        daemon.close()
    assert printed == ["", ""]


@LANGUAGES
@pytest.mark.parametrize(
    ("mode", "files", "problem"),
    [
        (0o600, ["pair.key_secret"], "together"),
        (0o644, ["pair.key_secret", "pair.key"], "chmod 600"),
        (0o600, ["pair.key", "pair.key"], "holds no secret-key"),
        (0o600, ["pair.key_secret", "none.key"], "none.key"),
    ],
)
def test_the_example_refuses_wrong_files(language, mode, files, problem, request, tmp_path):
    """Each with its reason, as the Python client does."""
    command: list[str] = request.getfixturevalue(language)
    write_pair(tmp_path, "pair")
    for path in tmp_path.iterdir():
        path.chmod(mode)
    done = subprocess.run(
        [*command, "tcp://127.0.0.1:5999", *(str(tmp_path / name) for name in files)],
        check=False, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode != 0
    assert problem in done.stderr


def test_the_workflow_for_bonsai_is_whole():
    """Well-formed, and its edges join nodes that there are. Bonsai itself is not run."""
    root = ElementTree.parse(CLIENTS / "bonsai" / "subscriber.bonsai").getroot()
    at = "{https://bonsai-rx.org/2018/workflow}"
    nodes = root.findall(f"{at}Workflow/{at}Nodes/{at}Expression")
    edges = root.findall(f"{at}Workflow/{at}Edges/{at}Edge")
    assert len(nodes) == 6
    ends = [(int(edge.attrib["From"]), int(edge.attrib["To"])) for edge in edges]
    assert ends == [(0, 1), (1, 2), (3, 4), (4, 5)]


def test_the_page_lists_every_example_and_says_which_are_not_tested():
    """A folder without a row would not be found, and an untested one must say so itself too."""
    page = (CLIENTS.parent / "docs" / "consumers.md").read_text(encoding="utf-8")
    for folder in sorted(path for path in CLIENTS.iterdir() if path.is_dir()):
        (row,) = [line for line in page.splitlines() if f"(../clients/{folder.name}/" in line]
        files = [path for path in folder.iterdir() if path.name.startswith("subscriber.")]
        says = any("Not tested" in path.read_text(encoding="utf-8") for path in files)
        assert ("not tested" in row) == says
