"""How far the clocks of sources on other machines are off, and how sure that is.

Theory of operation
-------------------
A source's stamps are of its own machine's clock. It is asked for the time with a ping, which it
answers with its next batch, so that four stamps are known::

    daemon's clock   sent_ns ──┐                      ┌──► received_ns
    source's clock             └──► ping came ... batch sent

Whatever the way took in either direction: the ping came after it was sent, and the batch was sent
before it was received. So the offset, the daemon's clock minus the source's, lies between
``sent_ns - came_ns`` and ``received_ns - batch_sent_ns``, which are a round trip apart. Until the
next answer both bounds move apart by what two clocks may drift; where they overlap with the next
interval is the new one. Its middle is the estimate, half of its width the error.

Invariants (``tests/daemon/test_source_clocks.py``):

1. The true offset is within the error, however unequal the two ways are, while the clocks drift by
   no more than `MAX_DRIFT`: ``test_the_truth_is_within_the_error``
2. Only the answer to a ping that was sent on the same connection counts:
   ``test_only_answers_to_own_pings_count``
3. A source on this machine is not asked: ``test_one_clock_needs_no_estimate``

References
----------
Marzullo and Owicki, Maintaining the time in a distributed system, 1983; RFC 5905, section 8.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from contracts.clock import NS_PER_S, Clock, host_clock_id, ns_to_second
from contracts.spikes import Hello, SpikeBatch
from daemon.rate_limited_log import RateLimitedLog

MAX_DRIFT = 1e-3
"""Of two clocks against each other: NTP speeds either up or slows it down by 500 ppm at most, which
is more than a crystal is off."""

PING_NS = NS_PER_S
"""The bounds drift apart by a millisecond meanwhile."""

MAX_PINGS = 8
"""Sent and not answered that are remembered, for each connection: longer ways give no answer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ping:
    """One that was sent: its number, and when, on the daemon's clock."""

    number: int
    sent_ns: int


@dataclass(slots=True)
class OffsetBounds:
    """Between which two numbers of nanoseconds an offset lies, and when that was known."""

    low_ns: int
    high_ns: int
    at_ns: int

    def widened(self, now_ns: int) -> OffsetBounds:
        """Return what is still sure at another time."""
        drift_ns = _drift_ns(now_ns - self.at_ns)
        return OffsetBounds(self.low_ns - drift_ns, self.high_ns + drift_ns, now_ns)

    def overlap(self, other: OffsetBounds) -> OffsetBounds | None:
        """Return what both of the same time allow; None if they contradict each other."""
        low_ns, high_ns = max(self.low_ns, other.low_ns), min(self.high_ns, other.high_ns)
        return OffsetBounds(low_ns, high_ns, self.at_ns) if low_ns <= high_ns else None

    @property
    def offset_s(self) -> float:
        """The middle, seconds."""
        return ns_to_second(self.low_ns + self.high_ns) / 2

    @property
    def error_s(self) -> float:
        """Half of the width, seconds."""
        return ns_to_second(self.high_ns - self.low_ns) / 2


def offset_bounds(
    sent_ns: int, came_ns: int, batch_sent_ns: int, received_ns: int
) -> OffsetBounds | None:
    """Return what one answer tells; None if no clocks can have given such stamps.

    `sent_ns` and `received_ns` are of the daemon's clock, the two between of the source's.
    """
    drift_ns = _drift_ns(received_ns - sent_ns)  # while the source rested, most of all
    low_ns = sent_ns - came_ns - drift_ns
    high_ns = received_ns - batch_sent_ns + drift_ns
    if came_ns > batch_sent_ns or low_ns > high_ns:
        return None
    return OffsetBounds(low_ns, high_ns, received_ns)


@dataclass(slots=True)
class _SourceClock:
    """What is known of one stream's clock."""

    run: str
    connection: int
    is_ours: bool
    bounds: OffsetBounds | None = None
    longest_ns: int | None = None  # received minus sent, of the batches since the last report


@dataclass(frozen=True, slots=True)
class ClockReport:
    """Seconds by stream: offset and error of other machines' clocks, and the delay of batches.

    Streams whose clock is not known are left out; those on this machine have a delay alone.
    """

    offset_s: dict[str, float]
    error_s: dict[str, float]
    delay_s: dict[str, float]


