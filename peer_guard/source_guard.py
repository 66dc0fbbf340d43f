"""The guard of a socket that connects: one source, whose messages must stay within limits.

Our own socket connects to the guard, and the guard to the source; each handshake is the guard's
own. libzmq thus keeps one connection whatever the source does: a SUB socket whose peer breaks a
handshake may never connect again, or forget its subscription. High-water marks count messages,
however large; here bytes that were passed on and not yet taken are limited too. A source that
breaks a rule is disconnected and tried again after a pause, longer each time.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from contextlib import suppress

from contracts.address import IpcAddress, TcpAddress
from peer_guard import guard
from peer_guard.bucket import TokenBucket
from peer_guard.guard import LOOK_S, Guard, inner_path
from peer_guard.listening import ListeningSocket, connect_unix
from peer_guard.relay import CHUNK_BYTES, Flow, close_watched, watch
from peer_guard.zmtp import (
    GREETING,
    SUBSCRIBE_TO_ALL,
    PeerViolation,
    SourceLimits,
    SourceStream,
    command,
    ready,
)

MAX_UNTAKEN_BYTES = 64 << 20
"""Passed on and not yet taken: four of the largest messages, or 20 s of the busiest probe."""

LOOK_UNTAKEN_S = 0.005
"""How often to look whether enough was taken; 64 MB last longer than that."""

COMMANDS_PER_S, COMMANDS_AT_ONCE = 100.0, 1000
"""Heartbeats, of which a few a second are usual. Each is answered."""

RETRY_S = 0.1
"""A source that is not there is looked for this often, as libzmq does."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""After a source has broken a rule; each pause is twice the one before."""

READ_BYTES = 4096

BODY_BYTES = 1 << 20
"""Read at once while a large body passes: no frames have to be walked in it."""

SEND_BUFFER_BYTES = 1 << 20
"""Of the way to our own socket. The system gives what it allows (net.core.wmem_max)."""

MAX_CONTEXT_BYTES = 16
"""Of a PING, which is returned with the PONG (RFC 37)."""

_UCRED = struct.Struct("3i")
"""Process, user and group of a peer (man 7 unix)."""

HEALTHY_S = 60.0
"""After a connection that lasted so long, pauses begin from the first again."""


