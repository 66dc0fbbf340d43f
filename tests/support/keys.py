"""Pairs of keys, the files that hold them, and libzmq sockets that use them."""

from __future__ import annotations

from pathlib import Path

import zmq

from contracts.allow_list import AllowList, ServerKeys
from contracts.keys import ALLOWED, ClientKeys, KeyPair, key_text
from peer_guard.curve import new_pair

__all__ = [
    "allow",
    "as_client",
    "as_server",
    "client_keys",
    "new_pair",
    "server_keys",
    "write_pair",
]


def write_pair(folder: Path, name: str, pair: KeyPair | None = None) -> KeyPair:
    """Write the two files of a pair."""
    pair = pair or new_pair()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / f"{name}.key").write_text(key_text(pair.public))
    secret = folder / f"{name}.key_secret"
    secret.touch(mode=0o600)
    secret.write_text(key_text(pair.public, pair.secret))
    return pair


def allow(folder: Path, **public_keys: bytes) -> Path:
    """Put keys on the list beside a server's pair."""
    allowed = folder / ALLOWED
    allowed.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, public in public_keys.items():
        (allowed / f"{name}.key").write_text(key_text(public))
    return allowed


def server_keys(folder: Path, *allowed: KeyPair) -> ServerKeys:
    """Return a server's keys, with a list in a folder."""
    listed = {f"client-{number}": pair.public for number, pair in enumerate(allowed)}
    return ServerKeys(new_pair(), AllowList(allow(folder, **listed)))


def client_keys(server: ServerKeys, own: KeyPair) -> ClientKeys:
    """Return what a client of a server needs."""
    return ClientKeys(own, server.own.public)


def as_client(socket: zmq.Socket[bytes], keys: ClientKeys) -> None:
    """Give a libzmq socket that connects its keys."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)


def as_server(socket: zmq.Socket[bytes], pair: KeyPair) -> None:
    """Make a libzmq socket that binds a server of CURVE."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
