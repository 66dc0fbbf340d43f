"""What a source sends: its identity, its spikes, what was on the screen, its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, NS_PER_S
from contracts.errors import MisuseError
from contracts.population import Population

MAX_SPIKES = 1 << 20
"""Spikes in one batch: 12 MiB on the wire, and 100 times what 10,000 units fire in 0.1 s."""

MAX_SPAN_NS = NS_PER_S
"""The longest span of one batch. The ring is never shorter than a window and two of these."""

TIME_DTYPE = np.dtype(np.int64)
INDEX_DTYPE = np.dtype(np.uint32)
"""Of `SpikeBatch`. Comparing with a dtype is much faster than with the type of a number."""

STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Names of streams: they become part of topics and of metric labels."""

RUN_ID = re.compile(r"[0-9a-f]{16}")
"""One start of one source, so that a restart is not mistaken for a repeat."""

CLOCK_ID = RUN_ID
"""Names of host clocks (`contracts.clock.host_clock_id`)."""

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
"""A time of day in UTC, as RFC 3339 writes it: ``2019-01-19T08:54:18Z``."""


@dataclass(frozen=True, slots=True)
class ClockEcho:
    """A source's answer to a ping: its number, and when it came, on the source's host clock."""

    ping: int
    received_host_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class SpikeBatch:
    """The spikes of one stream in one span of time. Legal once it exists.

    A batch is sent even when it is empty: it states that the span was covered and nothing fired,
    which is not the same as silence on the line.

    Attributes
    ----------
    stream : str
        Letters, digits, ``_`` and ``-``; usually the probe.
    run : str
        Sixteen hex digits, new at each start of the source.
    seq : int
        Counts the batches of this run from 0 without holes.
    start_ns, stop_ns : int
        The span covered, half open, session nanoseconds.
    spike_time_ns : array, shape (n_spikes,), int64, nanoseconds
        Within the span. Need not be sorted.
    unit_index : array, shape (n_spikes,), uint32
        Row in the population that the stream's `Hello` gave.
    sent_host_ns : int
        The source's host clock when it was sent; 0 if unknown.
    echo : ClockEcho or None
        Answers a ping that the source has received before it was sent.
    received_host_ns : int
        The receiver's host clock when it arrived; 0 on the sending side.
    """

    stream: str
    run: str
    seq: int
    start_ns: int
    stop_ns: int
    spike_time_ns: NDArray[np.int64]
    unit_index: NDArray[np.uint32]
    sent_host_ns: int = 0
    received_host_ns: int = 0
    echo: ClockEcho | None = None

    def __post_init__(self) -> None:
        check_span(self.start_ns, self.stop_ns)
        if self.seq < 0:
            raise MisuseError(f"seq must be 0 or more, got {self.seq}")
        times = self.spike_time_ns
        if times.shape != self.unit_index.shape or times.ndim != 1:
            raise MisuseError(
                "a batch needs one unit_index for each spike time, got shapes "
                f"{self.unit_index.shape} and {times.shape}"
            )
        if times.dtype != TIME_DTYPE or self.unit_index.dtype != INDEX_DTYPE:
            raise MisuseError(
                "a batch needs int64 times and uint32 unit indices, got "
                f"{times.dtype} and {self.unit_index.dtype}"
            )
        if times.size:
            if times.size > MAX_SPIKES:
                raise MisuseError(f"a batch may hold {MAX_SPIKES:,} spikes, got {times.size:,}")
            # Most sources send them in order: the first and the last are then those to look at.
            if (times[1:] >= times[:-1]).all():
                first, last = int(times[0]), int(times[-1])
            else:
                first, last = int(times.min()), int(times.max())
            if first < self.start_ns or last >= self.stop_ns:
                raise MisuseError(
                    f"spike times must lie in [{self.start_ns}, {self.stop_ns}) ns, "
                    f"got {first} to {last}"
                )

    def with_units(self, unit_index: NDArray[np.uint32]) -> SpikeBatch:
        """Return it with other unit indices, uint32 of shape (n_spikes,).

        Raises
        ------
        MisuseError
            If they are not. Nothing else is checked again.
        """
        if unit_index.shape != self.unit_index.shape or unit_index.dtype != INDEX_DTYPE:
            raise MisuseError(f"a batch of {self.n_spikes} spikes needs as many uint32 indices")
        batch = object.__new__(SpikeBatch)
        for name in self.__slots__:
            object.__setattr__(batch, name, getattr(self, name))
        object.__setattr__(batch, "unit_index", unit_index)
        return batch

    @property
    def n_spikes(self) -> int:
        """Spikes in this batch."""
        return len(self.spike_time_ns)


def check_span(start_ns: int, stop_ns: int) -> None:
    """Refuse a span that is empty, too long or beyond the clock.

    Raises
    ------
    MisuseError
        With the bounds and what was found.
    """
    if not (-MAX_SESSION_NS <= start_ns < stop_ns <= MAX_SESSION_NS):
        raise MisuseError(f"a span needs start < stop within +-2**62 ns, got {start_ns}, {stop_ns}")
    if stop_ns - start_ns > MAX_SPAN_NS:
        raise MisuseError(
            f"a batch may span {MAX_SPAN_NS} ns, got {stop_ns - start_ns}; send several"
        )


@dataclass(frozen=True, slots=True)
class Hello:
    """Identity of the sender: sent to each new subscriber and once a second.

    Attributes
    ----------
    source : str
        Where the spikes come from, for people: ``nwb:715093703``.
    next_seq : int
        The sequence number that the next batch will have.
    is_lossless : bool
        Whether it waits for slow subscribers, so that waiting is no sign of a slow one.
    session_start_utc : str
        When session time was zero, as `UTC_TIME`; empty where unknown.
    table : str
        How the unit table was made, for people: from which file, and which columns of it.
    clock_id : str
        `contracts.clock.host_clock_id` of a source that answers pings; else empty.
    """

    stream: str
    run: str
    source: str
    population: Population
    next_seq: int = 0
    is_lossless: bool = False
    session_start_utc: str = ""
    table: str = ""
    clock_id: str = ""


def is_utc(text: str) -> bool:
    """Whether a text is a time that exists, in the form of `UTC_TIME`."""
    if not UTC_TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def utc_text(text: str) -> str:
    """Return a time in any ISO 8601 form as `UTC_TIME`; empty if it has no time zone, or is none.

    >>> utc_text("2019-01-19T00:54:18-08:00")
    '2019-01-19T08:54:18Z'
    """
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            return ""
        return f"{when.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
    except (ValueError, OverflowError):
        return ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was shown: one stimulus presentation.

    Attributes
    ----------
    start_ns, stop_ns : int
        When it was on the screen, session nanoseconds.
    stimulus : str
        Name of the presentation table without ``_presentations``: ``natural_movie_one``.
    presentation_id : int
        Row id in that table.
    frame : int or None
        Frame of the movie, or image number; None where the table has none.
    """

    stream: str
    run: str
    start_ns: int
    stop_ns: int
    stimulus: str
    presentation_id: int
    frame: int | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last message of a run: nothing more will come, and this is what was sent.

    Its totals are those of this run, so that a receiver can count what it missed.
    """

    stream: str
    run: str
    n_batches: int
    n_spikes: int


SourceMessage = SpikeBatch | Hello | Mark | StreamEnd
"""Everything that a source can send."""
