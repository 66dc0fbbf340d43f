"""Ingest: a message becomes a SpikeBatch. Here a spike first enters the daemon.

Theory of operation
-------------------
Each source has a connection of its own (`peer_guard.source_reader`), read without waiting, one
message of each in turn. A message that does not follow the wire format is dropped, counted with a
reason and logged at most once a second; nothing that a peer sends raises.

Two things leave a connection unread, so that its messages wait in the system's queues and a
lossless source waits with them:

* its streams are further ahead of the others than the ring can hold: probes that are replayed side
  by side lose nothing;
* the hand-over is full (`is_held`), under the policy ``all``.

A stream that is left unread is waiting and not silent, and must not be declared blind. A third
thing leaves a connection unread for a moment: a large hello of it is being read by a thread
(`daemon.hello_reader`).

What becomes of a hello or a batch is decided by `daemon.stream_registry` and
`daemon.stream_clocks`; here it is counted, and logged when a stream joins, ends, restarts, jumps,
is set aside or comes back. No message of a source ends the daemon: a hello that is refused is
kept in `refusals`, for `daemon.service.monitor`.

Invariants (``tests/daemon/test_ingest.py``, 3 in ``test_window_selection.py``):

1. Whatever is sent, nothing raises and every message is counted: ``test_noise_never_raises``
2. Only the malformed message is dropped:
   ``test_hostile_message_is_counted_and_the_next_one_taken``
3. What is left unread is not lost: ``test_full_hand_over_holds_the_source``,
   ``test_flood_of_bad_messages_is_left_unread``
4. Nothing overtakes a hello that is being read: ``test_large_hello_is_read_by_a_thread_in_order``
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from contracts.address import check_connectable
from contracts.clock import Clock, ns_to_second
from contracts.errors import PopulationMismatchError, WireError, shown
from contracts.keys import ClientKeys
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import MAX_MESSAGE_BYTES, unpack
from contracts.wire_header import hello_run
from daemon.bin_ring import MAX_STREAMS
from daemon.counters import Counters
from daemon.hello_reader import HelloBudget, HelloReader
from daemon.rate_limited_log import RateLimitedLog
from daemon.source_clocks import SourceClocks
from daemon.stream_clocks import Step
from daemon.stream_registry import Accepted, StreamRegistry
from peer_guard.bucket import TokenBucket
from peer_guard.source_reader import SourceReader
from peer_guard.source_stream import Part, SourceLimits

HELLO_PARTS = 2

LIMITS = SourceLimits(part_bytes=MAX_MESSAGE_BYTES, message_bytes=2 * MAX_MESSAGE_BYTES, parts=16)
"""Beyond them a source is disconnected: above any message of the wire format, which is told what is
wrong with it, and below what could fill the memory."""

BAD_PER_S, BAD_AT_ONCE = 100.0, 1000
"""Messages of one connection that break the wire format; beyond them it is left unread for a while.
A flood of them would take the loop's time."""

MARK_BYTES_PER_S, MARK_BYTES_AT_ONCE = 256 << 10, 128 << 10
"""Of marks that are published, for each connection: a thousand a second, five hundred at once, half
of what may wait for one subscriber."""

MARK_COST_BYTES = 128
"""Charged for every mark in addition to its bytes."""

MAX_NAME_BYTES = 65
"""One more than a stream's name may have."""

MAX_DETAIL = 1000
"""Characters in a log line about what was wrong with a message."""

TWO_SOURCES = "two sources send under one name"

logger = logging.getLogger(__name__)


class SourceMessages(Protocol):
    """What ingest needs of the connection to a source: `peer_guard.source_reader.SourceReader`."""

    @property
    def poll_fds(self) -> list[int]:
        """What becomes readable when there is something to take."""

    @property
    def has_messages(self) -> bool:
        """Whether there is something to take."""

    def take(self) -> list[Part] | None:
        """Return the parts of the oldest message that was read; None if there is none."""

    def read(self) -> bool:
        """Read what has arrived, without waiting; return whether more may be there."""


@dataclass(slots=True)
class _SourceConnection:
    """The connection to one source, and the streams that have said hello on it."""

    number: int
    reader: SourceMessages
    budget: HelloBudget
    streams: set[str] = field(default_factory=set)
    bad: TokenBucket = field(default_factory=lambda: TokenBucket(BAD_PER_S, BAD_AT_ONCE))
    marks: TokenBucket = field(
        default_factory=lambda: TokenBucket(MARK_BYTES_PER_S, MARK_BYTES_AT_ONCE)
    )
    may_have_more: bool = True  # than was read in this `Ingest.receive`
    is_live: bool = False  # whether one of its streams does not wait for slow subscribers
    # When nothing was left of it that should have been taken; host clock.
    up_to_date_ns: int = 0

    def take(self) -> list[Part] | None:
        """Return the next message; None once all that had arrived is taken."""
        while not self.reader.has_messages and self.may_have_more:
            self.may_have_more = self.reader.read()
        return self.reader.take()


