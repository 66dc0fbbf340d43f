"""The socket to a worker process, in a folder that only its user can enter.

Another process of the same user could enter it too. So each message carries a secret of this
socket's, random at each start and handed to the worker through its standard input, one for either
direction; what comes without it is dropped, counted and logged. It keeps honest programs apart, and
is no guard against a user's own processes that read memory: docs/security.md.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import zmq

from contracts.clock import HostClock
from contracts.errors import UserError
from contracts.temporary_folder import PREFIX, TemporaryFolder
from daemon.rate_limited_log import RateLimitedLog

HALF_BYTES = 32
"""Of a secret, for either direction: too many to be guessed."""

Part = bytes | memoryview

MAX_REFUSED = 256
"""Messages without the secret that are dropped at once; the loop must go on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSecret:
    """What tells messages of a worker and its daemon from those of others; not shown."""

    replies: bytes = field(repr=False)
    orders: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """Return one that nobody else has."""
        return cls(secrets.token_bytes(HALF_BYTES), secrets.token_bytes(HALF_BYTES))

    @property
    def line(self) -> bytes:
        """What is handed to the worker."""
        return self.replies + self.orders

    @classmethod
    def read(cls, descriptor: int) -> Self | None:
        """Take one from a pipe, waiting for it; None if the pipe was closed before."""
        line = b""
        while len(line) < 2 * HALF_BYTES:
            part = os.read(descriptor, 2 * HALF_BYTES - len(line))
            if not part:
                return None
            line += part
        return cls(line[:HALF_BYTES], line[HALF_BYTES:])


def _has_secret(parts: Sequence[bytes], secret: bytes) -> bool:
    return bool(parts) and secrets.compare_digest(parts[0], secret)


class WorkerSocket:
    """The daemon's end: a ROUTER socket at ``ipc://FOLDER/NAME``, which is `address`.

    `what` names the socket's owner in the error. Sending raises if the worker is gone.
    ``n_refused`` counts messages without the secret.

    Raises
    ------
    UserError
        If there is no folder for it, or its path is too long.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str, *, what: str) -> None:
        self.secret = WorkerSecret.new()
        self.n_refused = 0
        self._what = what
        self._log = RateLimitedLog(logger, HostClock())
        # The path of a Unix socket fits in sun_path, which is short (man 7 unix).
        max_bytes = zmq.IPC_PATH_MAX_LEN - len(f"/{PREFIX}12345678/{name}")
        problem = (
            f"{what}'s socket needs a temporary folder that can be written to, with a path of "
            f"at most {max_bytes} bytes. Set TMPDIR to one"
        )
        try:
            self.folder = TemporaryFolder()
        except OSError as error:
            raise UserError(f"{problem}: {error}") from error
        self.address = f"ipc://{self.folder.path}/{name}"
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.ROUTER_MANDATORY, 1)  # a message to a worker that is gone raises
        try:
            self.socket.bind(self.address)
        except zmq.ZMQError as error:
            self.close()
            found = f"{zmq.strerror(error.errno or 0)} in {self.folder.path.parent}"
            raise UserError(f"{problem}: {found}") from error

    def receive(self) -> tuple[bytes, list[bytes]] | None:
        """Return the sender and the parts of the next message; None if none is there."""
        for _ in range(MAX_REFUSED):
            if not int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
                return None
            identity, *parts = self.socket.recv_multipart()
            if _has_secret(parts, self.secret.replies):
                return identity, parts[1:]
            self.n_refused += 1
            fields = {"socket": self._what, "n_refused": self.n_refused}
            self._log.warning("secret", "message of another process refused", extra=fields)
        return None

    def send(self, identity: bytes, parts: Sequence[Part]) -> None:
        """Send without waiting.

        Raises
        ------
        zmq.ZMQError
            If that worker is gone.
        """
        self.socket.send_multipart([identity, self.secret.orders, *parts], zmq.DONTWAIT)

    def close(self) -> None:
        """Close the socket, and remove its folder."""
        self.socket.close()
        self.folder.close()


class DaemonSocket:
    """The worker's end. Closes with its ``with`` block."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, secret: WorkerSecret
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 1000)
        self._secret = secret
        self._address = address

    def __enter__(self) -> Self:
        self.socket.connect(self._address)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, parts: Sequence[bytes]) -> None:
        """Send a message."""
        self.socket.send_multipart([self._secret.replies, *parts])

    def receive(self) -> list[bytes] | None:
        """Return the parts of the next message of the daemon; None if none is there."""
        while int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            parts = self.socket.recv_multipart()
            if _has_secret(parts, self._secret.orders):
                return parts[1:]
        return None
