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

A sender may be broken or hostile, and only the malformed message must be dropped. Whether the time
of a batch can be right is decided by `daemon.stream_clocks`.

Two sources may send under one name. The first one keeps it while it is alive. A hello of another
run is a restart if it comes over the same connection, or if the stream is blind or has ended; else
it is the hello of a second source, and refused. Should the run that was replaced send on, the
connection carries two sources, and the first one gets its stream back.

Invariants (``tests/daemon/test_stream_registry.py``):

1. Up to the newest number every batch is accepted once or counted as lost:
   ``test_every_number_is_accepted_or_lost``
2. An accepted unit index is a row of the encoder's population, or ``n_units`` where the encoder
   does not know the unit: ``test_permuted_table_is_translated``
3. A hello that is refused changes nothing: ``test_restart_with_foreign_units_keeps_the_old_table``
4. A silent stream turns blind once: ``test_silent_stream_turns_blind_once_and_comes_back``
5. Of two sources with one name the first one is followed while it lives:
   ``test_second_source_of_a_name_is_refused_while_the_first_lives``
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.errors import PopulationMismatchError
from contracts.population import Population
from contracts.spikes import Hello, SpikeBatch, StreamEnd
from daemon.stream_clocks import MAX_LOST, Step, StreamClocks

MAX_STRAGGLERS = 3
"""Batches of a run that was replaced, until it counts as a source that is alive. A restarted
source leaves none on a direct connection, and few behind a proxy."""


class StreamState(StrEnum):
    """Whether a stream is waited for."""

    LIVE = "live"
    BLIND = "blind"
    """Silent for longer than ``ingest.stream_timeout_s``."""
    ASIDE = "aside"
    """Its time does not agree with the other streams'."""
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
    last_in_step_host_ns: int  # of its newest batch that was in step, or its first hello
    connection: int = 0  # that its hello came over
    n_lost: int = 0  # messages that never arrived
    state: StreamState = StreamState.LIVE
    replaced: Stream | None = None  # the run before on this connection
    n_stragglers: int = 0  # batches of that run since
    rival_run: str = ""  # another source that sends under this name
    rival_host_ns: int = 0  # when its newest hello or batch came


@dataclass(frozen=True, slots=True)
class Accepted:
    """A batch with its indices translated, and what was noticed on the way."""

    batches: tuple[SpikeBatch, ...] = ()  # several: some were held back until this one
    n_lost: int = 0  # messages missing before or between them
    dropped: Literal["", "no_hello", "duplicate", "taken"] = ""  # why this batch was dropped
    step: Step = Step.TAKEN
    came_back: bool = False  # blind or set aside until now
    unseated: tuple[str, ...] = ()  # streams that are no longer waited for