@dataclass(frozen=True, slots=True)
class SessionStart:
    """The session begins anew with these streams; their first batches follow."""

    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamAside:
    """A stream is no longer waited for: its time does not agree with the others'."""

    stream: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A hello that is refused: why, and when it last came."""

    error: PopulationMismatchError
    host_ns: int


Ingested = SpikeBatch | StreamEnd | Hello | Mark | SessionStart | StreamAside
"""What concerns the ring, and the marks that are published."""


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
        self.registry = registry
        self.source_clocks = SourceClocks(clock)
        # Set by the caller once windows may be cut: `FastLoop.settle`.
        self.is_settled = False
        # The newest refused hello of each stream, by name; of 64 streams at most.
        self.refusals: dict[str, Refusal] = {}
        # Whether the last `receive` left nothing unread in any connection that it reads. Only then
        # is a stream without a new message silent, and not just unread.
        self.is_drained = False
        # Set by the caller while nothing is to be read: the hand-over is full.
        self.is_held = False
        self._counters = counters
        self._clock = clock
        self._log = RateLimitedLog(logger, clock)
        self._is_ahead = is_ahead
        self._readers: list[SourceReader] = []
        self._connections: list[_SourceConnection] = []
        self._hellos = HelloReader(clock, registry.n_units)
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
        connection = _SourceConnection(len(self._connections), reader, self._hellos.new_budget())
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
            if connection.budget.pending is not None and self._take_hello(connection):
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
            self._ready.extend(self._read(parts, connection))
            if not self._ready and should_stop():
                return
        self.is_drained = not (unread or self._ready)

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

    def _read_now(self) -> Iterator[_SourceConnection]:
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
        self._hellos.close()
        for connection in self._connections:
            connection.is_live = False  # what it still sends waits for nobody
        for reader in self._readers:
            reader.close()
        for reader in self._readers:
            reader.wait()

    def _is_too_bad(self, connection: _SourceConnection) -> bool:
        """Whether a connection has had more bad messages than may be; not a reason to wait for."""
        if connection.bad.is_full:
            return False  # without a look at the clock
        return connection.bad.available(ns_to_second(self._clock.now_ns())) <= 0

    def _waits(self, connection: _SourceConnection) -> bool:
        if connection.budget.pending is not None:
            return True
        # Only if all of its streams are ahead: one of them may be the one that others wait for.
        streams = connection.streams
        return self.is_held or (bool(streams) and all(map(self._is_ahead, streams)))

    def _read(self, parts: list[Part], connection: _SourceConnection) -> Iterable[Ingested]:
        """Return what concerns the ring."""
        if parts[0].startswith(b"hello.") and len(parts) == HELLO_PARTS:
            return self._read_hello(parts, connection)
        try:
            message = unpack(parts, received_host_ns=self._clock.now_ns())
        except WireError as error:
            self._drop(error.reason, str(error))
            connection.bad.spend(1)
            return ()
        match message:
            case SpikeBatch():
                self.source_clocks.take(message, connection.number)
                return self._accept(message)
            case StreamEnd() if self._has_ended(message):
                return (message,)
            case Mark():
                return self._take_mark(message, len(parts[1]), connection)
        return ()

    def _take_mark(
        self, mark: Mark, n_bytes: int, connection: _SourceConnection
    ) -> Iterable[Ingested]:
        """Return a mark of a followed run, unless there are too many."""
        self._counters.marks_received += 1
        known = self.registry.streams.get(mark.stream)
        if (
            known is None
            or known.hello.run != mark.run
            or known.connection != connection.number
            or connection.marks.available(ns_to_second(self._clock.now_ns())) <= 0
        ):
            self._counters.marks_dropped += 1
            return ()
        connection.marks.spend(n_bytes + MARK_COST_BYTES)
        return (mark,)

    def _read_hello(self, parts: list[Part], connection: _SourceConnection) -> Iterable[Ingested]:
        # Sources repeat their hello every second, with a table of hundreds of units. Most are told
        # from the topic and the run, without unpacking it.
        topic = parts[0][: len(b"hello.") + MAX_NAME_BYTES]
        name, run = topic.partition(b".")[2].decode(errors="replace"), hello_run(parts[1])
        now_ns = self._clock.now_ns()
        if self.registry.is_taken(name, run, connection=connection.number, host_ns=now_ns):
            self._drop("taken", f"another run says hello for {shown(name)!r}", TWO_SOURCES)
            return ()
        known = self.registry.streams.get(name)
        if known is not None and known.hello.run == run:
            self._counters.hellos_received += 1
            return ()
        if run in connection.budget.refused_runs and (refusal := self.refusals.get(name)):
            self._refuse(name, refusal.error)
            return ()
        try:
            hello = self._hellos.read(parts, connection.budget)
        except WireError as error:
            self._drop(error.reason, str(error))
            return ()
        return () if hello is None else self._register(hello, connection)

    def _take_hello(self, connection: _SourceConnection) -> bool:
        """Take a hello that a thread has read by now; False if there is none."""
        pending = connection.budget.pending
        if pending is None or not pending.done():
            return False
        connection.budget.pending = None
        try:
            self._ready.extend(self._register(pending.result(), connection))
        except WireError as error:
            self._drop(error.reason, str(error))
        return True

    def _register(self, hello: Hello, connection: _SourceConnection) -> Iterable[Ingested]:
        self._counters.hellos_received += 1
        # The ring has a bit for each stream; more of them are a flood of names, not probes.
        known = self.registry.streams.get(hello.stream)
        if known is None and len(self.registry.streams) == MAX_STREAMS:
            self._drop("stream", f"{hello.stream!r} is one stream more than the {MAX_STREAMS}")
            return ()
        try:
            is_new = self.registry.register(
                hello, host_ns=self._clock.now_ns(), connection=connection.number
            )
        except PopulationMismatchError as error:
            if error.extra:  # for good; units that another stream sends may become free
                connection.budget.refused_runs.append(hello.run)
            self._refuse(hello.stream, error)
            return ()
        if not is_new:
            return ()
        self.refusals.pop(hello.stream, None)
        self.source_clocks.begin(hello, connection.number)
        connection.streams.add(hello.stream)
        streams = self.registry.streams
        connection.is_live = not all(streams[name].hello.is_lossless for name in connection.streams)
        self._counters.batches_before += hello.next_seq
        fields = {
            "stream": hello.stream,
            "source": shown(hello.source),
            "n_units": len(hello.population),
            "run": hello.run,
            "n_batches_before": hello.next_seq,
        }
        if known:
            self._counters.stream_restarts += 1
            self._log.warning(f"restart {hello.stream}", "stream restarted", extra=fields)
        else:
            self._log.info(f"join {hello.stream}", "stream joined", extra=fields)
        return (hello,)

    def _refuse(self, name: str, error: PopulationMismatchError) -> None:
        self._drop("population", str(error), "hello refused")
        if name in self.refusals or len(self.refusals) < MAX_STREAMS:
            self.refusals[name] = Refusal(error, self._clock.now_ns())

    def _accept(self, batch: SpikeBatch) -> Iterable[Ingested]:
        if (usual := self.registry.take_usual(batch)) is not None:
            self._counters.spikes_received += usual.n_spikes
            return (usual,)
        accepted = self.registry.accept(batch)
        self._counters.batches_lost += accepted.n_lost
        self._counters.wire_errors["jump"] = self.registry.clocks.n_dropped
        if accepted.dropped == "duplicate":
            self._counters.batches_duplicate += 1
        elif accepted.dropped == "taken":
            self._drop("taken", f"a batch of another run of {batch.stream!r}", TWO_SOURCES)
        elif accepted.dropped:
            self._drop(accepted.dropped, f"a batch of {batch.stream!r} came before its hello")
        if accepted.step is not Step.TAKEN or accepted.came_back:
            self._log_step(batch, accepted)
        self._counters.spikes_received += sum(taken.n_spikes for taken in accepted.batches)
        asides = [StreamAside(name) for name in accepted.unseated]
        if accepted.step is not Step.RESTART:
            return (*asides, *accepted.batches)
        members = tuple({taken.stream: None for taken in accepted.batches})
        return (*asides, SessionStart(members), *accepted.batches)

    def _log_step(self, batch: SpikeBatch, accepted: Accepted) -> None:
        """Log what happened to a stream with a batch that is not like any other."""
        name = batch.stream
        at_s = ns_to_second(batch.start_ns)
        if accepted.step is Step.JUMPED and not accepted.dropped:
            by_s = ns_to_second(self.registry.clocks.offset_ns(name))
            fields = {"stream": name, "at_s": at_s, "ahead_s": by_s}
            self._log.warning(f"jump {name}", "stream's time jumped", extra=fields)
        elif accepted.step is Step.RESTART:
            names = ",".join(sorted({taken.stream for taken in accepted.batches}))
            fields = {"streams": names, "at_s": ns_to_second(accepted.batches[0].start_ns)}
            self._log.warning("session", "session begins anew", extra=fields)
        elif accepted.came_back:
            fields = {"stream": name, "at_s": at_s}
            self._log.info(f"back {name}", "stream is followed again", extra=fields)
        for unseated in accepted.unseated:
            by_s = ns_to_second(self.registry.clocks.offset_ns(unseated))
            fields = {"stream": unseated, "ahead_s": by_s}
            self._log.warning(f"aside {unseated}", "stream is set aside", extra=fields)

    def _has_ended(self, end: StreamEnd) -> bool:
        n_lost = self.registry.end(end)
        self._counters.wire_errors["jump"] = self.registry.clocks.n_dropped
        if n_lost is None:
            self._drop("no_hello", f"the end of {end.stream!r} came before its hello")
            return False
        self._counters.batches_lost += n_lost
        fields = {"stream": end.stream, "n_batches": end.n_batches, "n_lost": n_lost}
        self._log.info(f"end {end.stream}", "stream ended", extra=fields)
        return True

    def _drop(self, reason: str, detail: str, event: str = "message dropped") -> None:
        self._counters.wire_errors[reason] = self._counters.wire_errors.get(reason, 0) + 1
        # A detail may quote what came from outside.
        fields = {"reason": reason, "detail": shown(detail, limit=MAX_DETAIL)}
        self._log.warning(reason, event, extra=fields)
