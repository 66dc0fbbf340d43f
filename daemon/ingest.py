"""Ingest: a message becomes a SpikeBatch. Here a spike first enters the daemon.

Theory of operation
-------------------
Each source has a SUB socket of its own, read without waiting, one message of each in turn. A
message that does not follow the wire format is dropped, counted with a reason and logged at most
once a second; nothing that a peer sends raises.

Two things leave a socket unread, so that its messages wait in ZeroMQ's queues and a lossless
source waits with them:

* its streams are further ahead of the others than the ring can hold: probes that are replayed side
  by side lose nothing;
* the hand-over is full (`is_held`), under the policy ``all``.

A stream that is left unread is waiting and not silent, and must not be declared blind.

Invariants (``tests/daemon/test_ingest.py``, 3 in ``test_window_selection.py``):

1. Whatever is sent, nothing raises and every message is counted: ``test_noise_never_raises``
2. Only the malformed message is dropped:
   ``test_hostile_message_is_counted_and_the_next_one_taken``
3. What is left unread is not lost: ``test_full_hand_over_holds_the_source``
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import zmq

from contracts.clock import Clock
from contracts.errors import PopulationMismatchError, UserError, WireError
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import MAX_MESSAGE_BYTES, unpack
from contracts.wire_header import hello_run
from daemon.bin_ring import MAX_STREAMS
from daemon.counters import Counters
from daemon.rate_limited_log import RateLimitedLog
from daemon.stream_registry import StreamRegistry

QUEUE_MESSAGES = 2000
"""Messages that wait in each socket: 20 s of 10 ms batches, so a slow encode loses nothing."""

HELLO_PARTS = 2

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _SourceConnection:
    """One source's socket, and the streams that have said hello on it."""

    socket: zmq.Socket[bytes]
    streams: set[str] = field(default_factory=set)


