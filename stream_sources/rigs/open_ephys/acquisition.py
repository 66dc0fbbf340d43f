"""Messages of the plugin become batches and marks. No socket and no clock here.

Theory of operation
-------------------
Spikes carry a sample number and say nothing of the time without spikes; the blocks of continuous
data do. The plugin sends the events and spikes of a block before its data, so that with the first
data of a block all spikes up to its end are known, but for those whose waveform was not over: the
detector sends them in the next block. Hence time is covered up to the end of the newest block less
`settle_ms`.

``message_num`` counts the messages of all kinds. After a hole in it, what was lost is unknown: from
the time that was covered to the end of the first block after the hole nothing is stated, so that
the daemon marks these bins as a gap. A number that does not grow is a new start of the acquisition,
and sample numbers that go back are a new clock: either begins a new run, in which the daemon begins
the session anew. So does a hole of more than `MAX_HOLE_S`, which the daemon would not bridge.

Invariants (``tests/stream_sources/rigs/open_ephys/test_acquisition.py``):

1. Every sorted spike of the table is sent once, or counted as late, in a gap, or lost with its
   message: ``test_every_spike_is_sent_or_counted``
2. A batch states no time in which a message may have been lost:
   ``test_time_in_which_messages_were_lost_is_not_covered``
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from contracts.errors import UserError, shown
from contracts.spikes import Mark, SpikeBatch
from stream_sources.live import MAX_HOLE_S
from stream_sources.recordings.sorting import samples_to_ns
from stream_sources.rigs.open_ephys.plugin_format import (
    DataBlock,
    OtherMessage,
    PluginMessage,
    SortedSpike,
    TtlEdge,
)
from stream_sources.rigs.open_ephys.unit_table import SortedUnit
from stream_sources.source import new_run

logger = logging.getLogger(__name__)

MAX_BATCH_S = 0.5
"""Half of the span that a batch may have."""

MAX_PENDING = 1 << 18
"""Spikes that wait for their time to be covered: more come only if no continuous data does."""

RATES_HZ = (1e3, 1e6)


@dataclass(slots=True)
class RigCounters:
    """What was received, over all runs; attributes without a unit count spikes."""

    n_messages: int = 0
    n_messages_lost: int = 0
    n_messages_unread: int = 0  # they did not follow the format
    n_messages_other_stream: int = 0
    n_gaps: int = 0
    gap_s: float = 0.0
    n_runs: int = 1
    n_received: int = 0  # of the stream that is followed
    n_unsorted: int = 0
    n_not_in_table: int = 0
    n_late: int = 0  # more than `settle_ms` after their block
    n_in_gaps: int = 0  # in time that is not covered
    n_sent: int = 0
    n_marks: int = 0


@dataclass(slots=True)
class _Run:
    """One run: the times are sample numbers."""

    run: str = field(default_factory=new_run)
    seq: int = 0
    rate_hz: float = 0.0
    number: int = 0  # of the newest message
    is_complete: bool = True  # no message was lost since the newest block
    block: tuple[int, int] | None = None  # the newest one
    covered: int = 0
    resumed: int = 0  # end of the newest gap
    high_since: dict[int, int] = field(default_factory=dict)  # of TTL lines


class Acquisition:
    """Follows one stream of the GUI over all its starts and stops.

    Parameters
    ----------
    row_of : dict of (electrode, sorted id) to int
        Row of each unit.
    stream : str
        Name of our stream.
    gui_stream : str
        The stream of the GUI; empty for the first that comes.
    rate_hz : float, optional
        The sampling rate that it must have; needed up to version 0.2 of the plugin.
    """

    def __init__(
        self,
        row_of: dict[SortedUnit, int],
        *,
        stream: str,
        gui_stream: str = "",
        rate_hz: float | None = None,
        settle_ms: float = 5.0,
    ) -> None:
        self.counters = RigCounters()
        self.unknown_units: Counter[SortedUnit] = Counter()
        self.gui_stream = gui_stream
        self.other_streams: set[str] = set()
        self._row_of = row_of
        self._stream = stream
        self._rate_hz = rate_hz
        self._settle_ms = settle_ms
        self._run = _Run()
        self._pending: list[tuple[int, int]] = []  # sample, row

    @property
    def run(self) -> str:
        """Name of the run."""
        return self._run.run

    @property
    def followed_s(self) -> float:
        """Data since the run began or its newest gap, seconds."""
        run = self._run
        return (run.block[1] - run.resumed) / run.rate_hz if run.block else 0.0

    def add(self, message: PluginMessage) -> list[SpikeBatch | Mark]:
        """Take a message; return what is now complete.

        Raises
        ------
        UserError
            If the sampling rate is not the one that was asked for.
        """
        self.counters.n_messages += 1
        sent: list[SpikeBatch | Mark] = list(self._follow_numbers(message.number))
        if isinstance(message, OtherMessage) or not self._is_followed(message.stream):
            return sent
        match message:
            case DataBlock():
                sent += self._take_block(message)
            case SortedSpike():
                self._take_spike(message)
            case TtlEdge():
                sent += self._take_edge(message)
        return sent

    def flush(self) -> list[SpikeBatch | Mark]:
        """Cover the newest block to its end: nothing more comes, as the acquisition has stopped."""
        run = self._run
        return list(self._cover(run.block[1])) if run.block and run.is_complete else []

    def _follow_numbers(self, number: int) -> Iterator[SpikeBatch | Mark]:
        run = self._run
        n_missing = number - run.number - 1
        if run.number == 0:
            run.is_complete = number == 1
        elif number <= run.number:
            yield from self._restart("the acquisition began again")
            self._run.is_complete = number == 1
        elif n_missing:
            self.counters.n_messages_lost += n_missing
            run.is_complete = False
            run.high_since.clear()
            logger.warning("messages lost", extra={"n": n_missing, "message_num": number})
        self._run.number = number

    def _is_followed(self, stream: str) -> bool:
        if not self.gui_stream:
            self.gui_stream = stream
        if stream == self.gui_stream:
            return True
        self.counters.n_messages_other_stream += 1
        if len(self.other_streams) < 16:
            self.other_streams.add(stream)
        return False

    def _take_block(self, block: DataBlock) -> Iterator[SpikeBatch | Mark]:
        start, stop = block.first_sample, block.first_sample + block.n_samples
        run = self._run
        if run.block and start == run.block[0]:  # of another channel
            run.is_complete = True  # what was lost in between was continuous data
            return
        if run.block and start < run.block[1]:
            number, is_complete = run.number, run.is_complete
            yield from self._restart("sample numbers went back")
            run = self._run
            run.number, run.is_complete = number, is_complete
        self._check_rate(block)
        first = start if run.is_complete else stop
        if run.block is None:
            run.covered = run.resumed = first
            self._drop_before(first)
            fields = {"gui_stream": shown(block.stream), "sampling_rate_hz": run.rate_hz}
            logger.info("acquisition", extra={**fields, "run": run.run})
        elif first != run.block[1]:
            if run.is_complete:
                yield from self._cover(run.block[1])
            self._leave_gap(first)
        run.block, run.is_complete = (start, stop), True
        yield from self._cover(stop - round(self._settle_ms / 1e3 * run.rate_hz))

    def _check_rate(self, block: DataBlock) -> None:
        run = self._run
        rate_hz = block.rate_hz or self._rate_hz
        if rate_hz is None:
            raise UserError("The plugin sends no sampling rate: give --sampling-rate-hz.")
        wanted_hz = run.rate_hz or self._rate_hz or rate_hz
        if rate_hz != wanted_hz or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise UserError(
                f"the stream {shown(block.stream)!r} must have {wanted_hz:g} samples per second "
                f"(from 1,000 to 1,000,000), and the GUI says {rate_hz:g}. Choose the stream of "
                "action potentials in the plugin, or correct --sampling-rate-hz."
            )
        run.rate_hz = rate_hz

    def _take_spike(self, spike: SortedSpike) -> None:
        counters, run = self.counters, self._run
        counters.n_received += 1
        key = (spike.electrode, spike.sorted_id)
        row = self._row_of.get(key)
        if not spike.sorted_id:
            counters.n_unsorted += 1
        elif row is None:
            counters.n_not_in_table += 1
            if key in self.unknown_units or len(self.unknown_units) < len(self._row_of) + 1000:
                self.unknown_units[key] += 1
        elif len(self._pending) >= MAX_PENDING or (run.block and spike.sample < run.resumed):
            counters.n_in_gaps += 1
        elif run.block and spike.sample < run.covered:
            counters.n_late += 1
        else:
            self._pending.append((spike.sample, row))

    def _take_edge(self, edge: TtlEdge) -> Iterator[Mark]:
        """Send a pulse once it is over; one whose beginning is unknown is none."""
        run = self._run
        since = edge.sample if edge.is_high else run.high_since.pop(edge.line, None)
        if edge.is_high:
            run.high_since.setdefault(edge.line, edge.sample)
        elif since is not None and run.rate_hz and since < edge.sample:
            start_ns, stop_ns = samples_to_ns(np.array([since, edge.sample]), run.rate_hz).tolist()
            stimulus, number = f"TTL line {edge.line + 1}", self.counters.n_marks
            yield Mark(self._stream, run.run, start_ns, stop_ns, stimulus, number)
            self.counters.n_marks += 1

    def _cover(self, stop: int) -> Iterator[SpikeBatch]:
        """State the time up to a sample, with its spikes."""
        run = self._run
        longest = round(MAX_BATCH_S * run.rate_hz)
        while run.covered < stop:
            start, run.covered = run.covered, min(stop, run.covered + longest)
            taken = sorted(one for one in self._pending if one[0] < run.covered)
            self._pending = [one for one in self._pending if one[0] >= run.covered]
            samples = np.array([start, *(sample for sample, _ in taken), run.covered])
            times_ns = samples_to_ns(samples, run.rate_hz)
            yield SpikeBatch(
                stream=self._stream,
                run=run.run,
                seq=run.seq,
                start_ns=int(times_ns[0]),
                stop_ns=int(times_ns[-1]),
                spike_time_ns=times_ns[1:-1],
                unit_index=np.array([row for _, row in taken], dtype=np.uint32),
            )
            run.seq += 1
            self.counters.n_sent += len(taken)

    def _leave_gap(self, stop: int) -> None:
        """Go on at a sample, and state nothing of the time before it."""
        run = self._run
        gap_s = (stop - run.covered) / run.rate_hz
        self.counters.n_gaps += 1
        self.counters.gap_s += gap_s
        logger.warning("gap", extra={"ms": round(gap_s * 1e3, 1), "run": run.run})
        self._drop_before(stop)
        run.covered = run.resumed = stop
        if gap_s > MAX_HOLE_S:
            run.run, run.seq = new_run(), 0
            self.counters.n_runs += 1

    def _drop_before(self, sample: int) -> None:
        kept = [one for one in self._pending if one[0] >= sample]
        self.counters.n_in_gaps += len(self._pending) - len(kept)
        self._pending = kept

    def _restart(self, reason: str) -> Iterator[SpikeBatch | Mark]:
        """Finish the run, and begin a new one with the message that comes."""
        yield from self.flush()
        self.counters.n_in_gaps += len(self._pending)
        self._pending = []
        self._run = _Run()
        self.counters.n_runs += 1
        logger.warning("new run", extra={"reason": reason, "run": self.run})
