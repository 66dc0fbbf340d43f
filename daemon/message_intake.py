"""Intake: what becomes of one message of a source. A message enters as parts, and leaves typed.

A message that does not follow the wire format is dropped, counted with a reason and logged at most
once a second; nothing that a peer sends raises. What becomes of a hello or a batch is decided by
`daemon.stream_registry` and `daemon.stream_clocks`; here it is counted, and logged when a stream
joins, ends, restarts, jumps, is set aside or comes back. No message of a source ends the daemon: a
hello that is refused is kept in `refusals`, for `daemon.service.monitor`.

Which connection is read, and when, is `daemon.ingest`.

Invariants (``tests/daemon/test_ingest.py``):

1. Whatever is sent, nothing raises and every message is counted: ``test_noise_never_raises``
2. Only the malformed message is dropped:
   ``test_hostile_message_is_counted_and_the_next_one_taken``
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from contracts.clock import Clock, ns_to_second
from contracts.errors import PopulationMismatchError, WireError, shown
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import unpack
from contracts.wire_header import hello_run
from daemon.bin_ring import MAX_STREAMS
from daemon.counters import Counters
from daemon.hello_reader import HelloReader
from daemon.rate_limited_log import RateLimitedLog
from daemon.source_clocks import SourceClocks
from daemon.source_connection import SourceConnection
from daemon.stream_clocks import Step
from daemon.stream_registry import Accepted, StreamRegistry
from peer_guard.source_stream import Part

HELLO_PARTS = 2

MARK_COST_BYTES = 128
"""Charged for every mark in addition to its bytes."""

MAX_NAME_BYTES = 65
"""One more than a stream's name may have."""

MAX_DETAIL = 1000
"""Characters in a log line about what was wrong with a message."""

TWO_SOURCES = "two sources send under one name"

logger = logging.getLogger(__name__)


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


class MessageIntake:
    """Turns the messages of sources into what concerns the ring. Used by one thread."""

    def __init__(self, registry: StreamRegistry, counters: Counters, clock: Clock) -> None:
        self.registry = registry
        self.source_clocks = SourceClocks(clock)
        self.hellos = HelloReader(clock, registry.n_units)
        # The newest refused hello of each stream, by name; of 64 streams at most.
        self.refusals: dict[str, Refusal] = {}
        self._counters = counters
        self._clock = clock
        self._log = RateLimitedLog(logger, clock)

    def read(self, parts: list[Part], connection: SourceConnection) -> Iterable[Ingested]:
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
        self, mark: Mark, n_bytes: int, connection: SourceConnection
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

    def _read_hello(self, parts: list[Part], connection: SourceConnection) -> Iterable[Ingested]:
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
            hello = self.hellos.read(parts, connection.budget)
        except WireError as error:
            self._drop(error.reason, str(error))
            return ()
        return () if hello is None else self._register(hello, connection)

    def take_hello(self, connection: SourceConnection) -> Iterable[Ingested] | None:
        """Take a hello that a thread has read by now; None if there is none."""
        pending = connection.budget.pending
        if pending is None or not pending.done():
            return None
        connection.budget.pending = None
        try:
            return self._register(pending.result(), connection)
        except WireError as error:
            self._drop(error.reason, str(error))
            return ()

    def _register(self, hello: Hello, connection: SourceConnection) -> Iterable[Ingested]:
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
