"""Markers of the Lab Streaming Layer (LSL) as marks of a live source.

Theory of operation
-------------------
A mark belongs to a source, whose session clock it is on; so markers are read where the spikes are.
A marker's stamp is on LSL's clock, which on Linux is this host's monotonic clock (markers of other
machines are brought to it by liblsl). The step from there to session time is what batches show:
one arrives some delay after the end of its span, so

    host clock at arrival - ``stop_ns``  =  offset of the clocks + delay of the acquisition

The smallest of the last minute is taken for the offset. Marks are therefore early by the smallest
delay, some milliseconds; who has measured it gives it as `delay_ms`, which is added. Hardware
pulses on the acquisition system are exact, and better wherever there are some.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from contracts.clock import MAX_SESSION_NS, NS_PER_S, Clock, second_to_ns
from contracts.errors import UserError
from contracts.population import Population
from contracts.spikes import Mark, SpikeBatch
from contracts.wire_header import MAX_TEXT
from stream_sources.live import LiveSource

WINDOW_S = 60
"""Over which the smallest delay is looked for. Two clocks whose rates differ by 20 millionths, as
those of acquisition systems may, drift 1.2 ms apart in it."""

MARKS_AT_ONCE = 100
"""Markers that are read between two batches; the daemon takes a thousand marks a second."""

MAX_STAMP_S = 2.0**62 / NS_PER_S

MAX_WAITING = 10_000
"""Markers that wait for the source, as before its first batch; later ones are dropped."""

PULL_S = FIND_EVERY_S = 0.1
CLOSE_S = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LslMarksOptions:
    """Which LSL stream, by its name, and how late the acquisition is at the least."""

    name: str
    delay_ms: float = 0.0


@dataclass(slots=True)
class LslMarksCounters:
    """What became of the markers; `smallest_offset_ms` is host minus session time."""

    n_marks: int = 0
    n_refused: int = 0
    n_dropped: int = 0  # more than may wait
    n_streams: int = 0  # found, one after the other
    smallest_offset_ms: float = 0.0


class HostOffset:
    """The smallest difference of host and session time of the last `WINDOW_S` seconds, ns."""

    def __init__(self) -> None:
        self._smallest: deque[tuple[int, int]] = deque()  # second of the host clock, smallest in it

    def add(self, host_ns: int, session_ns: int) -> None:
        """Take note of a batch that ends at `session_ns` and has arrived at `host_ns`."""
        second, offset_ns = host_ns // NS_PER_S, host_ns - session_ns
        if self._smallest and self._smallest[-1][0] == second:
            offset_ns = min(offset_ns, self._smallest.pop()[1])
        self._smallest.append((second, offset_ns))
        while self._smallest[0][0] <= second - WINDOW_S:
            self._smallest.popleft()

    @property
    def ns(self) -> int | None:
        """The offset; None before the first batch."""
        return min(offset_ns for _, offset_ns in self._smallest) if self._smallest else None


class LslMarkedSource:
    """A live source with marks of an LSL stream beside its own; a `LiveSource` itself.

    The stream need not be there yet, and may go and come back. What is played faster than it was
    recorded has no step to session time: a source must be live, or be replayed in real time.

    Raises
    ------
    UserError
        If the name is empty or has a quotation mark, which LSL cannot look for.
    """

    def __init__(self, source: LiveSource, options: LslMarksOptions, clock: Clock) -> None:
        if not options.name or set("'\"") & set(options.name):
            raise UserError(
                f"--lsl-marks must be the name of an LSL stream, got {options.name!r:.100}."
            )
        self.counters = LslMarksCounters()
        self._source, self._clock = source, clock
        self._delay_ns = round(options.delay_ms * 1e6)
        self._reader = _MarkerReader(options.name)
        self._offset = HostOffset()
        self._run = ""

    @property
    def stream(self) -> str:
        """The name of the source's stream."""
        return self._source.stream

    @property
    def run(self) -> str:
        """The run of the source."""
        return self._source.run

    @property
    def label(self) -> str:
        """Where the spikes come from."""
        return self._source.label

    @property
    def population(self) -> Population:
        """The units of the source."""
        return self._source.population

    @property
    def n_spikes(self) -> int | None:
        """Spikes that the source will send, if it knows."""
        return self._source.n_spikes

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """What the source will send, if it knows."""
        return self._source.span_ns

    @property
    def table(self) -> str:
        """How the source's unit table was made."""
        return str(getattr(self._source, "table", ""))

    @property
    def session_start_utc(self) -> str:
        """When session time was zero, if the source knows."""
        return str(getattr(self._source, "session_start_utc", ""))

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches alone."""
        return (message for message in self.messages() if isinstance(message, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield no marks: they come with `messages`."""
        return iter(())

    def messages(self) -> Iterator[SpikeBatch | Mark | None]:
        """Yield what the source does, and a mark for each marker."""
        for message in self._source.messages():
            if isinstance(message, SpikeBatch):
                if message.run != self._run:  # another acquisition has another session clock
                    self._run, self._offset = message.run, HostOffset()
                self._offset.add(self._clock.now_ns(), message.stop_ns)
            yield message
            yield from self._new_marks()

    def close(self) -> None:
        """Close the source."""
        self._reader.close()
        self._source.close()

    def _new_marks(self) -> Iterator[Mark]:
        offset_ns = self._offset.ns
        if offset_ns is None:  # they wait until there is a clock to put them on
            return
        self.counters.smallest_offset_ms = offset_ns / 1e6
        self.counters.n_streams = self._reader.n_streams
        self.counters.n_dropped = self._reader.n_dropped
        for text, stamp_s in self._reader.take(MARKS_AT_ONCE):
            if len(text) > MAX_TEXT or not abs(stamp_s) < MAX_STAMP_S or math.isnan(stamp_s):
                self._refuse(text, stamp_s)
                continue
            time_ns = second_to_ns(stamp_s) - offset_ns + self._delay_ns
            if not -MAX_SESSION_NS <= time_ns <= MAX_SESSION_NS:
                self._refuse(text, stamp_s)
                continue
            number = self.counters.n_marks
            self.counters.n_marks += 1
            yield Mark(self.stream, self._run, time_ns, time_ns, text, number)

    def _refuse(self, text: str, stamp_s: float) -> None:
        if not self.counters.n_refused:
            logger.warning(
                "markers are refused: the first is too long, or has no time",
                extra={"characters": len(text), "stamp_s": stamp_s},
            )
        self.counters.n_refused += 1


