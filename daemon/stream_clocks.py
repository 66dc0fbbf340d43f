"""Stream clocks: whose time is followed. No socket, no wall clock.

Theory of operation
-------------------
All streams of a session state times of one clock, the session's. A source's clock may break: it
jumps ahead by hours, begins again at zero, drifts, or alternates. One broken clock must neither
move the ring away from the other streams nor hold up their windows. So a batch enters the ring only
if it is *in step*:

* it begins where the batch before it ended, within `STEP_NS`. Lost batches may lie between, as many
  as the sequence numbers say, or batches out of step, as long as they were; and several batches may
  not go back by more together;
* or it begins within `STEP_NS` of the other streams;
* or it is the first of its run, and its stream does not go back;

and always within `reach_ns`, the ring, of every other stream.

Any other batch is *held* back. What follows decides: a batch in step drops what was held (a
glitch). Held batches that go on regularly for `CONFIRM_BATCHES` and `CONFIRM_NS` of data, or that
belong to a new run, are *confirmed*: the stream's time has changed for good. Then

* if more than half of the streams concerned agree on the new time (always so for a single stream: a
  paused or restarted acquisition), the session begins anew there, with everything that was held;
* else the stream is *set aside*: windows go on without it until it is in step again.

The streams concerned are those that are *seated*, whose time counts, and those that agree on the
new one. A stream is seated from its hello until it is set aside, falls silent or ends. The mover is
always the one that is questioned: the seated streams are within a ring of each other, so a batch
outside of it is the one that moved. No offset between clocks is ever guessed.

A sequence number is checked in the same way, since a source that restarts without a new hello
counts from zero again: numbers far ahead are held, numbers below the expected one are repeats,
never kept, and confirmed by the same rule.

Invariants (``tests/daemon/test_stream_clocks.py``):

1. A stream whose time is broken changes no other stream's batches:
   ``test_one_bad_clock_changes_nothing_for_the_others``
2. A jump that is not confirmed loses its own batches only: ``test_burst_from_nowhere_is_dropped``
3. A jump that is confirmed for the session loses nothing:
   ``test_pause_of_all_streams_loses_nothing``
4. A stream that is set aside is followed again once its time agrees:
   ``test_stream_set_aside_is_followed_again``
5. What is held is bounded: ``test_held_batches_are_bounded``
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from contracts.clock import NS_PER_S
from contracts.spikes import SpikeBatch

STEP_NS = NS_PER_S
"""Between two batches, more than the longest of them: batches should touch."""

CONFIRM_NS = 3 * NS_PER_S // 2
CONFIRM_BATCHES = 32
"""A jump is believed after this much data and so many batches. A glitch is a burst of a few."""

MAX_LOST = 1_000_000
"""Batches that may be missing between two: of 10 ms, close to three hours."""

HELD_BATCHES = 2048
HELD_SPIKES = 1 << 18
"""Held back for one stream at most: 20 s of 10 ms batches, 3 MB. The newest are kept."""


class Step(StrEnum):
    """What became of a batch."""

    TAKEN = "taken"
    FOLLOWED = "followed"
    """In step again, after it had been set aside."""
    HELD = "held"
    JUMPED = "jumped"
    """The first one that is held."""
    ASIDE = "aside"
    """Held, and from now on the stream is not waited for."""
    RESTART = "restart"
    """The session begins anew with it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What became of a batch, and which others enter the ring with it."""

    step: Step
    batches: tuple[SpikeBatch, ...] = ()  # in the order in which they enter the ring
    unseated: tuple[str, ...] = ()  # no longer waited for


@dataclass(slots=True)
class _Held:
    """Batches out of step, each of which continues the one before."""

    first_start_ns: int
    newest: SpikeBatch
    n_batches: int = 0
    n_spikes: int = 0
    batches: deque[SpikeBatch] = field(default_factory=deque)

    def add(self, batch: SpikeBatch, *, is_kept: bool) -> int:
        """Add the next batch; return how many are given up because there are too many."""
        self.newest = batch
        self.n_batches += 1
        if not is_kept:
            return 0
        self.batches.append(batch)
        self.n_spikes += batch.n_spikes
        n_dropped = 0
        while len(self.batches) > 1 and (
            len(self.batches) > HELD_BATCHES or self.n_spikes > HELD_SPIKES
        ):
            self.n_spikes -= self.batches.popleft().n_spikes
            n_dropped += 1
        return n_dropped


@dataclass(slots=True)
class _StreamClock:
    is_seated: bool = True
    is_new_run: bool = True  # no batch of this run was in step yet
    position_ns: int | None = None  # end of its newest batch in step
    longest_ns: int = 0  # of its batches in step
    overlap_ns: int = 0  # by which they repeat time already covered, less what they add
    n_passed: int = 0  # batches out of step since
    passed_ns: int = 0  # and how long they were
    held: _Held | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether its time has changed for good."""
        held = self.held
        if held is None:
            return False
        # A new run means that the source began anew; a repeat means nothing, in any run.
        return (self.is_new_run and bool(held.batches)) or (
            held.n_batches >= CONFIRM_BATCHES
            and held.newest.stop_ns - held.first_start_ns >= CONFIRM_NS
        )