class Ingest:
    """A SUB socket for each source, read without waiting.

    Sockets are created in the thread that calls `connect`, and belong to it. `is_ahead` tells
    whether a stream, by name, is so far ahead that its socket should be left unread.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        registry: StreamRegistry,
        counters: Counters,
        clock: Clock,
        is_ahead: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.registry = registry
        # Set by the caller once every unit of the encoder is announced. Until then a population
        # that does not match is the user's error and is raised; then it is a peer's and is counted.
        self.is_settled = False
        # Whether the last `receive` left nothing unread in any socket that it reads. Only then is a
        # stream without a new message silent, and not just unread.
        self.is_drained = False
        # Set by the caller while nothing is to be read: the hand-over is full.
        self.is_held = False
        self._counters = counters
        self._clock = clock
        self._log = RateLimitedLog(logger, clock)
        self._is_ahead = is_ahead
        self._context = context
        self._connections: list[_SourceConnection] = []

    def connect(self, addresses: Sequence[str]) -> None:
        """Subscribe to sources; they need not be up yet.

        Raises
        ------
        UserError
            If an address cannot be one.
        """
        for address in addresses:
            socket = self._context.socket(zmq.SUB)
            self._connections.append(_SourceConnection(socket))
            socket.set(zmq.RCVHWM, QUEUE_MESSAGES)
            # A SUB socket without a limit would take all memory while the loop encodes; with one it
            # drops what a live source sends, and the holes in `seq` are counted.
            # libzmq cuts the connection of a peer that sends more: no message can take the memory.
            socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            socket.set(zmq.LINGER, 0)
            socket.subscribe(b"")
            try:
                socket.connect(address)
            except zmq.ZMQError as error:
                raise UserError(
                    "ingest.connect must list addresses such as tcp://127.0.0.1:5570, "
                    f"got {address!r}: {error}"
                ) from error

    def receive(
        self, *, max_messages: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[SpikeBatch | StreamEnd | Hello]:
        """Yield what has arrived and concerns the ring, up to a number of messages.

        Called on the fast loop; never waits. One message may hold several values, and is always
        yielded whole; `should_stop` is called after each. Unit indices of a `SpikeBatch` are rows
        of the encoder's population, a `Hello` is of a new stream, a `StreamEnd` of a known one.

        Raises
        ------
        PopulationMismatchError
            While not yet settled, if a stream has units that the encoder does not know.
        """
        self.is_drained = False
        unread = deque(self._connections)
        while unread and max_messages:
            connection = unread.popleft()
            # Asked again before each message: the batch just yielded may have put it ahead.
            if self._waits(connection):
                continue
            try:
                parts = connection.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                continue
            unread.append(connection)  # in turn, so that a fast source cannot starve a slow one
            max_messages -= 1
            self._counters.messages_received += 1
            # Yielded whole, even if the loop wants to stop: a confirmed jump is two batches, and
            # both are counted as received.
            for message in self._read(parts):
                if isinstance(message, Hello):
                    connection.streams.add(message.stream)
                yield message
            if should_stop():
                return
        self.is_drained = not unread

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets that should be read now, to be polled by the loop."""
        return [source.socket for source in self._connections if not self._waits(source)]

    def waiting_streams(self) -> set[str]:
        """Return the streams that are left unread until others have caught up: not silent ones."""
        waiting = filter(self._waits, self._connections)
        return {name for source in waiting for name in source.streams}

    def close(self) -> None:
        """Close the sockets."""
        for connection in self._connections:
            connection.socket.close()

    def _waits(self, connection: _SourceConnection) -> bool:
        # Only if all of its streams are ahead: one of them may be the one that others wait for.
        streams = connection.streams
        return self.is_held or (bool(streams) and all(map(self._is_ahead, streams)))

    def _read(self, parts: list[bytes]) -> Iterable[SpikeBatch | StreamEnd | Hello]:
        """Return what concerns the ring."""
        # Sources repeat their hello every second, with a table of hundreds of units. Most are told
        # from the topic and the run, without unpacking it.
        if self._is_repeated_hello(parts):
            self._counters.hellos_received += 1
            return ()
        try:
            message = unpack(parts, received_host_ns=self._clock.now_ns())
        except WireError as error:
            self._drop(error.reason, str(error))
            return ()
        match message:
            case SpikeBatch():
                return self._accept(message)
            case Hello() if self._is_new(message):
                return (message,)
            case StreamEnd() if self._has_ended(message):
                return (message,)
            case Mark():
                self._counters.marks_received += 1
        return ()

    def _is_repeated_hello(self, parts: list[bytes]) -> bool:
        kind, _, name = parts[0].partition(b".")
        if kind != b"hello" or len(parts) != HELLO_PARTS:
            return False
        known = self.registry.streams.get(name.decode(errors="replace"))
        return known is not None and known.hello.run == hello_run(parts[1])

    def _accept(self, batch: SpikeBatch) -> tuple[SpikeBatch, ...]:
        accepted = self.registry.accept(batch)
        self._counters.batches_lost += accepted.n_lost
        if accepted.dropped == "duplicate":
            self._counters.batches_duplicate += 1
        elif accepted.dropped == "jump":
            self._drop("jump", f"a batch of {batch.stream!r} was far from those around it")
        elif accepted.dropped:
            self._drop(accepted.dropped, f"a batch of {batch.stream!r} came before its hello")
        self._counters.spikes_received += sum(taken.n_spikes for taken in accepted.batches)
        return accepted.batches

    def _has_ended(self, end: StreamEnd) -> bool:
        n_lost = self.registry.end(end)
        if n_lost is None:
            self._drop("no_hello", f"the end of {end.stream!r} came before its hello")
            return False
        self._counters.batches_lost += n_lost
        return True

    def _is_new(self, hello: Hello) -> bool:
        self._counters.hellos_received += 1
        # The ring has a bit for each stream; more of them are a flood of names, not probes.
        known = self.registry.streams.get(hello.stream)
        if known is None and len(self.registry.streams) == MAX_STREAMS:
            self._drop("stream", f"{hello.stream!r} is one stream more than the {MAX_STREAMS}")
            return False
        try:
            is_new = self.registry.register(hello, host_ns=self._clock.now_ns())
        except PopulationMismatchError as error:
            # At the start the user has most likely named the wrong bundle or recording, and is
            # there to read it. Later some peer is wrong, and a session is being recorded.
            if not self.is_settled:
                raise
            self._drop("population", str(error))
            return False
        if is_new and known:
            self._counters.stream_restarts += 1
        return is_new

    def _drop(self, reason: str, message: str) -> None:
        self._counters.wire_errors[reason] = self._counters.wire_errors.get(reason, 0) + 1
        self._log.warning(reason, "message dropped", extra={"reason": reason, "detail": message})