class _OwnSocket:
    """The connection of our own socket, for which the guard is the source."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.is_ready = False
        self.is_ending = False
        self._has_greeted = False
        self._n_received = 0

    def read(self) -> bool:
        """Read on; return False at the end. Its subscription to everything is taken as given."""
        try:
            received = self.socket.recv(READ_BYTES)
            self._n_received += len(received)
            if not self._has_greeted:
                self._has_greeted = True
                self.socket.send(GREETING)
            elif not self.is_ready and self._n_received >= len(GREETING):
                self.is_ready = True
                self.socket.send(ready(b"PUB"))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(received)


class _Source:
    """A connection to the source, whose subscriber the guard is."""

    def __init__(
        self, connected: socket.socket, own: _OwnSocket, limits: SourceLimits, buffer: memoryview
    ) -> None:
        self.socket = connected
        self.stream = SourceStream(limits)
        self.commands = TokenBucket(COMMANDS_PER_S, COMMANDS_AT_ONCE)
        self.began_s = time.monotonic()
        self.flow = Flow(connected, own.socket, buffer, self._check)
        self._has_answered = False
        connected.send(GREETING)

    def _check(self, chunk: memoryview) -> bytes | memoryview:
        passed = self.stream.check(chunk)
        if self.stream.has_greeted and not self._has_answered:
            self._has_answered = True
            self.socket.send(ready(b"SUB") + SUBSCRIBE_TO_ALL)
        self.flow.read_bytes = min(BODY_BYTES, CHUNK_BYTES + self.stream.n_to_skip)
        pongs = [command(b"\x04PONG" + one[:MAX_CONTEXT_BYTES]) for one in self.stream.pings]
        self.stream.pings.clear()
        if pongs and self.socket.send(b"".join(pongs)) < sum(map(len, pongs)):
            raise PeerViolation("commands")  # it does not even read the answers
        return passed


class SourceGuard(Guard):
    """Connects to a source in place of a libzmq socket, which connects to ``ipc://`` and `inner`.

    That socket must be a SUB socket that subscribes to everything. Whoever reads it adds the bytes
    of each message to `n_taken_bytes`, and calls `on_drained` when nothing more is there.
    """

    def __init__(self, address: TcpAddress | IpcAddress, limits: SourceLimits) -> None:
        super().__init__(str(address))
        self.inner = inner_path()
        self.n_passed_bytes = 0  # of whole messages; written by the guard's thread alone
        self.n_taken_bytes = 0  # written by the reader alone
        self._address = address
        self._limits = limits
        self._buffer = memoryview(bytearray(BODY_BYTES))
        self._own: _OwnSocket | None = None
        self._dialling: socket.socket | None = None
        self._dialled_s = 0.0
        self._source: _Source | None = None
        self._due_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._listening = ListeningSocket(IpcAddress(self.inner), setting=str(address))
        self._selector.register(self._listening.socket, selectors.EVENT_READ, self._accept_own)
        self._thread.start()

    def on_drained(self) -> None:
        """Note that nothing is left to take: what libzmq has dropped does not count for ever."""
        self.n_taken_bytes = self.n_passed_bytes

    def _look(self, now_s: float) -> None:
        if self._source is not None:
            self._look_at_source(self._source, now_s)
        elif self._dialling is not None:
            if now_s - self._dialled_s > guard.HANDSHAKE_S:
                self._stop_dialling(now_s)
        elif self._own is not None and self._is_wanted(self._own) and now_s >= self._due_s:
            self._dial(now_s)

    def _look_at_source(self, source: _Source, now_s: float) -> None:
        n_message_bytes, n_commands = source.stream.take_counts()
        self.n_passed_bytes += n_message_bytes
        source.commands.spend(n_commands)
        if now_s - source.began_s > guard.HANDSHAKE_S and not source.stream.is_ready:
            self._drop("handshake")
            return
        if source.commands.available(now_s) < 0:
            self._drop("commands")
            return
        source.flow.is_paused = self.n_passed_bytes - self.n_taken_bytes > MAX_UNTAKEN_BYTES
        self._watch(source)

    def _wait_s(self, now_s: float) -> float:
        if self._source is not None:
            return LOOK_UNTAKEN_S if self._source.flow.is_paused else LOOK_S
        if self._dialling is None and self._own is not None and self._is_wanted(self._own):
            return min(LOOK_S, max(0.0, self._due_s - now_s))
        return LOOK_S

    @staticmethod
    def _is_wanted(own: _OwnSocket) -> bool:
        return own.is_ready and not own.is_ending

    def _accept_own(self, _: int) -> None:
        """Take the connection of our own socket; it makes a new one when it has lost one."""
        try:
            connected, _address = self._listening.socket.accept()
        except OSError:
            return
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(credentials)[0] != os.getpid():
            connected.close()
            return
        self._lose_own()
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._own = _OwnSocket(connected)
        self._selector.register(connected, selectors.EVENT_READ, self._on_own)

    def _on_own(self, events: int) -> None:
        own, source = self._own, self._source
        if own is None:
            return
        if events & selectors.EVENT_READ and not own.read():
            self._lose_own()
        elif events & selectors.EVENT_WRITE and source is not None:
            self._move(source)

    def _lose_own(self) -> None:
        """Close both connections: a message may have been passed on in part."""
        if self._own is not None:
            close_watched(self._selector, self._own.socket)
            self._own = None
            self._close_source()

    def _dial(self, now_s: float) -> None:
        self._dialled_s = now_s
        try:
            self._dialling = _connecting(self._address)
        except OSError:
            self._due_s = now_s + RETRY_S
        else:
            self._selector.register(self._dialling, selectors.EVENT_WRITE, self._on_dialled)

    def _stop_dialling(self, now_s: float) -> None:
        if self._dialling is not None:
            close_watched(self._selector, self._dialling)
            self._dialling = None
        self._due_s = now_s + RETRY_S

    def _on_dialled(self, _: int) -> None:
        connected, own = self._dialling, self._own
        if connected is None:
            return
        if own is None or connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._stop_dialling(time.monotonic())
            return
        self._selector.unregister(connected)
        self._dialling = None
        try:
            self._source = _Source(connected, own, self._limits, self._buffer)
        except OSError:
            connected.close()
            self._due_s = time.monotonic() + RETRY_S

    def _on_source(self, _: int) -> None:
        if self._source is not None:
            self._move(self._source)

    def _move(self, source: _Source) -> None:
        try:
            source.flow.move()
        except PeerViolation as violation:
            self._drop(violation.reason)
            return
        except OSError:
            source.flow.has_ended = True
        if source.flow.is_over and source.stream.is_ready:
            self._close_source()
        elif source.flow.is_over:
            self._drop("handshake")

    def _watch(self, source: _Source) -> None:
        watch(self._selector, source.socket, source.flow, None, self._on_source)
        if self._own is not None:
            events = selectors.EVENT_READ
            if source.flow.wants_to_write:
                events |= selectors.EVENT_WRITE
            self._selector.modify(self._own.socket, events, self._on_own)

    def _drop(self, reason: str) -> None:
        """Disconnect a source that has broken a rule, and let it wait, each time longer."""
        now_s = time.monotonic()
        if self._source is not None and now_s - self._source.began_s > HEALTHY_S:
            self._pause_s = FIRST_PAUSE_S
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._count(reason, str(self._address))
        self._close_source()

    def _close_source(self) -> None:
        source, self._source = self._source, None
        if source is None:
            return
        self.n_passed_bytes += source.stream.take_counts()[0]
        close_watched(self._selector, source.socket)
        self._due_s = max(self._due_s, time.monotonic() + RETRY_S)
        own = self._own
        if own is None:
            return
        self._selector.modify(own.socket, selectors.EVENT_READ, self._on_own)
        if source.flow.wants_to_write or not source.stream.is_between_messages:
            # libzmq drops the part of a message that it has when the connection ends. It is told of
            # the end, and closes when it has read what came before: what it has not read of a Unix
            # socket that we close, it would drop too.
            own.is_ending = True
            with suppress(OSError):
                own.socket.shutdown(socket.SHUT_WR)

    def _has_peers(self) -> bool:
        return False  # nothing is sent to a source that would have to leave

    def _stop_listening(self) -> None:
        close_watched(self._selector, self._listening.socket)

    def _close_all(self) -> None:
        self._stop_dialling(0.0)
        self._lose_own()


def _connecting(address: TcpAddress | IpcAddress) -> socket.socket:
    """Return a socket that is connecting or connected; only a look-up of a name may wait.

    Raises
    ------
    OSError
        If it cannot be.
    """
    if isinstance(address, IpcAddress):
        return connect_unix(address.path)
    host = socket.getaddrinfo(address.host, address.port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    connecting = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.source is not None:
            connecting.bind(address.source)
        connecting.connect_ex(host)
    except OSError:
        connecting.close()
        raise
    return connecting
