"""Hostile peers, written below ZeroMQ: what libzmq itself would never send.

References
----------
ZMTP 3.0, https://rfc.zeromq.org/spec/23/: the greeting has 64 bytes, a frame begins with its flags
and its length.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from threading import Event, Thread
from types import TracebackType
from typing import Self

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 0x01, 0x02, 0x04

_PORTS = cycle(random.sample(range(20_000, 32_000), 12_000))

Attack = Callable[[socket.socket], None]
"""What a hostile peer does with a connection; it returns when it has done enough."""


def free_port() -> int:
    """Return a port of the loopback interface that nobody has bound, each one once.

    Below those that Linux gives to clients (32768 on): such a port may be taken before the process
    that it is meant for has started.
    """
    while True:
        port = next(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return one frame with the long form of its length."""
    return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body


def handshake(connection: socket.socket, socket_type: bytes) -> None:
    """Greet a libzmq peer and say that this is a socket of some type."""
    connection.sendall(GREETING)
    ready = b"\x05READY\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    connection.sendall(frame(ready, COMMAND))
    connection.recv(4096)


def connect(address: str) -> socket.socket:
    """Connect to ``tcp://HOST:PORT``."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


class HostileServer:
    """Listens as a source would, and attacks whoever connects, each in a thread of its own.

    `n_attacked` counts connections.
    """

    def __init__(self, attack: Attack) -> None:
        self.n_attacked = 0
        self._attack = attack
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp://{}:{}".format(*self._server.getsockname())
        self._connections: list[socket.socket] = []
        self._threads = [Thread(target=self._accept, daemon=True)]
        self._is_over = Event()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        for one in (self._server, *self._connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._is_over.is_set():
            with suppress(OSError):
                connection = self._server.accept()[0]
                self._connections.append(connection)
                self.n_attacked += 1
                thread = Thread(target=self._run, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.settimeout(5)
            self._attack(connection)
            self._is_over.wait()  # the connection stays open: closing it is the daemon's part
