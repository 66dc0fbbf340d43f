"""Where one may listen: nothing that is not ours is removed, and nobody is pushed aside."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from contracts.address import IpcAddress, TcpAddress
from contracts.errors import UserError
from daemon.publisher import Publisher
from peer_guard.listening import ListeningSocket
from tests.support.daemon_components import Context


@contextmanager
def listening_at(wanted: IpcAddress | TcpAddress) -> Iterator[ListeningSocket]:
    listening = ListeningSocket(wanted, setting="publish.bind")
    try:
        yield listening
    finally:
        listening.close()


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(str(path)) == 0


def test_a_file_is_never_removed(tmp_path: Path, context: Context):
    """Whatever lies at the path stays as it is, and the sentence says so."""
    precious, folder, link = tmp_path / "precious.txt", tmp_path / "folder", tmp_path / "link"
    precious.write_text("years of work")
    folder.mkdir()
    link.symlink_to(precious)
    for path in (precious, folder, link):
        with pytest.raises(
            UserError, match=r"no socket, and it is not touched\. Set publish\.bind"
        ):
            Publisher(context, f"ipc://{path}")
    assert precious.read_text() == "years of work"
    assert folder.is_dir()
    assert link.is_symlink()


@pytest.mark.parametrize("is_libzmq", [False, True])
def test_a_living_process_keeps_its_path(tmp_path: Path, context: Context, *, is_libzmq: bool):
    """A second one is refused, whoever the first is, and the first is still reached."""
    path = tmp_path / "narrations"
    with context.socket(zmq.PUB) as other:
        if is_libzmq:
            other.bind(f"ipc://{path}")
            first = None
        else:
            first = Publisher(context, f"ipc://{path}")
        with pytest.raises(UserError, match="already in use by a process that answers"):
            Publisher(context, f"ipc://{path}")
        assert can_connect(path)
        if first is not None:
            first.close()


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path, context: Context):
    """A process that was killed leaves its socket, which is taken over and served."""
    path = tmp_path / "narrations"
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.is_socket()
    assert not can_connect(path)
    publisher = Publisher(context, f"ipc://{path}")
    with context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe(b"")
        subscriber.connect(publisher.address)
        assert publisher.socket.poll(5000)
    publisher.close()
    assert not path.exists()


def test_a_full_queue_is_a_sign_of_life(tmp_path: Path):
    """A process that is too busy to accept is not taken for dead."""
    path = tmp_path / "busy"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(UserError, match="already in use"), listening_at(IpcAddress(str(path))):
            pass
        assert path.is_socket()


def test_of_several_that_start_at_once_one_has_the_path(tmp_path: Path):
    """However they meet at a dead socket, the one that got it is reached."""
    path = tmp_path / "narrations"
    script = (
        "import sys\n"
        "from contracts.address import IpcAddress\n"
        "from contracts.errors import UserError\n"
        "from peer_guard.listening import ListeningSocket\n"
        "try: listening = ListeningSocket(IpcAddress(sys.argv[1]), setting='x')\n"
        "except UserError: sys.exit(2)\n"
        "print('listening', flush=True); sys.stdin.read()\n"
    )
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    words = [run.stdout.readline() for run in runs if run.stdout]
    assert can_connect(path)
    for run in runs:
        run.communicate()
    assert sorted(words) == [b"", b"", b"", b"listening\n"]
    assert sorted(run.returncode for run in runs) == [0, 2, 2, 2]


def test_another_ones_socket_is_left_at_the_end(tmp_path: Path):
    """Who finds another socket at its path when it closes does not remove it."""
    path = tmp_path / "narrations"
    with listening_at(IpcAddress(str(path))):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


def test_names_without_files_and_free_ports():
    """The abstract namespace has no files; port 0 becomes the one that was free."""
    with listening_at(IpcAddress("@neurrate-test")) as listening:
        assert listening.address == "ipc://@neurrate-test"
        with pytest.raises(UserError, match="already in use"):
            ListeningSocket(IpcAddress("@neurrate-test"), setting="x")
    with listening_at(TcpAddress("127.0.0.1", 0)) as listening:
        assert int(listening.address.rpartition(":")[2]) > 0


def test_a_folder_that_is_not_there_is_said(tmp_path: Path):
    """The system's own reason, and what must be set."""
    with pytest.raises(UserError, match=r"Cannot bind ipc://.*no such file.*publish\.bind must"):
        ListeningSocket(IpcAddress(str(tmp_path / "none" / "socket")), setting="publish.bind")
