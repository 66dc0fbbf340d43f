"""The guard of a socket that is bound: any number of subscribers, each within its limits.

What it admits is bounded in number (connections, subscriptions and their bytes) and in rate
(connections, requests). Beyond a rate nothing is lost: the peer is read later. Whoever breaks a
limit is disconnected, alone.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from contracts.address import MAX_REQUEST_BYTES
from contracts.allow_list import ServerKeys
from peer_guard import guard
from peer_guard.bucket import TokenBucket
from peer_guard.clock_ping import PING_TOPIC
from peer_guard.curve import NOT_LISTED, CurveServer
from peer_guard.guard import LOOK_S, Guard
from peer_guard.listening import ListeningSocket, connect_unix
from peer_guard.relay import CHUNK_BYTES, Connection, Flow, watch
from peer_guard.zmtp import PeerViolation, SubscriberLimits, SubscriberStream

MAX_CONNECTIONS = 128
"""At once. Each takes three file descriptors, and a process has 1,024 on most machines."""

MAX_CONNECTIONS_OF_A_HOST = 64
"""Of one other machine. This machine's own programs share one address."""

ACCEPTS_PER_S, ACCEPTS_AT_ONCE = 50.0, MAX_CONNECTIONS
"""A connection costs the guard, and libzmq behind it, some tenths of a millisecond."""

REQUESTS_PER_S, REQUESTS_AT_ONCE = 2_000.0, 2_000
"""Of all subscribers together, who take turns; the loop behind needs some 10 us for each."""

REQUESTS_IN_A_TURN = 32

REST_S = 0.005
"""After a connection or requests were taken, so that a flood of them comes in few turns. A thread
that the system suspends while it holds the interpreter's lock stops the loop that narrates. What
is sent to subscribers is delayed by as much.
"""

PINGS_PER_S = 16.0
"""Of all subscribers together, after which the guard does not rest: that would delay the answer."""

MAX_TOPIC_BYTES = 262_144
"""Of all subscriptions together: libzmq takes about 100 bytes of memory for each of them."""

LEAVE_S = 2.0
"""A peer that was told of the end must have closed its side by then."""

READ_BYTES = 4096
"""Read at once of a subscriber, who sends little."""


logger = logging.getLogger(__name__)


class _Subscriber(Connection):
    """A subscriber's connection and what it has asked for; with `curve`, encrypted."""

    def __init__(
        self, outer: socket.socket, host: str, guard: SubscriberGuard, curve: CurveServer | None
    ) -> None:
        limits = SubscriberLimits(request_bytes=MAX_REQUEST_BYTES)
        self.stream = SubscriberStream(limits, asks=PING_TOPIC if guard.on_ping else b"")
        self.host = host
        self.curve = curve
        self._guard = guard
        inward = Flow(outer, None, guard.read_buffer, self._check)
        super().__init__(outer, host or "this machine", inward, guard.write_buffer)

    def _check(self, chunk: memoryview) -> bytes:
        """Return what of a chunk of the peer's goes to our socket."""
        received = bytes(chunk)
        if self.curve is not None:
            received = self.curve.receive(received)
            self.send_reply()
            self.inward.is_paused = self.curve.is_holding
        self.stream.add(received)
        return self._guard.take(self)

    def _pass(self, chunk: memoryview) -> bytes | memoryview:
        """Return what the peer gets of a chunk of our socket's."""
        if self.curve is None:
            return chunk
        sealed = self.curve.seal(chunk)
        if held := self.curve.take_held():
            self.inward.is_paused = False
            self.stream.add(held)
            self.inward.write(self._guard.take(self))
        return sealed

    def send_reply(self) -> None:
        """Send what the handshake of CURVE has to send now.

        Raises
        ------
        PeerViolation
            If the peer does not read it.
        OSError
            If the connection is broken.
        """
        reply = b"" if self.curve is None else self.curve.take_reply()
        if reply and self.outer.send(reply) < len(reply):
            raise PeerViolation("handshake")

    def join_inner(self, inner: socket.socket) -> None:
        """Connect it to our own socket."""
        self.join(inner, self._pass)


