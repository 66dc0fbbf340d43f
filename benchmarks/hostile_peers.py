"""Peers that break rules as fast as they can, each in a process of its own.

    python -m benchmarks.hostile_peers publish ADDRESS N_MESSAGES SEED
    python -m benchmarks.hostile_peers source N_MESSAGES SEED

``publish`` attacks a socket that is bound. ``source`` listens where the daemon looks for a source,
writes its address, and attacks once it reads a line. At the end, both write how many messages they
have sent and over how many connections.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Callable, Iterator

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
TIMEOUT_S = 2.0
MESSAGES_OF_A_TURN = 2_000
"""Messages of one connection, which is cut or given up then."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return one frame of ZMTP."""
    if len(body) > 255:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def noise(rng: random.Random) -> bytes:
    """Return random bytes, which are no frames."""
    return rng.randbytes(rng.randint(1, 300))


def endless(rng: random.Random) -> bytes:
    """Return a part that is followed by another, always."""
    return frame(rng.randbytes(rng.choice((0, 20, 1000))), MORE)


def subscription(rng: random.Random) -> bytes:
    """Return a subscription to a new topic."""
    return frame(b"\x01narration." + rng.randbytes(rng.randint(0, 40)))


def resubscription(_: random.Random) -> bytes:
    """Return a subscription to everything, and its end."""
    return frame(b"\x01") + frame(b"\x00")


def mutated(rng: random.Random) -> bytes:
    """Return a spike message of which some bytes are others."""
    topic, header = b"spikes.probeA", b"\x88\xa7version\x01\xa6stream\xa6probeA\xa3run"
    times, units = rng.randbytes(240), rng.randbytes(120)
    message = bytearray(
        frame(topic, MORE) + frame(header, MORE) + frame(times, MORE) + frame(units)
    )
    for _ in range(rng.randint(0, 3)):
        message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
    return bytes(message)


def junk(rng: random.Random) -> bytes:
    """Return a whole message that is none of the wire format."""
    return frame(rng.randbytes(rng.randint(0, 60)), MORE) + frame(rng.randbytes(30))


OF_SUBSCRIBERS = (noise, endless, subscription, resubscription, mutated, junk)
OF_SOURCES = (noise, endless, mutated, junk, subscription)


def attack(
    peer: socket.socket,
    kind: Callable[[random.Random], bytes],
    rng: random.Random,
    socket_type: bytes,
) -> int:
    """Send messages of a kind over one connection; return how many went."""
    n_sent = 0
    peer.settimeout(TIMEOUT_S)
    try:
        if kind is noise and rng.random() < 0.5:
            peer.sendall(noise(rng))
            n_sent += 1
        else:
            introduce(peer, socket_type)
        while n_sent < MESSAGES_OF_A_TURN:
            messages = [kind(rng) for _ in range(50)]
            peer.sendall(b"".join(messages))
            n_sent += len(messages)
    except OSError:
        pass
    return n_sent


def introduce(peer: socket.socket, socket_type: bytes) -> None:
    """Exchange greetings and say what one is.

    Raises
    ------
    ConnectionError
        If the other side closes.
    """
    peer.sendall(GREETING)
    received = b""
    while len(received) < len(GREETING):
        chunk = peer.recv(len(GREETING) - len(received))
        if not chunk:
            raise ConnectionError
        received += chunk
    body = b"\x05READY\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    peer.sendall(frame(body, COMMAND))


def connections(words: list[str]) -> Iterator[socket.socket]:
    """Yield connections to attack."""
    if words[0] == "publish":
        host, _, port = words[1].removeprefix("tcp://").rpartition(":")
        while True:
            try:
                yield socket.create_connection((host, int(port)), TIMEOUT_S)
            except OSError:
                time.sleep(0.01)
    with socket.create_server(("127.0.0.1", 0)) as place:
        print(f"tcp://127.0.0.1:{place.getsockname()[1]}", flush=True)
        sys.stdin.readline()
        while True:
            yield place.accept()[0]


def main() -> int:
    """Attack until so many messages were sent."""
    words = sys.argv[1:]
    n_wanted, seed = int(words[-2]), int(words[-1])
    rng = random.Random(seed)
    kinds = OF_SUBSCRIBERS if words[0] == "publish" else OF_SOURCES
    socket_type = b"SUB" if words[0] == "publish" else b"PUB"
    n_sent = n_connections = 0
    for peer in connections(words):
        with peer:
            n_sent += attack(peer, kinds[n_connections % len(kinds)], rng, socket_type)
        n_connections += 1
        if n_sent >= n_wanted:
            break
    print(f"{n_sent} {n_connections}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
