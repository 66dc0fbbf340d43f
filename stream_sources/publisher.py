"""The publisher: a source's batches onto an XPUB socket.

A new subscriber is greeted with a hello at once, and everybody once a second. Two ways to treat a
subscriber that is too slow:

* live (the default): its messages are dropped, and it sees the hole in ``seq``. Acquisition never
  waits for a subscriber;
* lossless, for replays as fast as possible: the source waits for the slowest subscriber, and
  while there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import zmq

from contracts.address import check_bindable
from contracts.allow_list import ServerKeys
from contracts.clock import NS_PER_S, Clock, host_clock_id
from contracts.errors import UserError
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import pack
from contracts.wire_header import Part
from peer_guard.sockets import bind_guarded
from stream_sources.clock_pings import ClockPings

QUEUE_MESSAGES = 1000
"""Messages that wait for one subscriber: 10 s of 10 ms batches."""

FLUSH_MS = 30_000
"""How long the last messages may take to leave after `SpikePublisher.close`."""

LOSSLESS_FLUSH_MS = 3_600_000
"""The same where nothing may be lost: a subscriber that takes seconds for a batch, because it
narrates it, has an hour for those that wait for it."""

RETRY_MS = 20
"""A lossless source looks this often whether its slowest subscriber has caught up."""


@dataclass(slots=True)
class StreamTotals:
    """What one run of a source has sent so far."""

    n_batches: int = 0
    n_spikes: int = 0
    n_marks: int = 0


class SpikePublisher:
    """Sends one stream.

    Parameters
    ----------
    endpoint : str
        Where to bind: ``tcp://127.0.0.1:5570``; port 0 or ``*`` for any free one.
    is_lossless : bool
        Wait for slow subscribers instead of dropping their messages.
    is_insecure, keys
        Either allows an address that other machines can reach.

    Raises
    ------
    UserError
        If the address is taken, or is not loopback and not allowed.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        hello: Hello,
        clock: Clock,
        *,
        is_lossless: bool = False,
        is_insecure: bool = False,
        keys: ServerKeys | None = None,
    ) -> None:
        wanted = check_bindable(
            endpoint, setting="--bind", is_insecure=is_insecure, has_keys=keys is not None
        )
        self.totals = StreamTotals()
        self.n_subscribers = 0
        self._clock = clock
        self._pings = ClockPings(clock)
        self._is_lossless = is_lossless
        self._hello = self._own(hello)
        self._next_seq = hello.next_seq
        self._next_hello_ns = 0
        self._socket = context.socket(zmq.XPUB)
        self._socket.set(zmq.SNDHWM, QUEUE_MESSAGES)
        # Every subscription and its end arrives here, also the second and later of one topic:
        # newcomers are greeted one by one, and subscribers are counted.
        self._socket.set(zmq.XPUB_VERBOSER, 1)
        # With it a full queue is an error (EAGAIN) that `_try` sees; without it a silent drop.
        self._socket.set(zmq.XPUB_NODROP, int(is_lossless))
        try:
            self._guard = bind_guarded(
                self._socket, wanted, setting="--bind", keys=keys, on_ping=self._pings.add
            )
        except UserError:
            self._socket.close()
            raise
        self.endpoint = self._guard.address

    @property
    def run(self) -> str:
        """The run that is being sent."""
        return self._hello.run

    def begin_run(self, run: str) -> None:
        """Begin a new run of the same units; its hello goes first, and its totals from zero."""
        self.begin(replace(self._hello, run=run, next_seq=0))

    def begin(self, hello: Hello) -> None:
        """Begin a new run, whose units may be others; its batches are counted from `next_seq`."""
        self._hello = self._own(hello)
        self._next_seq = hello.next_seq
        self.totals = StreamTotals()
        self._next_hello_ns = 0

    def serve(self, *, wait_ms: int = 0) -> None:
        """Greet new subscribers, and everybody once a second.

        Waits up to `wait_ms` for a subscriber to come or go.
        """
        if wait_ms:
            self._socket.poll(wait_ms)
        self._read_subscriptions()
        self._greet()

    def send(
        self, message: SpikeBatch | Mark, *, should_give_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """Send a batch or a mark; a lossless publisher waits until everybody can take it.

        `should_give_up` is called while it waits. Returns False if it was given up.
        """
        if isinstance(message, SpikeBatch):
            echo = self._pings.take()
            message = replace(message, sent_host_ns=self._clock.now_ns(), echo=echo)
        if not self._send(pack(message), should_give_up):
            return False
        if isinstance(message, SpikeBatch):
            self._next_seq = message.seq + 1
            self.totals.n_batches += 1
            self.totals.n_spikes += message.n_spikes
        else:
            self.totals.n_marks += 1
        return True

    def send_end(
        self,
        end: StreamEnd | None = None,
        *,
        should_give_up: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Send the end of the stream with its totals; False if it was given up.

        `end` is one that was recorded, and counts batches that are not sent again.
        """
        end = end or StreamEnd(
            stream=self._hello.stream,
            run=self._hello.run,
            n_batches=self._next_seq,
            n_spikes=self.totals.n_spikes,
        )
        return self._send(pack(end), should_give_up)

    def close(self, *, is_urgent: bool = False) -> None:
        """Close the socket; what is queued still leaves, while subscribers take it.

        An urgent close, after a request to stop, drops what is still queued after `FLUSH_MS`, even
        where nothing may be lost.
        """
        linger_ms = LOSSLESS_FLUSH_MS if self._is_lossless and not is_urgent else FLUSH_MS
        self._socket.close(linger=linger_ms)
        self._guard.close(flush_s=linger_ms / 1000)

    def wait(self) -> None:
        """Wait, after `close` and the end of the context, until all of it is with subscribers."""
        self._guard.wait()

    def _own(self, hello: Hello) -> Hello:
        """Return a hello, perhaps one that was recorded, with what is true of this publisher."""
        return replace(hello, is_lossless=self._is_lossless, clock_id=host_clock_id())

    def _send(self, parts: list[Part], should_give_up: Callable[[], bool]) -> bool:
        """Send once, newcomers greeted before."""
        self._read_subscriptions()
        # The hello goes first: a batch is useless to whoever has no unit table yet.
        while not (self._greet() and self._try(parts)):
            if should_give_up():
                return False
            self._socket.poll(RETRY_MS)  # wakes at once when a subscriber leaves
            self._read_subscriptions()
        return True

    def _greet(self) -> bool:
        """Send a hello if it is due; False if it is, and a subscriber cannot take it."""
        now_ns = self._clock.now_ns()
        if now_ns >= self._next_hello_ns:
            if not self._try(pack(replace(self._hello, next_seq=self._next_seq))):
                return False
            self._next_hello_ns = now_ns + NS_PER_S
        return True

    def _try(self, parts: list[Part]) -> bool:
        """Send to everybody; `XPUB_NODROP` refuses a message while anybody's queue is full."""
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _read_subscriptions(self) -> None:
        """Count subscriptions (first byte 1) and their ends (0), and greet newcomers."""
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            event = self._socket.recv()
            action, topic = event[:1], event[1:]
            if not b"spikes".startswith(topic[:6]):
                continue
            if action == b"\x01":
                self.n_subscribers += 1
                self._next_hello_ns = 0
            elif action == b"\x00":
                self.n_subscribers -= 1
