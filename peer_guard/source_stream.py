"""What a source sends, as whole messages. No socket here.

Frames are told apart from their headers; bodies are cut out and not looked at. Whoever receives
gives each chunk to `SourceStream.feed`, but for the rest of a long body, which is received where
it will stay (`open_body`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from peer_guard.zmtp import (
    COMMAND,
    MAX_COMMAND_BYTES,
    MORE,
    Handshake,
    PeerViolation,
    frame_header,
)

LONG_BODY_BYTES = 4096
"""A longer body that is cut off has a buffer of its own: shorter ones are joined with what follows,
again for every chunk that does not complete them."""

MAX_WAITING = 2000
"""Messages: 20 s of 10 ms batches, so that a slow encode loses nothing."""

Part = bytes | bytearray


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What one message of a source may hold."""

    part_bytes: int
    message_bytes: int
    parts: int


class SourceStream:
    """Cuts what one connection brings into messages, and appends these to `messages`.

    The reader is the source's peer in ZMTP: it introduces itself, and answers commands.
    """

    def __init__(self, limits: SourceLimits, messages: deque[list[Part]]) -> None:
        self._limits = limits
        self._messages = messages
        self._handshake = Handshake(frozenset((b"PUB", b"XPUB")))
        self._rest = b""  # of the chunks so far: what is not whole, or was one message too many
        self._parts: list[Part] = []  # of the message so far
        self._n_bytes = 0  # of these
        self._body: bytearray | None = None
        self._has_more = False  # whether a part follows the open body
        self.open_body: memoryview | None = None  # what is still to come of a long body
        self.is_full = False  # whether whole messages were left where `messages` had no room
        self.n_message_bytes = 0  # of whole messages, without their framing
        self.pings: list[bytes] = []  # their contexts, to be answered
        self.n_commands = 0

    @property
    def has_greeted(self) -> bool:
        """Whether the greeting has come, which we answer."""
        return self._handshake.has_greeted

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over."""
        return self._handshake.is_done

    def fill(self, n_bytes: int) -> None:
        """Note that so many bytes of `open_body` were received."""
        body, rest = self._body, self.open_body
        if body is None or rest is None:
            return
        if n_bytes < len(rest):
            self.open_body = rest[n_bytes:]
            return
        self._body = self.open_body = None
        self._end_part(body, has_more=self._has_more)

    def feed(self, chunk: bytes) -> None:
        """Read on; there must be no open body.

        Raises
        ------
        PeerViolation
            With what is wrong. What came before it is among the messages.
        """
        if not self._handshake.is_done:
            _, chunk = self._handshake.read(chunk)
            if self._handshake.is_v2:
                raise PeerViolation("version")
        if self._rest:
            chunk = self._rest + chunk
        at, end, messages = 0, len(chunk), self._messages
        while at < end and len(messages) < MAX_WAITING:
            flags = chunk[at]
            if flags <= MORE and at + 2 <= end:  # most frames are short ones of messages
                length, begin = chunk[at + 1], at + 2
            else:
                header = frame_header(chunk, at)
                if header is None:
                    break
                flags, length, begin = header
            stop = begin + length
            # ZMTP has commands between messages alone; libzmq sends heartbeats between parts, too.
            if flags & COMMAND:
                if length > MAX_COMMAND_BYTES:
                    raise PeerViolation("size")
                if stop > end:
                    break
                self._take_command(chunk[begin:stop])
            else:
                if len(self._parts) >= self._limits.parts:
                    raise PeerViolation("parts")
                if (
                    length > self._limits.part_bytes
                    or self._n_bytes + length > self._limits.message_bytes
                ):
                    raise PeerViolation("size")
                if stop > end:
                    if length > LONG_BODY_BYTES:
                        self._open(chunk[begin:], length, has_more=bool(flags & MORE))
                        at = end
                    break
                self._end_part(chunk[begin:stop], has_more=bool(flags & MORE))
            at = stop
        self.is_full = at < end and len(messages) >= MAX_WAITING
        self._rest = chunk[at:]

    def _open(self, begun: bytes, length: int, *, has_more: bool) -> None:
        # Zeros that the system has promised and not yet given: a length alone takes no memory.
        self._body, self._has_more = bytearray(length), has_more
        self._body[: len(begun)] = begun
        self.open_body = memoryview(self._body)[len(begun) :]

    def _end_part(self, part: Part, *, has_more: bool) -> None:
        self._parts.append(part)
        self._n_bytes += len(part)
        if not has_more:
            self._messages.append(self._parts)
            self.n_message_bytes += self._n_bytes
            self._parts, self._n_bytes = [], 0

    def _take_command(self, body: bytes) -> None:
        self.n_commands += 1
        if body.startswith(b"\x04PING"):  # and two bytes of a time, and a context
            self.pings.append(body[7:])
