"""Ingest: which connection is read, and when. Here a spike first enters the daemon.

Theory of operation
-------------------
Each source has a connection of its own (`peer_guard.source_reader`), read without waiting, one
message of each in turn. What becomes of a message is decided by `daemon.message_intake`.

Two things leave a connection unread, so that its messages wait in the system's queues and a
lossless source waits with them:

* its streams are further ahead of the others than the ring can hold: probes that are replayed side
  by side lose nothing;
* the hand-over is full (`is_held`), under the policy ``all``.

A stream that is left unread is waiting and not silent, and must not be declared blind. A third
thing leaves a connection unread for a moment: a large hello of it is being read by a thread
(`daemon.hello_reader`).

Invariants (``tests/daemon/test_ingest.py``, 1 in ``test_window_selection.py`` too):

1. What is left unread is not lost: ``test_full_hand_over_holds_the_source``,
   ``test_flood_of_bad_messages_is_left_unread``
2. Nothing overtakes a hello that is being read: ``test_large_hello_is_read_by_a_thread_in_order``
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from contracts.address import check_connectable
from contracts.clock import Clock, ns_to_second
from contracts.keys import ClientKeys
from contracts.wire import MAX_MESSAGE_BYTES
from daemon.counters import Counters
from daemon.message_intake import Ingested, MessageIntake, Refusal
from daemon.source_clocks import SourceClocks
from daemon.source_connection import SourceConnection, SourceMessages
from daemon.stream_registry import StreamRegistry
from peer_guard.source_reader import SourceReader
from peer_guard.source_stream import SourceLimits

LIMITS = SourceLimits(part_bytes=MAX_MESSAGE_BYTES, message_bytes=2 * MAX_MESSAGE_BYTES, parts=16)
"""Beyond them a source is disconnected: above any message of the wire format, which is told what is
wrong with it, and below what could fill the memory."""


class Ingest:
    """A connection to each source, read without waiting, and by one thread.

    `is_ahead` tells whether a stream, by name, is so far ahead that its connection should be left
    unread.
    """

    def __init__(
        self,
        registry: StreamRegistry,
        counters: Counters,
        clock: Clock,
        is_ahead: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._intake = MessageIntake(registry, counters, clock)
        # Set by the caller once windows may be cut: `FastLoop.settle`.
        self.is_settled = False
        # Whether the last `receive` left nothing unread in any connection that it reads. Only then
        # is a stream without a new message silent, and not just unread.
        self.is_drained = False
        # Set by the caller while nothing is to be read: the hand-over is full.
        self.is_held = False
        self._counters = counters
        self._clock = clock
        self._is_ahead = is_ahead
        self._readers: list[SourceReader] = []
        self._connections: list[SourceConnection] = []
        # Read and not yet yielded: a jump that is confirmed brings many batches at once.
        self._ready: deque[Ingested] = deque()

    def connect(
        self, addresses: Sequence[str], keys: Sequence[ClientKeys | None] | None = None
    ) -> None:
        """Subscribe to sources, which need not be up yet, with or without keys for each.

        Raises
        ------
        UserError
            If an address cannot be one.
        """
        keys = keys or [None] * len(addresses)
        for address, of_address in zip(addresses, keys, strict=True):
            target = check_connectable(address, setting="ingest.connect")
            next_ping = partial(self.source_clocks.next_ping, len(self._connections))
            reader = SourceReader(target, LIMITS, of_address, next_ping)
            self._readers.append(reader)
            self.add(reader)

    def add(self, reader: SourceMessages) -> None:
        """Take messages from one more connection."""
        connection = SourceConnection(
            len(self._connections), reader, self._intake.hellos.new_budget()
        )
        connection.up_to_date_ns = self._clock.now_ns()
        self._connections.append(connection)

    def receive(
        self, *, max_messages: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Ingested]:
        """Yield what has arrived and concerns the ring, up to a number of messages.

        Called on the fast loop; never waits. Each connection is read once, and again only if it
        brought so much that more may be there: once the daemon is up to date, a window need not
        wait for what comes meanwhile. `should_stop` is called after each value; what one
        message brought beyond that is yielded by the next call. Unit indices of a `SpikeBatch` are
        rows of the encoder's population, a `Hello` is of a new run, a `StreamEnd` of a known one.
        """
        self.is_drained = False
        self._counters.wire_errors["jump"] = self.registry.clocks.n_dropped  # by silence, too
        unread = deque(self._connections)
        for connection in unread:
            connection.may_have_more = True
        while True:
            while self._ready and not self.is_held:
                yield self._ready.popleft()
                if should_stop():
                    return
            if not (unread and max_messages):
                break
            connection = unread.popleft()
            if (hello := self._intake.take_hello(connection)) is not None:
                self._ready.extend(hello)
                unread.appendleft(connection)
                continue
            # Asked again before each message: the batch just yielded may have put it ahead.
            waits = self._waits(connection) or self._is_too_bad(connection)
            parts = None if waits else connection.take()
            if parts is None:
                connection.up_to_date_ns = self._clock.now_ns()
                continue
            unread.append(connection)  # in turn, so that a fast source cannot starve a slow one
            max_messages -= 1
            self._counters.messages_received += 1
            self._ready.extend(self._intake.read(parts, connection))
            if not self._ready and should_stop():
                return
        self.is_drained = not (unread or self._ready)

    @property
    def registry(self) -> StreamRegistry:
        """The streams that have said hello."""
        return self._intake.registry

    @property
    def source_clocks(self) -> SourceClocks:
        """The clocks of the sources."""
        return self._intake.source_clocks

    @property
    def refusals(self) -> Mapping[str, Refusal]:
        """The newest refused hello of each stream, by name."""
        return self._intake.refusals

    @property
    def poll_fds(self) -> list[int]:
        """What becomes readable when there is something to receive."""
        return [fd for source in self._read_now() for fd in source.reader.poll_fds]

    @property
    def has_messages(self) -> bool:
        """Whether something was read already and not yet received."""
        if self._ready and not self.is_held:
            return True
        return any(source.reader.has_messages for source in self._read_now())

    def _read_now(self) -> Iterator[SourceConnection]:
        """Yield the connections that should be read."""
        for source in self._connections:
            if not (self._waits(source) or self._is_too_bad(source)):
                yield source

    @property
    def have_all_said_hello(self) -> bool:
        """Whether a stream has said hello on every connection."""
        return all(connection.streams for connection in self._connections)

    def lag_ns(self, now_ns: int) -> int:
        """Return how long messages of live sources have waited for `receive`, at most.

        Zero if none waits, and of connections that are left unread on purpose. What waits has come
        since all of a connection was taken last. May be called by any thread.
        """
        return max(
            (
                now_ns - source.up_to_date_ns
                for source in self._connections
                if source.is_live and source.reader.has_messages
            ),
            default=0,
        )

    def waiting_streams(self) -> set[str]:
        """Return the streams that are left unread until others have caught up: not silent ones."""
        waiting = filter(self._waits, self._connections)
        return {name for source in waiting for name in source.streams}

    def dropped(self) -> dict[str, int]:
        """Return how many connections to sources were cut, by reason."""
        total: Counter[str] = Counter()
        for reader in self._readers:
            total.update(reader.dropped)
        return dict(total)

    def close(self) -> None:
        """Close the connections, end the threads, and count what was held back."""
        self.registry.clocks.close()
        self._counters.wire_errors["jump"] = self.registry.clocks.n_dropped
        self._intake.hellos.close()
        for connection in self._connections:
            connection.is_live = False  # what it still sends waits for nobody
        for reader in self._readers:
            reader.close()
        for reader in self._readers:
            reader.wait()

    def _is_too_bad(self, connection: SourceConnection) -> bool:
        """Whether a connection has had more bad messages than may be; not a reason to wait for."""
        if connection.bad.is_full:
            return False  # without a look at the clock
        return connection.bad.available(ns_to_second(self._clock.now_ns())) <= 0

    def _waits(self, connection: SourceConnection) -> bool:
        if connection.budget.pending is not None:
            return True
        # Only if all of its streams are ahead: one of them may be the one that others wait for.
        streams = connection.streams
        return self.is_held or (bool(streams) and all(map(self._is_ahead, streams)))