class StreamClocks:
    """The clocks of all streams.

    `reach_ns` is how far apart two streams may be: what the ring holds. `n_dropped` counts the
    batches that were held and given up; repeats are not among them.
    """

    def __init__(self, reach_ns: int) -> None:
        self.n_dropped = 0
        self._reach_ns = reach_ns
        self._clocks: dict[str, _StreamClock] = {}

    def begin(self, stream: str) -> None:
        """Note a new run of a stream."""
        clock = self._clocks.setdefault(stream, _StreamClock())
        clock.is_seated = clock.is_new_run = True
        clock.longest_ns = clock.n_passed = clock.passed_ns = 0
        self._drop_held(clock)

    def unseat(self, stream: str) -> None:
        """Go on without a stream that is silent or has ended."""
        self._clocks[stream].is_seated = False
        self._drop_held(self._clocks[stream])

    def set_aside(self, stream: str) -> None:
        """Go on without a stream that sends and has not been in step for too long."""
        self._clocks[stream].is_seated = False

    def close(self) -> None:
        """Give up all that is held."""
        for clock in self._clocks.values():
            self._drop_held(clock)

    def is_held(self, stream: str) -> bool:
        """Whether the newest batch of a stream was out of step."""
        return self._clocks[stream].held is not None

    def offset_ns(self, stream: str) -> int:
        """Return how far a stream that is out of step is ahead of the others; below 0, behind.

        Where no other stream is seated, ahead of its own last position.
        """
        clock = self._clocks[stream]
        if clock.held is None:
            return 0
        others = self._others(stream) or [clock.position_ns or 0]
        offsets = (clock.held.newest.stop_ns - position_ns for position_ns in others)
        return min(offsets, key=abs)

    def take_usual(self, batch: SpikeBatch) -> bool:
        """Take a batch without a missing one before it that begins where its stream is.

        False, and nothing is changed, if `place` has to decide.
        """
        own = self._clocks[batch.stream]
        if (
            batch.start_ns != own.position_ns
            or own.held is not None
            or own.overlap_ns
            or not _counts(own)
        ):
            return False
        for clock in self._clocks.values():
            if clock is own or clock.position_ns is None or not _counts(clock):
                continue
            ahead_ns = batch.stop_ns - clock.position_ns
            behind_ns = clock.position_ns - batch.start_ns
            if ahead_ns > self._reach_ns or behind_ns > self._reach_ns:
                return False
        own.n_passed = own.passed_ns = 0
        own.position_ns = batch.stop_ns
        own.longest_ns = max(own.longest_ns, batch.stop_ns - batch.start_ns)
        return True

    def place(self, batch: SpikeBatch, n_missing: int) -> Placement:
        """Decide what becomes of a batch.

        `n_missing` is its sequence number less the expected one. Below 0 it is a repeat.
        """
        clock = self._clocks[batch.stream]
        others = self._others(batch.stream)
        if self._is_in_step(clock, batch, n_missing, others):
            goes_back = clock.position_ns is not None and batch.start_ns < clock.position_ns
            if not others and clock.is_new_run and (goes_back or clock.held is not None):
                return self._restart(clock, batch)
            return self._take(clock, batch)
        is_repeat = n_missing < 0
        is_first = clock.held is None
        self._hold(clock, batch, is_kept=not is_repeat)
        if not clock.is_confirmed:
            return Placement(Step.JUMPED if is_first else Step.HELD)
        if is_repeat and others and self._is_near(batch, others):
            return self._take(clock, batch)
        if self._has_majority(batch):
            return self._restart(clock, batch)
        step = Step.ASIDE if clock.is_seated else Step.HELD
        unseated = (batch.stream,) if clock.is_seated else ()
        clock.is_seated = False
        return Placement(step, unseated=unseated)

    def _others(self, stream: str) -> list[int]:
        """Return where the other seated streams are."""
        return [
            clock.position_ns
            for name, clock in self._clocks.items()
            if name != stream and _counts(clock) and clock.position_ns is not None
        ]

    def _is_in_step(
        self, clock: _StreamClock, batch: SpikeBatch, n_missing: int, others: list[int]
    ) -> bool:
        if not 0 <= n_missing <= MAX_LOST:
            return False
        step_ns = 0 if clock.position_ns is None else batch.start_ns - clock.position_ns
        if -STEP_NS <= step_ns < 0 and clock.overlap_ns - step_ns > STEP_NS:
            return False  # a clock that stops, or goes back slowly, would hold up the others
        if others:
            ahead_ns = batch.stop_ns - min(others)
            behind_ns = max(others) - batch.start_ns
            if max(ahead_ns, behind_ns) > self._reach_ns:
                return False
            if self._is_near(batch, others):
                return True
        if clock.is_new_run:
            # It may join anywhere in the ring and may have been away for long, but not go back
            # alone. Once it was out of step, only the others can tell that it is right again.
            return not others or (clock.held is None and step_ns >= -STEP_NS)
        if clock.held is not None and not _continues(clock.held.newest, batch):
            if -STEP_NS <= step_ns <= STEP_NS:
                return True  # the glitch is over, and time goes on where it was
        late_ns = step_ns - clock.passed_ns  # after the time that its batches have spanned since
        n_lost = n_missing - clock.n_passed
        return -STEP_NS <= late_ns <= STEP_NS + n_lost * clock.longest_ns

    @staticmethod
    def _is_near(batch: SpikeBatch, others: list[int]) -> bool:
        return min(others) - STEP_NS <= batch.start_ns <= max(others) + STEP_NS

    def _take(self, clock: _StreamClock, batch: SpikeBatch) -> Placement:
        step = Step.TAKEN if clock.is_seated else Step.FOLLOWED
        self._drop_held(clock)
        self._advance(clock, batch)
        return Placement(step, (batch,))

    @staticmethod
    def _advance(clock: _StreamClock, batch: SpikeBatch) -> None:
        clock.is_seated, clock.is_new_run = True, False
        if clock.position_ns is not None:
            repeated_ns = max(0, clock.position_ns - batch.start_ns)
            added_ns = max(0, batch.stop_ns - clock.position_ns)
            overlap_ns = max(0, clock.overlap_ns + repeated_ns - added_ns)
            clock.overlap_ns = overlap_ns if repeated_ns <= STEP_NS else 0  # set right
        clock.n_passed = clock.passed_ns = 0
        clock.position_ns = batch.stop_ns
        clock.longest_ns = max(clock.longest_ns, batch.stop_ns - batch.start_ns)

    def _hold(self, clock: _StreamClock, batch: SpikeBatch, *, is_kept: bool) -> None:
        held = clock.held
        if held is None or not _continues(held.newest, batch):
            # Out of step with both: it may begin a jump of its own.
            self._drop_held(clock)
            clock.held = held = _Held(batch.start_ns, batch)
        if is_kept:
            clock.n_passed += 1
            clock.passed_ns += batch.stop_ns - batch.start_ns
        self.n_dropped += held.add(batch, is_kept=is_kept)

    def _drop_held(self, clock: _StreamClock) -> None:
        if clock.held is not None:
            self.n_dropped += len(clock.held.batches)
            clock.held = None

    def _agreeing(self, batch: SpikeBatch, *, is_decided: bool) -> dict[str, _StreamClock]:
        """Return the streams whose held batches are in reach of this one.

        Before it is decided that the session begins anew there, only those that are confirmed.
        """
        return {
            name: clock
            for name, clock in self._clocks.items()
            if name == batch.stream
            or (
                clock.held is not None
                and clock.held.batches
                and (is_decided or clock.is_confirmed)
                and abs(clock.held.newest.stop_ns - batch.stop_ns) <= self._reach_ns
            )
        }

    def _has_majority(self, batch: SpikeBatch) -> bool:
        """Whether the session's time is now where this batch is."""
        agreeing = self._agreeing(batch, is_decided=False)
        voters = {name for name, clock in self._clocks.items() if _counts(clock)} | set(agreeing)
        return 2 * len(agreeing) > len(voters)

    def _restart(self, clock: _StreamClock, batch: SpikeBatch) -> Placement:
        """Begin the session anew where a batch is, with all streams that agree."""
        members = self._agreeing(batch, is_decided=True)
        if clock.held is None or clock.held.newest is not batch:
            self._hold(clock, batch, is_kept=True)
        elif not clock.held.batches:
            clock.held.add(batch, is_kept=True)  # a repeat, until now
        newest_ns = max(one.held.newest.stop_ns for one in members.values() if one.held)
        held = [one for member in members.values() if member.held for one in member.held.batches]
        # More than the ring holds would push out what the other streams bring.
        batches = [one for one in held if one.stop_ns > newest_ns - self._reach_ns]
        batches.sort(key=lambda one: one.start_ns)  # stable: the order within a stream stays
        self.n_dropped += len(held) - len(batches)
        for member in members.values():
            if member.held:
                member.position_ns, member.overlap_ns = None, 0
                self._advance(member, member.held.newest)
                member.held = None
        return Placement(Step.RESTART, tuple(batches), self._unseat_all_but(members))

    def _unseat_all_but(self, members: Mapping[str, _StreamClock]) -> tuple[str, ...]:
        unseated = []
        for name, clock in self._clocks.items():
            if name in members:
                continue
            if _counts(clock):
                clock.is_seated = False
                unseated.append(name)
            if not clock.is_new_run:
                clock.position_ns, clock.is_new_run = None, True  # it may join where it is
        return tuple(unseated)


def _counts(clock: _StreamClock) -> bool:
    """Whether a stream's time counts: seated, and with a batch in its newest run."""
    return clock.is_seated and not clock.is_new_run


def _continues(held: SpikeBatch, batch: SpikeBatch) -> bool:
    """Whether a batch goes on regularly from one that is held."""
    n_missing = batch.seq - held.seq - 1
    longest_ns = max(held.stop_ns - held.start_ns, batch.stop_ns - batch.start_ns)
    step_ns = batch.start_ns - held.stop_ns
    return 0 <= n_missing <= MAX_LOST and -STEP_NS <= step_ns <= STEP_NS + n_missing * longest_ns
