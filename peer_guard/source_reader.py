"""The reader of one source: connects, and gives whole messages that are within limits.

Whoever wants the messages reads the connection itself (`SourceReader.read`), so that no thread has
to be woken for a message. A thread connects, exchanges introductions and tries again; and it
reads in place of the reader when that has not done so for a while, because it encodes or was
suspended: a live source loses what nobody reads.

Bytes and messages that wait to be taken are limited; beyond that the connection is left unread,
and TCP holds the source back. A source that breaks a rule is disconnected and tried again after a
pause, longer each time.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from contracts.address import IpcAddress, TcpAddress, leaves_machine
from contracts.keys import ClientKeys
from peer_guard import guard
from peer_guard.dialled_source import DialledSource
from peer_guard.guard import LOOK_S, Guard
from peer_guard.listening import connect_unix
from peer_guard.relay import close_watched
from peer_guard.source_stream import MAX_WAITING, Part, SourceLimits
from peer_guard.zmtp import PeerViolation

MAX_WAITING_BYTES = 64 << 20
"""Read and not yet taken: four of the largest messages, or 20 s of the busiest probe."""

UNREAD_S = 0.05
"""The thread reads a connection that nobody has read for so long. The system's buffers hold that
much of six probes."""

PASS_BYTES = 1 << 18
"""Read by one call of `SourceReader.read`."""

RETRY_S = 0.1
"""A source that is not there is looked for this often, as libzmq does."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""After a source has broken a rule; each pause is twice the one before."""

LOOK_FOR_PEER_S, LOST_PEER_S = 2, 10
"""The system asks a machine that sends nothing whether it is there; one that has not answered for
so long is connected to anew. A machine that lost its power has ended no connection."""

HEALTHY_S = 60.0
"""After a connection that lasted so long, pauses begin from the first again."""

logger = logging.getLogger(__name__)


