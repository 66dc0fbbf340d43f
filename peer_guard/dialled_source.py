"""A connection to a source: introduced, read in chunks, its heartbeats answered."""

from __future__ import annotations

import socket
import time
from collections import deque

from contracts.keys import ClientKeys
from peer_guard.bucket import TokenBucket
from peer_guard.clock_ping import ping_frames
from peer_guard.curve import CurveClient
from peer_guard.relay import CHUNK_BYTES
from peer_guard.source_stream import Part, SourceLimits, SourceStream
from peer_guard.zmtp import GREETING, SUBSCRIBE_TO_ALL, PeerViolation, command, ready

COMMANDS_PER_S, COMMANDS_AT_ONCE = 100.0, 1000
"""Heartbeats, of which a few a second are usual. Each is answered."""

MAX_CONTEXT_BYTES = 16
"""Of a PING, which is returned with the PONG (RFC 37)."""


CLOSED_ON_GREETING = "it closed the connection as it was greeted: it may have no keys"
CLOSED_ON_HELLO = "it closed the connection: its key is another one than the one given here"
CLOSED_ON_KEY = "it closed the connection: the key given here is not on its list"


class DialledSource:
    """A connection to the source; with keys, encrypted."""

    def __init__(
        self,
        connected: socket.socket,
        limits: SourceLimits,
        messages: deque[list[Part]],
        keys: ClientKeys | None,
    ) -> None:
        self.socket = connected
        self._curve: CurveClient | None = None
        if keys is not None:
            self._curve = CurveClient(
                keys.own, keys.server, socket_type=b"SUB", max_body_bytes=limits.part_bytes
            )
        self.stream = SourceStream(limits, messages)
        self.commands = TokenBucket(COMMANDS_PER_S, COMMANDS_AT_ONCE)
        self.began_s = time.monotonic()
        self.has_ended = False
        self._has_answered = False
        self._send(GREETING if self._curve is None else self._curve.take_reply())

    @property
    def end_violation(self) -> PeerViolation:
        """What it means if the source closes the connection before the handshake is over."""
        curve = self._curve
        if curve is None or not curve.has_signature:
            return PeerViolation("handshake")
        if not curve.has_begun:  # libzmq closes before it has said which security it has
            return PeerViolation("mechanism", CLOSED_ON_GREETING)
        return PeerViolation("key", CLOSED_ON_KEY if curve.is_welcome else CLOSED_ON_HELLO)

    def receive(self) -> tuple[int, bool]:
        """Read a chunk; return its bytes, and whether more may be there.

        Raises
        ------
        PeerViolation
            What is wrong with it.
        OSError
            If the connection is broken.
        """
        stream = self.stream
        if stream.is_full:
            stream.feed(b"")
            self._answer()
            return 0, True
        try:
            if stream.open_body is not None:
                wanted = len(stream.open_body)
                n_bytes = self.socket.recv_into(stream.open_body)
                stream.fill(n_bytes)
            else:
                wanted = CHUNK_BYTES
                chunk = self.socket.recv(wanted)
                n_bytes = len(chunk)
                if self._curve is not None:
                    chunk = self._curve.receive(chunk)
                    self._send(self._curve.take_reply())
                stream.feed(chunk)
        except BlockingIOError:
            return 0, False
        self.has_ended = not n_bytes
        self._answer()
        return n_bytes, n_bytes == wanted

    def ping(self, number: int) -> None:
        """Ask for the time on the source's clock; to be called once introductions are over.

        Raises
        ------
        PeerViolation
            If the source reads nothing any more.
        OSError
            If the connection is broken.
        """
        frames = ping_frames(number)
        self._send(frames if self._curve is None else self._curve.seal(frames))

    def _answer(self) -> None:
        stream, curve = self.stream, self._curve
        if stream.has_greeted and not self._has_answered:
            self._has_answered = True
            if curve is None:
                self._send(ready(b"SUB") + SUBSCRIBE_TO_ALL)
            else:  # which has introduced us
                self._send(curve.seal(SUBSCRIBE_TO_ALL))
        if not stream.n_commands:
            return
        self.commands.spend(stream.n_commands)
        stream.n_commands = 0
        pongs = b"".join(command(b"\x04PONG" + one[:MAX_CONTEXT_BYTES]) for one in stream.pings)
        stream.pings.clear()
        if self.commands.available(time.monotonic()) < 0:
            raise PeerViolation("commands")
        self._send(pongs if curve is None else curve.seal(pongs))

    def _send(self, data: bytes) -> None:
        """Send some bytes.

        Raises
        ------
        PeerViolation
            If the source does not even read these.
        OSError
            If the connection is broken.
        """
        if data and self.socket.send(data) < len(data):
            raise PeerViolation("commands")
