"""Registered streams: sequence numbers, unit tables and state. No socket here.

Theory of operation
-------------------
A stream is known from its hello, which names its run (one start of a source) and its unit table.
Its unit indices are rows of that table; here they become rows of the encoder's population, by
(probe, unit_id). The daemon cuts windows once the hellos together have announced every unit of
the encoder.

Loss is seen twice: in the sequence numbers (counted here, in messages) and in the spans (marked by
`daemon.bin_ring`, in bins). Transport keeps the order, so a number below the expected one is a
duplicate and a number above it means that those between are lost.

A sender may be broken or hostile, and only the malformed message must be dropped. So a batch whose
time or number is far from the one before is held back until the next one confirms it: a real jump
(a paused acquisition) is followed by a second batch from there.

Invariants (``tests/daemon/test_stream_registry.py``, 3 in ``test_ingest.py``):

1. Up to the newest number every batch is accepted once or counted as lost:
   ``test_every_number_is_accepted_or_lost``
2. An accepted unit index is a row of the encoder's population, or ``n_units`` where the encoder
   does not know the unit: ``test_permuted_table_is_translated``
3. An isolated batch far from its neighbours in time or number is dropped; a confirmed jump drops
   nothing:
   ``test_one_batch_from_nowhere_is_dropped``, ``test_jump_that_is_confirmed_loses_nothing``
4. A hello that is refused changes nothing: ``test_restart_with_foreign_units_keeps_the_old_table``
5. A silent stream turns blind once: ``test_silent_stream_turns_blind_once_and_comes_back``
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.errors import PopulationMismatchError
from contracts.population import Population
from contracts.spikes import Hello, SpikeBatch, StreamEnd

MAX_JUMP_NS = 10 * NS_PER_S
"""A batch further than this from the one before needs a second one to confirm it: one message
with a broken clock must not move the ring away from all other streams."""

MAX_LOST = 1_000_000
"""The same for sequence numbers: so many 10 ms batches are close to three hours."""


class StreamState(StrEnum):
    """Whether a stream is waited for."""

    LIVE = "live"
    BLIND = "blind"
    """Silent for longer than ``ingest.stream_timeout_s``."""
    ENDED = "ended"


@dataclass(slots=True)
class Stream:
    """One stream, from its first hello on.

    `row_of`, shape (n_stream_units + 1,), is the row in the encoder's population of each of the
    stream's units; ``n_units`` for those outside. The last entry stands for every index that is no
    unit. None: the tables agree.
    """

    hello: Hello  # the newest
    row_of: NDArray[np.uint32] | None
    next_seq: int  # expected next
    last_received_host_ns: int  # of its newest batch, or its first hello
    n_lost: int = 0  # messages that never arrived
    state: StreamState = StreamState.LIVE
    stop_ns: int | None = None  # end of its newest batch, session clock
    suspect: SpikeBatch | None = None  # far from the batch before; the next one may confirm it


@dataclass(frozen=True, slots=True)
class Accepted:
    """A batch with its indices translated, and what was noticed on the way."""

    batches: tuple[SpikeBatch, ...] = ()  # two: one that was held back, and its confirmation
    n_lost: int = 0  # messages missing before or between them
    dropped: Literal["", "no_hello", "duplicate", "jump"] = ""  # why a batch was dropped


class StreamRegistry:
    """All streams that have said hello.

    `population` is the encoder's; `extra_units` says what to do with units that it does not have.
    """

    def __init__(self, population: Population, extra_units: Literal["refuse", "ignore"]) -> None:
        self._population = population
        self._extra_units = extra_units
        self.streams: dict[str, Stream] = {}

    def register(self, hello: Hello, *, host_ns: int) -> bool:
        """Take up a stream, or a restart of one; False for a hello that is only repeated.

        Raises
        ------
        PopulationMismatchError
            If it has units that the encoder does not know, and they are refused, or units that
            another live stream sends.
        """
        # The run tells a restart, not the address: a source may come back on the same socket.
        known = self.streams.get(hello.stream)
        if known and known.hello.run == hello.run:
            return False
        # Checked before anything is changed: a refused restart leaves the old run and its table.
        index_of = self._population.index_of
        extra = [u.label for u in hello.population.units if u.key not in index_of]
        if extra and self._extra_units == "refuse":
            # With a first stream the error names both sides: most likely session and bundle do
            # not belong together. With a later one the other streams may have the rest.
            missing = [] if self.streams else self._absent_from(hello.population)
            raise PopulationMismatchError(missing, extra, source=hello.source)
        if twice := self._sent_by_others(hello):
            raise PopulationMismatchError([], [], twice=twice, source=hello.source)
        self.streams[hello.stream] = Stream(
            hello=hello,
            row_of=self._rows(hello.population),
            # Where the source is now: whoever joins in the middle has lost nothing.
            next_seq=hello.next_seq,
            last_received_host_ns=host_ns,
            n_lost=known.n_lost if known else 0,
        )
        return True

    def accept(self, batch: SpikeBatch) -> Accepted:
        """Check a batch's place in its stream and translate its unit indices.

        Called on the fast loop for every message. ``unit_index`` is a row of the stream's
        population before, and of the encoder's (or ``n_units``) after.
        """
        stream = self.streams.get(batch.stream)
        # Without the hello of this very run there is no table, and an index means nothing.
        if stream is None or stream.hello.run != batch.run:
            return Accepted(dropped="no_hello")
        # Before the stamp below: a source that repeats old batches is as good as silent.
        if batch.seq < stream.next_seq:
            return Accepted(dropped="duplicate")
        stream.last_received_host_ns = batch.received_host_ns
        stream.state = StreamState.LIVE
        suspect, stream.suspect = stream.suspect, None
        if suspect is not None and not _is_far(batch, suspect.seq, suspect.stop_ns):
            return self._taken(stream, (suspect, batch))  # confirmed: both, in order
        # Not confirmed: the suspect is dropped, and this batch is compared with the last good one.
        dropped: Literal["", "jump"] = "jump" if suspect is not None else ""
        if stream.stop_ns is not None and _is_far(batch, stream.next_seq, stream.stop_ns):
            stream.suspect = batch
            return Accepted(dropped=dropped)
        return replace(self._taken(stream, (batch,)), dropped=dropped)

    def _taken(self, stream: Stream, batches: tuple[SpikeBatch, ...]) -> Accepted:
        # A dropped suspect has a number too, and no message came for it that could be used: it
        # counts as lost, like the ones that never arrived.
        n_lost = batches[-1].seq - stream.next_seq - len(batches) + 1
        stream.n_lost += n_lost
        stream.next_seq = batches[-1].seq + 1
        stream.stop_ns = batches[-1].stop_ns
        if stream.row_of is not None:
            batches = tuple(_translated(batch, stream.row_of) for batch in batches)
        return Accepted(batches, n_lost)

    def end(self, end: StreamEnd) -> int | None:
        """Note that a stream has ended; return how many of its last messages were lost.

        None if no such run has said hello.
        """
        stream = self.streams.get(end.stream)
        if stream is None or stream.hello.run != end.run:
            return None
        # Only the end can tell that the last batches are missing: no later number shows the hole.
        n_lost = max(0, end.n_batches - stream.next_seq)
        stream.n_lost += n_lost
        stream.next_seq += n_lost
        stream.state = StreamState.ENDED
        return n_lost

    def newly_blind(
        self, *, host_ns: int, timeout_ns: int, except_for: Collection[str] = ()
    ) -> list[str]:
        """Mark the live streams that have been silent for too long as blind, and return them.

        Not those of `except_for`, left unread just now: their messages wait in a socket.
        """
        # Their silence begins to count when they are read again.
        for name in except_for:
            self.streams[name].last_received_host_ns = host_ns
        silent = [
            name
            for name, stream in self.streams.items()
            if stream.state is StreamState.LIVE
            and host_ns - stream.last_received_host_ns > timeout_ns
        ]
        for name in silent:
            self.streams[name].state = StreamState.BLIND
        return silent

    def missing_units(self) -> list[str]:
        """Return the labels of the encoder's units that no stream has announced yet."""
        announced = {u.key for s in self.streams.values() for u in s.hello.population.units}
        return [unit.label for unit in self._population.units if unit.key not in announced]

    @property
    def have_all_ended(self) -> bool:
        """Whether there were streams, and every one has ended."""
        return bool(self.streams) and all(
            stream.state is StreamState.ENDED for stream in self.streams.values()
        )

    def _sent_by_others(self, hello: Hello) -> list[str]:
        """Return the units that another live stream sends: their spikes would be counted twice."""
        # Blind and ended streams do not count: their units may come back under another name.
        taken = {
            unit.key
            for name, stream in self.streams.items()
            if name != hello.stream and stream.state is StreamState.LIVE
            for unit in stream.hello.population.units
        }
        known = self._population.index_of
        return [u.label for u in hello.population.units if u.key in taken and u.key in known]

    def _absent_from(self, population: Population) -> list[str]:
        return [u.label for u in self._population.units if u.key not in population.index_of]

    def _rows(self, population: Population) -> NDArray[np.uint32] | None:
        if population.fingerprint == self._population.fingerprint:
            return None  # the usual case for a replay: nothing is copied
        # One entry more than there are units: any index beyond the table, which a broken source may
        # send, is looked up there and becomes an unknown unit instead of an exception.
        outside = len(self._population)
        rows = [self._population.index_of.get(unit.key, outside) for unit in population.units]
        return np.array([*rows, outside], dtype=np.uint32)


def _is_far(batch: SpikeBatch, seq: int, stop_ns: int) -> bool:
    return abs(batch.start_ns - stop_ns) > MAX_JUMP_NS or abs(batch.seq - seq) > MAX_LOST


def _translated(batch: SpikeBatch, row_of: NDArray[np.uint32]) -> SpikeBatch:
    return replace(batch, unit_index=row_of[np.minimum(batch.unit_index, len(row_of) - 1)])