class SourceReader(Guard):
    """Connects to a source, and subscribes to everything.

    `take`, `read` and `poll_fds` are for one thread, the reader's. `next_ping`, called by the
    guard's thread, returns the number of a ping that is to be sent at once, or None.
    """

    def __init__(
        self,
        address: TcpAddress | IpcAddress,
        limits: SourceLimits,
        keys: ClientKeys | None = None,
        next_ping: Callable[[], int | None] = lambda: None,
    ) -> None:
        super().__init__(str(address))
        self._next_ping = next_ping
        if keys is None and leaves_machine(address):
            fields = {"address": str(address)}
            logger.warning("insecure: a source on another machine, without keys", extra=fields)
        # Held by whoever reads or changes the connection: the reader, which never waits for it, or
        # the guard's thread.
        self._lock = Lock()
        self._address = address
        self._limits = limits
        self._keys = keys
        self._messages: deque[list[Part]] = deque()
        self._n_closed_bytes = 0  # of messages that earlier connections brought
        self._n_taken_bytes = 0  # written by the reader alone
        self._source: DialledSource | None = None
        self._read_s = 0.0  # when it was last read
        # Readable once the thread has changed something that the reader may wait for.
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._has_news = False
        self._dialling: socket.socket | None = None
        self._dialled_s = 0.0
        self._due_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._thread.start()

    @property
    def poll_fds(self) -> list[int]:
        """What becomes readable when there is something to take."""
        source = self._source
        if source is None or not source.stream.is_ready:
            return [self._news]
        descriptor = source.socket.fileno()
        return [self._news] if descriptor < 0 else [self._news, descriptor]

    @property
    def has_messages(self) -> bool:
        """Whether there is something to take."""
        return bool(self._messages)

    def take(self) -> list[Part] | None:
        """Return the parts of the oldest message that was read; None if there is none."""
        if not self._messages:
            return None
        parts = self._messages.popleft()
        self._n_taken_bytes += sum(map(len, parts))
        return parts

    def read(self) -> bool:
        """Read what has arrived, without waiting; return whether more may be there."""
        if not self._lock.acquire(blocking=False):
            return False  # the thread is at it, and will give news
        try:
            if self._has_news:
                self._has_news = False
                with suppress(BlockingIOError):
                    os.eventfd_read(self._news)
            return self._read()
        finally:
            self._lock.release()

    def wait(self) -> None:
        """Wait until a closed reader has ended."""
        super().wait()
        if self._news >= 0 and not self._thread.is_alive():
            os.close(self._news)
            self._news = -1

    def _read(self) -> bool:
        source = self._source
        if source is None or not source.stream.is_ready:
            return False
        self._read_s = time.monotonic()
        n_read, has_more = 0, True
        while has_more and self._has_room(source):
            if n_read >= PASS_BYTES:
                return True
            n_bytes, has_more = self._receive(source)
            n_read += n_bytes
        return False

    def _has_room(self, source: DialledSource) -> bool:
        n_bytes = self._n_closed_bytes + source.stream.n_message_bytes - self._n_taken_bytes
        return n_bytes <= MAX_WAITING_BYTES and len(self._messages) < MAX_WAITING

    def _receive(self, source: DialledSource) -> tuple[int, bool]:
        """Read a chunk; the connection is closed if it has ended or breaks a rule."""
        try:
            n_bytes, has_more = source.receive()
        except PeerViolation as violation:
            self._drop(violation)
            return 0, False
        except OSError:
            source.has_ended = True
            n_bytes, has_more = 0, False
        if not source.has_ended:
            return n_bytes, has_more
        if source.stream.is_ready:
            self._close_source()
        else:
            self._drop(source.end_violation)
        return n_bytes, False

    def _drop(self, violation: PeerViolation) -> None:
        """Disconnect a source that has broken a rule, and let it wait, each time longer."""
        now_s = time.monotonic()
        if self._source is not None and now_s - self._source.began_s > HEALTHY_S:
            self._pause_s = FIRST_PAUSE_S
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._count(violation.reason, str(self._address), violation.detail)
        self._close_source()

    def _close_source(self) -> None:
        source, self._source = self._source, None
        if source is None:
            return
        self._n_closed_bytes += source.stream.n_message_bytes
        close_watched(self._selector, source.socket)
        self._due_s = max(self._due_s, time.monotonic() + RETRY_S)

    # From here on everything runs in the guard's thread.

    def _tell(self) -> None:
        self._has_news = True
        with suppress(BlockingIOError):
            os.eventfd_write(self._news, 1)

    def _look(self, now_s: float) -> None:
        with self._lock:
            source = self._source
            if source is not None and source.stream.is_ready:
                self._ping(source)
                if now_s - self._read_s > UNREAD_S:
                    n_before = len(self._messages)
                    while self._read():
                        pass  # until nothing more is there, or room for it
                    if len(self._messages) > n_before:
                        self._tell()
            elif source is not None:
                if now_s - source.began_s > guard.HANDSHAKE_S:
                    self._drop(PeerViolation("handshake"))
            elif self._dialling is not None:
                if now_s - self._dialled_s > guard.HANDSHAKE_S:
                    self._stop_dialling(now_s)
            is_due = self._source is None and self._dialling is None and now_s >= self._due_s
        if is_due:  # without the lock: a look-up of a name may take seconds
            self._dial(now_s)

    def _ping(self, source: DialledSource) -> None:
        if (number := self._next_ping()) is None:
            return
        try:
            source.ping(number)
        except PeerViolation as violation:
            self._drop(violation)
        except OSError:
            pass  # whoever reads next finds that it is broken

    def _wait_s(self, now_s: float) -> float:
        if self._source is not None:
            return UNREAD_S if self._source.stream.is_ready else LOOK_S
        if self._dialling is not None:
            return LOOK_S
        return min(LOOK_S, max(0.0, self._due_s - now_s))

    def _dial(self, now_s: float) -> None:
        self._dialled_s = now_s
        try:
            self._dialling = _connecting(self._address)
        except OSError:
            self._due_s = now_s + RETRY_S
        else:
            self._watch(self._dialling, selectors.EVENT_WRITE, self._on_dialled)

    def _stop_dialling(self, now_s: float) -> None:
        if self._dialling is not None:
            close_watched(self._selector, self._dialling)
            self._dialling = None
        self._due_s = now_s + RETRY_S

    def _on_dialled(self) -> None:
        connected = self._dialling
        if connected is None:
            return
        if connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._stop_dialling(time.monotonic())
            return
        self._selector.unregister(connected)
        self._dialling = None
        try:
            self._source = DialledSource(connected, self._limits, self._messages, self._keys)
        except (OSError, PeerViolation):
            connected.close()
            self._due_s = time.monotonic() + RETRY_S
            return
        self._watch(connected, selectors.EVENT_READ, self._on_handshake)

    def _on_handshake(self) -> None:
        source = self._source
        if source is None:
            return
        self._receive(source)
        if source is self._source and source.stream.is_ready:
            self._selector.unregister(source.socket)  # from now on it is for the reader
            self._tell()

    def _watch(self, watched: socket.socket, events: int, callback: Callable[[], None]) -> None:
        def on_ready(_: int) -> None:
            with self._lock:
                callback()

        self._selector.register(watched, events, on_ready)

    def _has_peers(self) -> bool:
        return False  # nothing is sent to a source that would have to leave

    def _stop_listening(self) -> None:
        """Do nothing: it does not listen."""

    def _close_all(self) -> None:
        with self._lock:
            self._stop_dialling(0.0)
            self._close_source()


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
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOOK_FOR_PEER_S)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOOK_FOR_PEER_S)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * LOST_PEER_S)
        if address.source is not None:
            connecting.bind(address.source)
        connecting.connect_ex(host)
    except OSError:
        connecting.close()
        raise
    return connecting