class StreamRegistry:
    """All streams that have said hello.

    `population` is the encoder's; `extra_units` says what to do with units that it does not have;
    `reach_ns` is how far apart the times of two streams may be.
    """

    def __init__(
        self,
        population: Population,
        extra_units: Literal["refuse", "ignore"],
        *,
        reach_ns: int = 10 * NS_PER_S,
    ) -> None:
        self._population = population
        self._extra_units = extra_units
        self.clocks = StreamClocks(reach_ns)
        self.streams: dict[str, Stream] = {}

    @property
    def n_units(self) -> int:
        """Units of the encoder."""
        return len(self._population)

    def is_taken(self, name: str, run: str, *, connection: int, host_ns: int) -> bool:
        """Whether a hello is that of a second source, and to be refused; note that it came."""
        known = self.streams.get(name)
        if known is None or known.state in {StreamState.BLIND, StreamState.ENDED}:
            return False
        if known.hello.run == run:
            return False
        if known.replaced is not None and known.replaced.hello.run == run:
            self._give_back(known, known.replaced, host_ns)  # it is alive: this is its own hello
            return False
        if connection == known.connection and run != known.rival_run:
            return False
        known.rival_run, known.rival_host_ns = run, host_ns
        return True

    def register(self, hello: Hello, *, host_ns: int, connection: int = 0) -> bool:
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
        is_replaced = known is not None and known.connection == connection
        if known is not None:
            known.replaced = None  # of the runs before, the last one is enough
        self.streams[hello.stream] = Stream(
            hello=hello,
            row_of=self._rows(hello.population),
            # Where the source is now: whoever joins in the middle has lost nothing.
            next_seq=hello.next_seq,
            last_received_host_ns=host_ns,
            last_in_step_host_ns=host_ns,
            connection=connection,
            n_lost=known.n_lost if known else 0,
            replaced=known if is_replaced else None,
        )
        self.clocks.begin(hello.stream)
        return True

    def take_usual(self, batch: SpikeBatch) -> SpikeBatch | None:
        """Accept the batch that every stream is expected to send next; None for any other.

        What `accept` does with it, in a fraction of the time.
        """
        stream = self.streams.get(batch.stream)
        if (
            stream is None
            or stream.hello.run != batch.run
            or batch.seq != stream.next_seq
            or stream.state is not StreamState.LIVE
            or not self.clocks.take_usual(batch)
        ):
            return None
        stream.next_seq = batch.seq + 1
        stream.last_received_host_ns = stream.last_in_step_host_ns = batch.received_host_ns
        return self._translated(batch)

    def accept(self, batch: SpikeBatch) -> Accepted:
        """Check a batch's place in its stream and translate its unit indices.

        Called on the fast loop for every message. ``unit_index`` is a row of the stream's
        population before, and of the encoder's (or ``n_units``) after.
        """
        stream = self.streams.get(batch.stream)
        # Without the hello of this very run there is no table, and an index means nothing.
        if stream is None or stream.hello.run != batch.run:
            return Accepted(dropped=self._foreign(stream, batch))
        is_repeat = batch.seq < stream.next_seq
        # Before the stamp below: a source that repeats old batches is as good as silent.
        if not is_repeat:
            stream.last_received_host_ns = batch.received_host_ns
        placed = self.clocks.place(batch, batch.seq - stream.next_seq)
        came_back = bool(placed.batches) and stream.state is not StreamState.LIVE
        n_lost = sum(self._pass(taken, batch.received_host_ns) for taken in placed.batches)
        for name in placed.unseated:
            self.streams[name].state = StreamState.ASIDE
        return Accepted(
            batches=tuple(self._translated(taken) for taken in placed.batches),
            n_lost=n_lost,
            dropped="duplicate" if is_repeat and not placed.batches else "",
            step=placed.step,
            came_back=came_back,
            unseated=placed.unseated,
        )

    def _foreign(self, stream: Stream | None, batch: SpikeBatch) -> Literal["no_hello", "taken"]:
        """Return why a batch of an unknown run is dropped; note sources that share a name."""
        if stream is None:
            return "no_hello"
        if stream.replaced is not None and stream.replaced.hello.run == batch.run:
            stream.n_stragglers += 1
            if stream.n_stragglers == MAX_STRAGGLERS:
                self._give_back(stream, stream.replaced, batch.received_host_ns)
        elif stream.rival_run == batch.run:
            stream.rival_host_ns = batch.received_host_ns
            return "taken"
        return "no_hello"

    def _give_back(self, second: Stream, first: Stream, host_ns: int) -> None:
        """Let the first of two sources with one name have its stream again."""
        name = first.hello.stream
        first.rival_run, first.rival_host_ns = second.hello.run, host_ns
        first.last_received_host_ns = first.last_in_step_host_ns = host_ns
        first.state, first.replaced, first.n_lost = StreamState.LIVE, None, second.n_lost
        self.streams[name] = first
        self.clocks.begin(name)

    def _pass(self, batch: SpikeBatch, host_ns: int) -> int:
        """Note that a batch is taken; return how many before it are missing."""
        stream = self.streams[batch.stream]
        # A batch that was given up has a number too, and no message came for it that could be
        # used: it counts as lost, like the ones that never arrived. A number that is far away or
        # below is a count that began anew.
        n_missing = batch.seq - stream.next_seq
        n_lost = n_missing if 0 <= n_missing <= MAX_LOST else 0
        stream.n_lost += n_lost
        stream.next_seq = batch.seq + 1
        stream.last_in_step_host_ns = host_ns
        stream.state = StreamState.LIVE
        return n_lost

    def _translated(self, batch: SpikeBatch) -> SpikeBatch:
        row_of = self.streams[batch.stream].row_of
        if row_of is None:
            return batch
        return batch.with_units(row_of[np.minimum(batch.unit_index, len(row_of) - 1)])

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
        self.clocks.unseat(end.stream)
        return n_lost

    def newly_silent(
        self, *, host_ns: int, timeout_ns: int, except_for: Collection[str] = ()
    ) -> dict[str, StreamState]:
        """Mark the streams that nothing usable has come from for too long, and return them.

        A stream is blind if nothing came, and set aside if what came was out of step. Not those
        of `except_for`, left unread just now: their messages wait in a socket.
        """
        # Their silence begins to count when they are read again.
        for name in except_for:
            stream = self.streams[name]
            stream.last_received_host_ns = stream.last_in_step_host_ns = host_ns
        silent: dict[str, StreamState] = {}
        for name, stream in self.streams.items():
            if stream.state not in {StreamState.LIVE, StreamState.ASIDE}:
                continue
            if host_ns - stream.last_received_host_ns > timeout_ns:
                stream.state = StreamState.BLIND
                self.clocks.unseat(name)
            elif (
                stream.state is StreamState.LIVE
                and self.clocks.is_held(name)
                and host_ns - stream.last_in_step_host_ns > timeout_ns
            ):
                stream.state = StreamState.ASIDE
                self.clocks.set_aside(name)
            else:
                continue
            silent[name] = stream.state
        return silent

    def missing_units(self) -> list[str]:
        """Return the labels of the encoder's units that no stream has announced yet."""
        units = zip(self._population.units, self.announced(), strict=True)
        return [unit.label for unit, is_announced in units if not is_announced]

    def announced(self, stream: str = "") -> NDArray[np.bool_]:
        """Return which units of the encoder one stream has announced, or any; (n_units,)."""
        streams = [self.streams[stream]] if stream else self.streams.values()
        announced = {unit.key for one in streams for unit in one.hello.population.units}
        return np.array([unit.key in announced for unit in self._population.units], dtype=bool)

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
