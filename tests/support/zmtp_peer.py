"""A peer that speaks ZMTP by hand, and so can break every rule of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.address import TcpAddress, check_connectable

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
GREETING_2 = b"\xff" + bytes(8) + b"\x7f\x01\x02"  # ZMTP 2.0, a SUB socket
MORE, LONG, COMMAND = 1, 2, 4


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return one frame."""
    if len(body) > 255:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def ready(socket_type: bytes) -> bytes:
    """Return the command that ends a handshake."""
    value = len(socket_type).to_bytes(4, "big") + socket_type
    return frame(b"\x05READY\x0bSocket-Type" + value, COMMAND)


def handshake(socket_type: bytes) -> bytes:
    """Return a whole handshake."""
    return GREETING + ready(socket_type)


def introduce(peer: socket.socket, socket_type: bytes = b"SUB") -> None:
    """Exchange greetings, and then say what one is: libzmq takes them in no other order."""
    peer.sendall(GREETING)
    received = b""
    while len(received) < len(GREETING):
        received += peer.recv(len(GREETING) - len(received))
    peer.sendall(ready(socket_type))


@contextmanager
def connected(endpoint: str) -> Iterator[socket.socket]:
    """Connect to a ``tcp://`` endpoint."""
    address = check_connectable(endpoint, setting="test")
    assert isinstance(address, TcpAddress)
    with socket.create_connection((address.host, address.port), timeout=10) as peer:
        yield peer


def is_cut(peer: socket.socket) -> bool:
    """Whether the other side closes the connection, within ten seconds."""
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def send_until_cut(peer: socket.socket, data: bytes, *, limit_bytes: int) -> int:
    """Send the same bytes over and over; return how many went before the connection was cut."""
    n_sent = 0
    try:
        while n_sent < limit_bytes:
            n_sent += peer.send(data)
    except OSError:
        return n_sent
    return n_sent if is_cut(peer) else limit_bytes
