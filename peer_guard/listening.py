"""Listening sockets, on addresses that `contracts.address` has allowed.

libzmq removes whatever lies at the path of an ``ipc://`` address, a file or a living daemon's
socket. Here a path is taken only if it is free, or the socket of a process that is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from contracts.address import IpcAddress, TcpAddress, cannot_bind
from contracts.errors import UserError

BACKLOG = 128
"""Connections that wait to be accepted; the system's own limit on many machines."""

RETRY_S = 0.01

PROBE_S = 1.0
"""How long a living process may take to accept a probe; longer, and it counts as living."""


class ListeningSocket:
    """A socket that listens, without waiting, until `close`.

    `setting` names it in errors. `address` is where, with the port that was found free.

    Raises
    ------
    UserError
        If the address is taken or cannot be bound.
    """

    def __init__(self, wanted: TcpAddress | IpcAddress, *, setting: str) -> None:
        self._path: Path | None = None
        self._inode = (0, 0)
        try:
            if isinstance(wanted, TcpAddress):
                self.socket = _listen(socket.AF_INET, (wanted.host, wanted.port))
                host, port = self.socket.getsockname()
                self.address = f"tcp://{host}:{port}"
                return
            self.address = str(wanted)
            if wanted.path.startswith("@"):  # of no file
                self.socket = _listen(socket.AF_UNIX, system_path(wanted.path))
                return
            self._path = Path(wanted.path)
            with _locked_folder(self._path.parent):
                _clear(self._path, setting)
                self.socket = _listen(socket.AF_UNIX, system_path(wanted.path))
            found = self._path.lstat()
            self._inode = found.st_dev, found.st_ino
        except OSError as error:
            raise cannot_bind(str(wanted), error.errno or 0, setting=setting) from error

    def close(self) -> None:
        """Close the socket, and remove its path if it is still its own."""
        self.socket.close()
        if self._path is not None:
            with suppress(OSError):
                found = self._path.lstat()
                if (found.st_dev, found.st_ino) == self._inode:
                    self._path.unlink()


def connect_unix(path: str) -> socket.socket:
    """Return a socket connected to a Unix path, or to a name after ``@``; it never waits.

    Raises
    ------
    OSError
        If nobody listens, or many wait already.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.setblocking(False)
    try:
        connected.connect(system_path(path))
    except OSError:
        connected.close()
        raise
    return connected


def system_path(path: str) -> str:
    """Return a path as the system takes it: names of the abstract namespace begin with a zero."""
    return "\0" + path[1:] if path.startswith("@") else path


def _listen(family: socket.AddressFamily, address: tuple[str, int] | str) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of use to TCP alone
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Let two processes that start at once look at a path one after the other."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # one may be allowed to make files in it and not to read it
        yield
        return
    try:
        give_up_s = time.monotonic() + PROBE_S  # whoever may read the folder may lock it
        while time.monotonic() < give_up_s:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(RETRY_S)
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path, setting: str) -> None:
    """Remove the socket of a process that is gone; refuse anything else that is there.

    Raises
    ------
    UserError
        With what is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(
            f"Cannot bind ipc://{path}: there is a file that is no socket, and it is not touched. "
            f"Set {setting} to another path."
        )
    if _is_served(path):
        raise UserError(
            f"Cannot bind ipc://{path}: address already in use by a process that answers. "
            f"Set {setting} to another path or stop the other process."
        )
    path.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except OSError as error:
            # Anything but a refusal, a full queue or a lack of rights too, means that it may live.
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
    return True