class SourceClocks:
    """The clocks of all streams. For the fast loop, but for `next_ping`.

    `own_id` names the daemon's own clock.
    """

    def __init__(self, clock: Clock, own_id: str | None = None) -> None:
        self._clock = clock
        self._own_id = host_clock_id() if own_id is None else own_id
        self._log = RateLimitedLog(logger, clock)
        self._streams: dict[str, _SourceClock] = {}
        self._asked: set[int] = set()  # connections
        # By connection, the newest first; replaced as a whole by the thread that sends.
        self._pings: dict[int, tuple[Ping, ...]] = {}

    def begin(self, hello: Hello, connection: int) -> None:
        """Take up a stream, or a new run of one."""
        is_ours = hello.clock_id == self._own_id
        if hello.clock_id:
            self._streams[hello.stream] = _SourceClock(hello.run, connection, is_ours)
        else:  # an older source, or another program: it would not answer
            self._streams.pop(hello.stream, None)
        if hello.clock_id and not is_ours:
            self._asked.add(connection)
        else:
            self._asked.discard(connection)

    def next_ping(self, connection: int) -> int | None:
        """Return the number of a ping to be sent now; None if none is due.

        Called by the thread of a connection.
        """
        if connection not in self._asked:
            return None
        pings, now_ns = self._pings.get(connection, ()), self._clock.now_ns()
        if pings and now_ns - pings[0].sent_ns < PING_NS:
            return None
        number = secrets.randbits(63)
        self._pings[connection] = (Ping(number, now_ns), *pings[: MAX_PINGS - 1])
        return number

    def take(self, batch: SpikeBatch, connection: int) -> None:
        """Take in a batch's stamps, and the answer that it may bring."""
        source = self._streams.get(batch.stream)
        if source is None or source.run != batch.run or source.connection != connection:
            return
        if not batch.sent_host_ns:
            return
        took_ns = batch.received_host_ns - batch.sent_host_ns
        if source.longest_ns is None or took_ns > source.longest_ns:
            source.longest_ns = took_ns
        if batch.echo is not None and not source.is_ours:
            self._take_answer(source, batch)

    def _take_answer(self, source: _SourceClock, batch: SpikeBatch) -> None:
        echo = batch.echo
        sent = [
            ping.sent_ns
            for ping in self._pings.get(source.connection, ())
            if echo is not None and ping.number == echo.ping
        ]
        if echo is None or not sent:
            return  # another daemon's
        stamps = (sent[0], echo.received_host_ns, batch.sent_host_ns, batch.received_host_ns)
        bounds = offset_bounds(*stamps)
        fields: dict[str, object] = {"stream": batch.stream}
        if bounds is None:
            self._log.warning(f"impossible {batch.stream}", "stamps of no clock", extra=fields)
            return
        known = source.bounds
        source.bounds = bounds if known is None else known.widened(bounds.at_ns).overlap(bounds)
        if source.bounds is None:  # the machine slept, or its clock was set
            source.bounds = bounds
            self._log.warning(
                f"stepped {batch.stream}", "a source's clock has stepped", extra=fields
            )
        elif known is None:
            fields |= {"offset_s": bounds.offset_s, "error_s": bounds.error_s}
            self._log.info(f"known {batch.stream}", "a source's clock is known", extra=fields)

    def report(self) -> ClockReport:
        """Return what is known now; delays are the longest since the report before."""
        report, now_ns = ClockReport({}, {}, {}), self._clock.now_ns()
        for name, source in self._streams.items():
            longest_ns, source.longest_ns = source.longest_ns, None
            offset_s = 0.0
            if not source.is_ours:
                if source.bounds is None:
                    continue
                bounds = source.bounds.widened(now_ns)
                offset_s = report.offset_s[name] = bounds.offset_s
                report.error_s[name] = bounds.error_s
            if longest_ns is not None:
                report.delay_s[name] = ns_to_second(longest_ns) - offset_s
        return report


def _drift_ns(elapsed_ns: int) -> int:
    return round(abs(elapsed_ns) * MAX_DRIFT) + 1