class _MarkerReader:
    """Reads one LSL stream, found by its name, on a thread of its own.

    A first sample may take liblsl seconds, in which it asks for the sender's clock; a live source
    must not wait for that. Both counters are written by the thread alone.
    """

    def __init__(self, name: str) -> None:
        # Here, so that a package that is missing stops the start.
        import pylsl

        self.n_streams = self.n_dropped = 0
        self._pylsl: Any = pylsl
        self._name = name
        self._waiting: SimpleQueue[tuple[str, float]] = SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lsl-{name}", daemon=True)
        self._thread.start()

    def take(self, limit: int) -> Iterator[tuple[str, float]]:
        """Yield text and stamp (LSL's clock of this host, seconds) of at most `limit` markers."""
        for _ in range(limit):
            try:
                yield self._waiting.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        """Stop reading. A thread that asks for a clock is left behind; it ends by itself."""
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        resolver = self._pylsl.ContinuousResolver("name", self._name)
        while not self._stop.wait(FIND_EVERY_S):
            try:
                if (info := self._find(resolver)) is not None:
                    self._read(info)
            except Exception:  # the top of a thread: the next stream may be readable
                logger.exception("LSL markers could not be read")

    def _find(self, resolver: Any) -> Any:
        irregular = self._pylsl.IRREGULAR_RATE
        found = [info for info in resolver.results() if info.nominal_srate() == irregular]
        return found[0] if found else None

    def _read(self, info: Any) -> None:
        """Read a stream until it is lost, as one without ``source_id`` may be, or to stop."""
        inlet = self._pylsl.StreamInlet(info, processing_flags=self._pylsl.proc_clocksync)
        self.n_streams += 1
        fields = {"stream_name": self._name, "source_id": info.source_id()}
        logger.info("LSL markers found", extra=fields)
        while not self._stop.is_set():
            try:
                sample, stamp_s = inlet.pull_sample(timeout=PULL_S)
            except UnicodeDecodeError:  # a text of another encoding; its stamp is lost with it
                sample, stamp_s = ["(not UTF-8)"], math.nan
            except self._pylsl.util.LostError:
                return
            if sample is None:
                continue
            if self._waiting.qsize() >= MAX_WAITING:
                self.n_dropped += 1
            else:
                self._waiting.put((",".join(map(str, sample)), float(stamp_s)))
