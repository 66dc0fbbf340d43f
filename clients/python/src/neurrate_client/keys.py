"""Keys of CURVE: encrypted connections, and only with whom is known.

``neurrate keys new NAME`` makes a pair of files, and so does ``zmq.auth.create_certificates``.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from zmq.utils import z85

FilePath = str | os.PathLike[str]

ZAP_ADDRESS = "inproc://zeromq.zap.01"
"""Where libzmq asks, within one context, whether a client may connect (RFC 27)."""

logger = logging.getLogger(__name__)


def use_keys(
    socket: zmq.Socket[Any],
    key: FilePath | None,
    server_key: FilePath | None,
) -> None:
    """Have a socket that connects use a pair of keys, for a server with that public key.

    Raises
    ------
    ValueError
        If one is given without the other, a file holds no such key, or others can read a secret.
    OSError
        If a file cannot be read.
    """
    if key is None and server_key is None:
        return
    if key is None or server_key is None:
        raise ValueError("key and server_key are given together, or neither")
    public, secret = load_pair(key)
    socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.auth.load_certificate(server_key)[0])
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


def load_pair(key: FilePath) -> tuple[bytes, bytes]:
    """Return the public and the secret key of a file, in Z85.

    Raises
    ------
    ValueError
        If it holds no pair, or others can read it.
    OSError
        If it cannot be read.
    """
    mode = stat.S_IMODE(Path(key).stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"{key} can be read by other users (mode {mode:04o}). chmod 600 {key}")
    public, secret = zmq.auth.load_certificate(key)
    if secret is None:
        raise ValueError(f"{key} holds no secret key; take NAME.key_secret.")
    return public, secret


class ClientCheck:
    """Lets the clients of a context's sockets in whose public key is in a folder (RFC 27).

    It has no thread: libzmq waits until `answer` is called.
    """

    def __init__(self, context: zmq.Context[Any], allowed: FilePath) -> None:
        self.n_refused = 0
        self._allowed = Path(allowed)
        self.socket = context.socket(zmq.REP)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(ZAP_ADDRESS)

    def guard(self, socket: zmq.Socket[Any], key: FilePath) -> None:
        """Make a socket, before it is bound, a server of CURVE.

        Raises
        ------
        ValueError, OSError
            As `load_pair`.
        """
        _, secret = load_pair(key)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)

    def answer(self) -> None:
        """Answer what libzmq has asked, without waiting."""
        while int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            _, request, _, address, _, mechanism, *credentials = self.socket.recv_multipart()
            is_allowed = mechanism == b"CURVE" and credentials[0] in self._keys()
            if not is_allowed:
                self.n_refused += 1
                logger.warning("refused a client at %s: its key is not allowed", address.decode())
            code = b"200" if is_allowed else b"400"
            self.socket.send_multipart([b"1.0", request, code, b"", b"", b""])

    def close(self) -> None:
        """Close its socket."""
        self.socket.close()

    def _keys(self) -> set[bytes]:
        """Return the keys in the folder now, 32 bytes each."""
        found = set()
        for path in self._allowed.glob("*.key"):
            try:
                found.add(z85.decode(zmq.auth.load_certificate(path)[0]))
            except (OSError, ValueError):
                logger.warning("no key in %s", path)
        return found
