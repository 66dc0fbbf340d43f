"""A connection through a guard: a peer on one side, our own socket of libzmq on the other.

Both are read and written without waiting. Of each direction one chunk is held: while the one who
should take it does not, the other is not read, so that TCP holds him back. Nothing else is queued.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress

CHUNK_BYTES = 1 << 16
"""Read at once of a direction that may hold many frames, which takes time to walk."""

Check = Callable[[memoryview], bytes | memoryview]


class Flow:
    """One direction: what is read from `source` and passes the check goes to `sink`.

    `buffer`, which bounds what is read at once, may be shared by all flows of a thread.
    """

    def __init__(
        self, source: socket.socket, sink: socket.socket | None, buffer: memoryview, check: Check
    ) -> None:
        self.source = source
        self.sink = sink
        self.is_paused = False
        self.has_ended = False
        self._buffer = buffer
        self._check = check
        self._pending = memoryview(b"")

    @property
    def wants_to_read(self) -> bool:
        """Whether there is room for more."""
        return not (self.is_paused or self.has_ended or self._pending)

    @property
    def wants_to_write(self) -> bool:
        """Whether something waits for the sink."""
        return bool(self._pending)

    @property
    def is_over(self) -> bool:
        """Whether the source has ended and all of it is written."""
        return self.has_ended and not self._pending

    def move(self) -> None:
        """Write what is pending; where nothing is, read a chunk and write that.

        Raises
        ------
        PeerViolation
            What the check found.
        OSError
            If a side is gone.
        """
        if self._pending:
            self._pending = self._pending[self._send(self._pending) :]
        elif self.wants_to_read:
            try:
                n_read = self.source.recv_into(self._buffer)
            except BlockingIOError:
                return
            if not n_read:
                self.has_ended = True
                return
            self.write(self._check(self._buffer[:n_read]))

    def write(self, data: bytes | memoryview) -> None:
        """Write, and keep a copy of what the sink does not take yet."""
        if self._pending:
            self._pending = memoryview(bytes(self._pending) + data)
            return
        n_sent = self._send(data)
        if n_sent < len(data):
            self._pending = memoryview(bytes(data[n_sent:]))

    def discard(self) -> None:
        """Read on, and drop what comes: nobody is there to take it."""
        self.is_paused = False
        self._pending = memoryview(b"")
        self._check = lambda _: b""

    def _send(self, data: bytes | memoryview) -> int:
        if self.sink is None or not data:
            return 0
        try:
            return self.sink.send(data)
        except BlockingIOError:
            return 0


class Connection:
    """Both directions between a peer and our own socket.

    ``inward`` is what the peer sends, checked; ``outward`` what it is sent, as it is or encrypted.
    `inner` may be given later.
    """

    def __init__(self, outer: socket.socket, peer: str, inward: Flow, buffer: memoryview) -> None:
        self.outer = outer
        self.peer = peer
        self.inner: socket.socket | None = None
        self.inward = inward
        self.outward: Flow | None = None
        self.ended_outer_s: float | None = None  # when the peer was told of the end
        self._has_ended_inner = False
        self.began_s = time.monotonic()
        self._buffer = buffer

    def join(self, inner: socket.socket, check: Check) -> None:
        """Connect it to our own socket, whose chunks go through `check`."""
        self.inner = self.inward.sink = inner
        self.outward = Flow(inner, self.outer, self._buffer, check)

    def end_halves(self) -> None:
        """Pass the end of one side on to the other.

        It is told that nothing more will come, and may take its time to read what has: a side that
        is closed at once may lose it (libzmq drops what it has not read of a Unix socket that is
        closed; TCP resets a connection that is closed before all was read).

        Raises
        ------
        OSError
            If the other side is gone too.
        """
        outward = self.outward
        if self.inward.is_over and not self._has_ended_inner and self.inner is not None:
            self._has_ended_inner = True
            self.inner.shutdown(socket.SHUT_WR)
        if outward is not None and outward.is_over and self.ended_outer_s is None:
            self.ended_outer_s = time.monotonic()
            self.inward.discard()
            self.outer.shutdown(socket.SHUT_WR)

    @property
    def is_over(self) -> bool:
        """Whether both sides have ended, and what they sent is with the other."""
        return self.inward.is_over and (self.outward is None or self.outward.is_over)

    def close(self, selector: selectors.BaseSelector) -> None:
        """Close both sides."""
        close_watched(selector, self.outer)
        if self.inner is not None:
            close_watched(selector, self.inner)


def watch(
    selector: selectors.BaseSelector,
    watched: socket.socket,
    reads: Flow | None,
    writes: Flow | None,
    callback: Callable[[int], None],
) -> None:
    """Have a selector look for what a socket's flows want, and for nothing else."""
    events = 0
    if reads is not None and reads.wants_to_read:
        events |= selectors.EVENT_READ
    if writes is not None and writes.wants_to_write:
        events |= selectors.EVENT_WRITE
    key = selector.get_map().get(watched)
    if key is None:
        if events:
            selector.register(watched, events, callback)
    elif not events:
        selector.unregister(watched)
    elif key.events != events:
        selector.modify(watched, events, callback)


def close_watched(selector: selectors.BaseSelector, watched: socket.socket) -> None:
    """Close a socket that a selector may look at."""
    with suppress(KeyError, ValueError):
        selector.unregister(watched)
    watched.close()