class SubscriberGuard(Guard):
    """Listens in place of a libzmq socket that is bound to ``ipc://`` and `inner`.

    That socket must admit connections of this process alone (``ZMQ_IPC_FILTER_PID``).
    ``address`` is where it listens, with the port that was found free.
    ``n_ignored`` counts messages of subscribers that concern no topic, and which went no further.
    With `keys`, only who has one of the keys on their list is let in, and stays while it is there.
    `on_ping` is called in its thread with a number of the subscriber and the topic of a ping;
    without it a ping is a topic like any other.
    """

    def __init__(
        self,
        listening: ListeningSocket,
        inner: str,
        *,
        what: str,
        keys: ServerKeys | None = None,
        on_ping: Callable[[int, bytes], None] | None = None,
    ) -> None:
        super().__init__(what)
        self.address = listening.address
        self.on_ping = on_ping
        self._keys = keys
        self.n_ignored = 0
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self.write_buffer = memoryview(bytearray(CHUNK_BYTES))
        self._listening = listening
        self._inner = inner
        self._requests = TokenBucket(REQUESTS_PER_S, REQUESTS_AT_ONCE)
        self._accepts = TokenBucket(ACCEPTS_PER_S, ACCEPTS_AT_ONCE)
        self._pings = TokenBucket(PINGS_PER_S, PINGS_PER_S)
        self._waiting: deque[_Subscriber] = deque()  # for their turn
        self._subscribers: set[_Subscriber] = set()
        self._hosts: Counter[str] = Counter()
        self._n_topic_bytes = 0
        self._is_accepting = False
        self._has_taken = False  # since the last rest
        self._next_look_s = 0.0
        self._start_accepting()
        self._thread.start()

    def take(self, subscriber: _Subscriber) -> bytes:
        """Return what one turn of a subscriber passes on; what it may not yet, waits.

        Raises
        ------
        PeerViolation
            With what is wrong.
        """
        stream = subscriber.stream
        n_allowed = min(REQUESTS_IN_A_TURN, self._requests.available(time.monotonic()))
        n_ignored, n_topic_bytes = stream.n_ignored, stream.topic_bytes
        try:
            passed, n_read = stream.take(max(0, n_allowed))
        finally:
            self.n_ignored += stream.n_ignored - n_ignored
            self._n_topic_bytes += stream.topic_bytes - n_topic_bytes
        self._requests.spend(n_read)
        self._has_taken |= n_read > self._take_pings(subscriber)
        if self._n_topic_bytes > MAX_TOPIC_BYTES:
            self._drop_largest(subscriber)
        if stream.has_request:
            subscriber.inward.is_paused = True
            self._waiting.append(subscriber)
        if passed and subscriber.inner is None:
            subscriber.join_inner(connect_unix(self._inner))
        return passed

    def _take_pings(self, subscriber: _Subscriber) -> int:
        """Pass pings on; return how many requests they were, as far as no rest follows them."""
        asked = subscriber.stream.asked
        if not asked or self.on_ping is None:
            return 0
        for topic in asked:
            self.on_ping(id(subscriber), topic)
        n_asked = len(asked)
        asked.clear()
        self._pings.spend(n_asked)
        return 2 * n_asked if self._pings.available(time.monotonic()) >= 0 else 0

    def _drop_largest(self, subscriber: _Subscriber) -> None:
        largest = max(self._subscribers, key=lambda other: other.stream.topic_bytes)
        if largest is subscriber:
            raise PeerViolation("subscriptions")
        self._drop(largest, "subscriptions")

    def _look(self, now_s: float) -> None:
        if (
            not self._is_accepting
            and len(self._subscribers) < MAX_CONNECTIONS
            and self._accepts.available(now_s) > 0
        ):
            self._start_accepting()
        for _ in range(len(self._waiting)):
            if self._requests.available(now_s) <= 0:
                break
            subscriber = self._waiting.popleft()
            if subscriber in self._subscribers:
                self._try(subscriber, partial(self._turn, subscriber))
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_S
            self._drop_silent(now_s)
            if self._keys is not None and self._keys.allowed.refresh():
                self._drop_revoked(self._keys)
        if self._has_taken:
            self._has_taken = False
            time.sleep(REST_S)

    def _drop_silent(self, now_s: float) -> None:
        """Disconnect whoever has not introduced itself in time, or does not close at the end."""
        for subscriber in list(self._subscribers):
            ended_s = subscriber.ended_outer_s
            if ended_s is not None and now_s - ended_s > LEAVE_S:
                self._forget(subscriber)
            elif now_s - subscriber.began_s > guard.HANDSHAKE_S and not subscriber.stream.is_ready:
                self._drop(subscriber, "handshake")

    def _drop_revoked(self, keys: ServerKeys) -> None:
        for subscriber in list(self._subscribers):
            curve = subscriber.curve
            if curve is not None and curve.client_key and curve.client_key not in keys.allowed:
                self._drop(subscriber, "key", NOT_LISTED)

    def _on_ready(
        self, subscriber: _Subscriber, flows: tuple[Flow | None, Flow | None], events: int
    ) -> None:
        if subscriber in self._subscribers:
            self._try(subscriber, partial(_move, flows, events))

    def _try(self, subscriber: _Subscriber, action: Callable[[], None]) -> None:
        """Do something for a subscriber, and close its connection if it has ended or should."""
        try:
            action()
            subscriber.end_halves()
        except PeerViolation as violation:
            self._drop(subscriber, violation.reason, violation.detail)
        except OSError:
            self._end(subscriber)
        except Exception:  # an error of ours costs one peer, and not all of them
            logger.exception("guard failed", extra={"guard": self._what, "peer": subscriber.peer})
            self._forget(subscriber)
        else:
            if subscriber.is_over:
                self._end(subscriber)
            elif subscriber in self._subscribers:
                self._watch(subscriber)

    def _watch(self, subscriber: _Subscriber) -> None:
        inward, outward = subscriber.inward, subscriber.outward
        ready = partial(self._on_ready, subscriber)
        watch(self._selector, subscriber.outer, inward, outward, partial(ready, (inward, outward)))
        if subscriber.inner is not None:
            flows = outward, inward
            watch(self._selector, subscriber.inner, *flows, partial(ready, flows))

    def _end(self, subscriber: _Subscriber) -> None:
        """Close a connection that has ended; before its handshake is over it counts as dropped."""
        if subscriber.stream.is_ready or self._close_by_s is not None:
            self._forget(subscriber)
        else:
            self._drop(subscriber, "handshake")

    def _drop(self, subscriber: _Subscriber, reason: str, detail: str = "") -> None:
        self._count(reason, subscriber.peer, detail)
        self._forget(subscriber)

    def _turn(self, subscriber: _Subscriber) -> None:
        subscriber.inward.is_paused = False
        subscriber.inward.write(self.take(subscriber))

    def _wait_s(self, now_s: float) -> float:
        waits_s = [LOOK_S]
        if self._waiting:
            waits_s.append(self._requests.wait_s)
        if not self._is_accepting and len(self._subscribers) < MAX_CONNECTIONS:
            waits_s.append(self._accepts.wait_s)
        if self._close_by_s is not None:
            waits_s.append(max(0.0, self._close_by_s - now_s))
        return min(waits_s)

    def _accept(self, _: int) -> None:
        """Accept whoever waits, as far as number and rate allow."""
        while self._close_by_s is None:
            is_full = len(self._subscribers) >= MAX_CONNECTIONS
            if is_full:  # the others wait: a libzmq that is turned away may forget its topics
                self._count("connections", "")
            if is_full or self._accepts.available(time.monotonic()) <= 0:
                self._stop_accepting()
                return
            try:
                outer, address = self._listening.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # out of file descriptors: later
                self._count("connections", "")
                self._accepts.spend(ACCEPTS_AT_ONCE)
                return
            self._accepts.spend(1)
            self._has_taken = True
            self._admit(outer, address[0] if isinstance(address, tuple) else "")

    def _admit(self, outer: socket.socket, host: str) -> None:
        is_remote = host and not host.startswith("127.")
        if is_remote and self._hosts[host] >= MAX_CONNECTIONS_OF_A_HOST:
            self._count("connections", host)
            outer.close()
            return
        outer.setblocking(False)
        if outer.family == socket.AF_INET:
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        subscriber = _Subscriber(outer, host, self, self._new_curve())
        self._subscribers.add(subscriber)
        self._hosts[host] += 1
        self._try(subscriber, subscriber.send_reply)

    def _new_curve(self) -> CurveServer | None:
        if self._keys is None:
            return None
        return CurveServer(
            self._keys.own,
            self._keys.allowed.__contains__,
            socket_type=b"XPUB",
            max_body_bytes=MAX_REQUEST_BYTES,
        )

    def _forget(self, subscriber: _Subscriber) -> None:
        if subscriber not in self._subscribers:
            return
        self._subscribers.remove(subscriber)
        self._n_topic_bytes -= subscriber.stream.topic_bytes
        self._hosts[subscriber.host] -= 1
        if not self._hosts[subscriber.host]:
            del self._hosts[subscriber.host]
        subscriber.close(self._selector)

    def _has_peers(self) -> bool:
        return bool(self._subscribers)

    def _close_all(self) -> None:
        for subscriber in list(self._subscribers):
            self._forget(subscriber)

    def _start_accepting(self) -> None:
        if self._close_by_s is None:
            self._selector.register(self._listening.socket, selectors.EVENT_READ, self._accept)
            self._is_accepting = True

    def _stop_accepting(self) -> None:
        if self._is_accepting:
            self._selector.unregister(self._listening.socket)
            self._is_accepting = False

    def _stop_listening(self) -> None:
        self._stop_accepting()
        self._listening.close()


def _move(flows: tuple[Flow | None, Flow | None], events: int) -> None:
    """Move what a socket is ready for: its first flow is read from it, its second written to."""
    for flow, event in zip(flows, (selectors.EVENT_READ, selectors.EVENT_WRITE), strict=True):
        if flow is not None and events & event:
            flow.move()
