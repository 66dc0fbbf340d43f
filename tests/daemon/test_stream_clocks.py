"""Stream clocks: one that breaks costs its own stream alone, and a session moves together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.binning import BinRate
from contracts.population import Population, Unit
from contracts.spikes import Hello, SpikeBatch
from contracts.window import Window, WindowSpec
from daemon.bin_ring import BinRing
from daemon.stream_clocks import (
    CONFIRM_BATCHES,
    HELD_BATCHES,
    MAX_LOST,
    STEP_NS,
    Step,
    StreamClocks,
)
from daemon.stream_registry import StreamRegistry
from daemon.window_cutter import WindowCutter
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN

S = 1_000_000_000
MS = 1_000_000
HOUR = 3600 * S
BATCH = 50 * MS
REACH = 10 * S
N_CONFIRM = max(CONFIRM_BATCHES, 30)
"""Batches of 50 ms that confirm a jump: 32 of them, and 1.5 s."""

NO_TIMES = np.array([], dtype=np.int64)
NO_UNITS = np.array([], dtype=np.uint32)


def batch(start_ns: int, seq: int, stream: str = "a", *, span_ns: int = BATCH) -> SpikeBatch:
    return SpikeBatch(stream, RUN, seq, start_ns, start_ns + span_ns, NO_TIMES, NO_UNITS)


class Fed:
    """Stream clocks, and the sequence number of each stream."""

    def __init__(self, *streams: str) -> None:
        self.clocks = StreamClocks(REACH)
        self.expected = dict.fromkeys(streams, 0)
        self.sent = dict.fromkeys(streams, 0)
        for name in streams:
            self.clocks.begin(name)

    def send(self, stream: str, *starts_ns: int) -> list[Step]:
        """Send batches, and return what became of each."""
        steps = []
        for start_ns in starts_ns:
            placed = self.place(batch(start_ns, self.sent[stream], stream))
            self.sent[stream] += 1
            steps.append(placed.step)
        return steps

    def place(self, one: SpikeBatch):
        placed = self.clocks.place(one, one.seq - self.expected[one.stream])
        for taken in placed.batches:
            self.expected[taken.stream] = taken.seq + 1
        return placed

    def together(self, start_ns: int, n: int) -> None:
        """Send so many batches of every stream in turn, all in step."""
        for k in range(n):
            for stream in self.sent:
                assert self.send(stream, start_ns + k * BATCH) == [Step.TAKEN]


def run_of(start_ns: int, n: int) -> list[int]:
    return [start_ns + k * BATCH for k in range(n)]


JUMPS = [HOUR, -HOUR, 11 * S, -11 * S, 4 * S, -4 * S, 2**61, -(2**61)]


@pytest.mark.parametrize("jump_ns", JUMPS)
@pytest.mark.parametrize("streams", ["a", "ab", "abc"])
def test_burst_from_nowhere_is_dropped(streams: str, jump_ns: int):
    """Ten batches far away and back: those ten are lost, and the stream goes on in step."""
    fed = Fed(*streams)
    fed.together(0, 10)
    burst = fed.send("a", *run_of(10 * BATCH + jump_ns, 10))
    assert burst == [Step.JUMPED, *[Step.HELD] * 9]
    for other in streams[1:]:
        fed.send(other, *run_of(10 * BATCH, 10))
    fed.together(20 * BATCH, 3)
    assert fed.clocks.n_dropped == 10


@pytest.mark.parametrize("jump_ns", JUMPS)
def test_jump_of_a_single_stream_that_persists_is_a_new_session(jump_ns: int):
    """A paused or restarted acquisition: confirmed, then everything since the jump at once."""
    fed = Fed("a")
    fed.together(0, 10)
    away = run_of(10 * BATCH + jump_ns, N_CONFIRM)
    assert fed.send("a", *away[:-1]) == [Step.JUMPED, *[Step.HELD] * (N_CONFIRM - 2)]
    placed = fed.place(batch(away[-1], fed.sent["a"]))
    assert placed.step is Step.RESTART
    assert [one.start_ns for one in placed.batches] == away
    assert fed.clocks.n_dropped == 0


@pytest.mark.parametrize("jump_ns", JUMPS)
def test_stream_set_aside_is_followed_again(jump_ns: int):
    """A jump that persists sets one of two streams aside; once near the other it is back."""
    fed = Fed("a", "b")
    fed.together(0, 10)
    steps = fed.send("a", *run_of(10 * BATCH + jump_ns, N_CONFIRM + 20))
    assert steps[N_CONFIRM - 1 : N_CONFIRM + 1] == [Step.ASIDE, Step.HELD]
    fed.send("b", *run_of(10 * BATCH, N_CONFIRM + 20))
    assert abs(fed.clocks.offset_ns("a") - jump_ns) <= BATCH
    assert fed.send("a", (30 + N_CONFIRM) * BATCH) == [Step.FOLLOWED]
    assert fed.clocks.n_dropped == N_CONFIRM + 20
    assert fed.clocks.offset_ns("a") == 0


@pytest.mark.parametrize("jump_ns", [HOUR, -HOUR, 11 * S])
def test_pause_of_all_streams_loses_nothing(jump_ns: int):
    """Three streams jump one after the other: a new session, with all of their batches."""
    fed = Fed("a", "b", "c")
    fed.together(0, 10)
    away = run_of(10 * BATCH + jump_ns, 2 * N_CONFIRM)
    entered: list[SpikeBatch] = []
    steps = []
    for start_ns in away:
        for stream in "abc":
            placed = fed.place(batch(start_ns, fed.sent[stream], stream))
            fed.sent[stream] += 1
            entered += placed.batches
            steps.append(placed.step)
    assert steps.count(Step.RESTART) == 1
    assert fed.clocks.n_dropped == 0
    for stream in "abc":
        assert [one.start_ns for one in entered if one.stream == stream] == away


def test_two_of_three_decide():
    """The session goes where most streams are; the third one is set aside, and may come after."""
    fed = Fed("a", "b", "c")
    fed.together(0, 10)
    away = run_of(10 * BATCH + HOUR, N_CONFIRM)
    fed.send("c", 10 * BATCH)
    for k, start in enumerate(away):
        for stream in "ab":
            placed = fed.place(batch(start, 10 + k, stream))
    assert placed.step is Step.RESTART
    assert placed.unseated == ("c",)
    assert fed.send("c", 11 * BATCH) == [Step.HELD]
    assert fed.send("c", away[-1]) == [Step.FOLLOWED]


def test_alternating_clock_costs_every_other_batch():
    """Here, far, here, far: what is here is taken."""
    fed = Fed("a", "b")
    fed.together(0, 4)
    steps = []
    for k in range(4, 44):
        fed.send("b", k * BATCH)
        steps += fed.send("a", k * BATCH + HOUR * (k % 2))
    assert steps == [Step.TAKEN, Step.JUMPED] * 20


def test_drift_beyond_the_ring_is_set_aside():
    """A clock twice as fast leads by the ring and no more; the other one is not disturbed."""
    fed = Fed("a", "b")
    steps: list[Step] = []
    for k in range(600):
        assert fed.send("b", k * BATCH) == [Step.TAKEN]
        placed = fed.place(batch(2 * k * BATCH, k, "a", span_ns=2 * BATCH))
        steps.append(placed.step)
    first_held = steps.index(Step.JUMPED)
    assert 190 < first_held <= 200  # of 50 ms each: a lead of 10 s
    assert Step.ASIDE in steps


def test_clock_that_stands_still_is_held():
    """The same time again and again: after a second of it the stream is out of step."""
    fed = Fed("a", "b")
    fed.together(0, 4)
    steps = fed.send("a", *[3 * BATCH] * 40)
    assert steps[:10] == [Step.TAKEN] * 10
    assert set(steps[25:]) == {Step.HELD}
    assert fed.send("a", 4 * BATCH) == [Step.TAKEN]


def test_overlapping_batches_are_in_step():
    """Each batch begins half a batch before the end of the last one: time goes on."""
    fed = Fed("a")
    assert set(fed.send("a", *[k * BATCH // 2 for k in range(300)])) == {Step.TAKEN}


def test_lost_batches_explain_a_step():
    """A minute that is missing in the numbers too is loss, not a jump; without that it is."""
    fed = Fed("a")
    fed.together(0, 4)
    fed.sent["a"] += 1200
    assert fed.send("a", 4 * BATCH + 60 * S) == [Step.TAKEN]
    fed.sent["a"] += 10
    assert fed.send("a", 8 * BATCH + 120 * S) == [Step.JUMPED]


def test_stream_that_restarts_alone_is_set_aside_at_once():
    """A new run from zero while the other stream lives: nobody knows the offset."""
    fed = Fed("a", "b")
    fed.together(100 * S, 10)
    fed.clocks.begin("a")
    fed.sent["a"] = fed.expected["a"] = 0
    placed = fed.place(batch(0, 0))
    assert (placed.step, placed.unseated) == (Step.ASIDE, ("a",))
    fed.sent["a"] = 1
    fed.send("b", *run_of(100 * S + 10 * BATCH, 10))
    assert fed.clocks.offset_ns("a") == pytest.approx(-101 * S, abs=S)
    assert set(fed.send("a", *run_of(BATCH, 100))) == {Step.HELD}


@pytest.mark.parametrize("back_s", [2, 5, 9])
@pytest.mark.parametrize("is_new_run", [True, False])
def test_stream_that_goes_back_is_not_followed_where_it_once_was(back_s: int, is_new_run: bool):
    """Seconds after it went back it passes its own old place: the others are ahead by as much."""
    fed = Fed("a", "b")
    fed.together(0, 200)
    if is_new_run:
        fed.clocks.begin("a")
        fed.sent["a"] = fed.expected["a"] = 0
    steps: list[Step] = []
    for k in range(200, 600):
        assert fed.send("b", k * BATCH) == [Step.TAKEN]
        steps += fed.send("a", k * BATCH - back_s * S)
    assert not {Step.TAKEN, Step.FOLLOWED} & set(steps)
    assert fed.clocks.offset_ns("a") == -back_s * S


@pytest.mark.parametrize("n_away", [5, 100])
def test_stream_that_returns_to_its_own_place_is_followed(n_away: int):
    """Replayed at full speed the other one leads: what its batches spanned tells the place."""
    fed = Fed("a", "b")
    fed.together(0, 10)
    fed.send("b", *run_of(10 * BATCH, 90))
    fed.send("a", *run_of(HOUR, n_away))
    steps = fed.send("a", (10 + n_away) * BATCH)
    assert steps == [Step.TAKEN if n_away < N_CONFIRM else Step.FOLLOWED]


@pytest.mark.parametrize("streams", ["a", "ab"])
@pytest.mark.parametrize("span_ns", [BATCH, S])
def test_batches_that_a_glitch_put_in_between_are_dropped(streams: str, span_ns: int):
    """Ten batches of an hour ahead, then time goes on where it was, and not after them."""
    fed = Fed(*streams)
    fed.together(0, 10)
    fed.send(streams[-1], *run_of(10 * BATCH, 60 * (streams == "ab")))
    for k in range(10):
        placed = fed.place(batch(HOUR + k * span_ns, 10 + k, span_ns=span_ns))
        assert placed.step in {Step.JUMPED, Step.HELD}
    fed.sent["a"] = 20
    assert set(fed.send("a", *run_of(10 * BATCH, 5))) == {Step.TAKEN}


def test_what_is_held_at_the_end_is_counted():
    """Whatever was neither taken nor dropped is given up at the end."""
    fed = Fed("a")
    fed.together(0, 4)
    fed.send("a", *run_of(HOUR, 7))
    assert fed.clocks.n_dropped == 0
    fed.clocks.close()
    assert fed.clocks.n_dropped == 7


@pytest.mark.parametrize("first", [0, 60])
def test_streams_far_apart_from_the_start(first: int):
    """The one that came first is followed, the other one is aside from its first batch on."""
    fed = Fed("a", "b")
    assert fed.send("a", first * S) == [Step.TAKEN]
    assert fed.send("b", (60 - first) * S) == [Step.ASIDE]
    assert set(fed.send("a", *run_of(first * S + BATCH, 300))) == {Step.TAKEN}


def test_stream_that_restarts_where_the_session_is_goes_on():
    """A new run at the session's time is no jump, even after a while."""
    fed = Fed("a", "b")
    fed.together(100 * S, 10)
    fed.send("b", *run_of(100 * S + 10 * BATCH, 40))
    fed.clocks.begin("a")
    fed.sent["a"] = fed.expected["a"] = 0
    assert fed.send("a", 102 * S) == [Step.TAKEN]


@pytest.mark.parametrize("lead_batches", [0, 60])
def test_session_restarts_when_every_source_has(lead_batches: int):
    """Two sources begin at zero again, one up to seconds after the other: nothing is lost."""
    fed = Fed("a", "b")
    fed.together(100 * S, 10)
    entered: list[SpikeBatch] = []
    for stream, n in (("a", lead_batches + 1), ("b", 1)):
        fed.clocks.begin(stream)
        fed.expected[stream] = 0
        for k in range(n):
            placed = fed.place(batch(k * BATCH, k, stream))
            entered += placed.batches
    assert placed.step is Step.RESTART
    assert len(entered) == lead_batches + 2
    fed.sent = {"a": lead_batches + 1, "b": 1}
    assert fed.send("a", (lead_batches + 1) * BATCH) == [Step.TAKEN]
    assert fed.send("b", BATCH) == [Step.TAKEN]


def test_last_stream_of_a_session_may_restart_though_another_is_aside():
    """Where no stream is in step any more, the next new run decides, and the other joins it."""
    fed = Fed("a", "b")
    fed.together(100 * S, 10)
    fed.clocks.begin("a")
    fed.sent["a"] = fed.expected["a"] = 0
    fed.send("a", *run_of(0, 1000))  # 50 s until somebody restarts the other one
    fed.clocks.begin("b")
    fed.sent["b"] = fed.expected["b"] = 0
    assert fed.send("b", 0) == [Step.RESTART]
    assert fed.send("a", 50 * S) == [Step.HELD]  # 50 s ahead of the new session


def test_silent_stream_leaves_the_session_to_the_others():
    """A stream set aside alone becomes the session once the others are silent."""
    fed = Fed("a", "b")
    fed.together(0, 10)
    fed.send("a", *run_of(HOUR, N_CONFIRM + 5))
    fed.clocks.unseat("b")
    assert fed.send("a", HOUR + (N_CONFIRM + 5) * BATCH) == [Step.RESTART]


def test_count_from_zero_in_the_same_run_is_confirmed():
    """A source that restarts without a new hello: repeats by their numbers, a session after all."""
    fed = Fed("a")
    fed.together(100 * S, 40)
    fed.sent["a"] = 0
    steps = fed.send("a", *run_of(0, 60))
    assert steps == [Step.JUMPED, *[Step.HELD] * (N_CONFIRM - 2), Step.RESTART, *[Step.TAKEN] * 28]


def test_repeated_batches_are_never_confirmed():
    """Every batch twice: the repeats are given up, whatever the run's age."""
    fed = Fed("a")
    for k in range(100):
        assert fed.send("a", k * BATCH) == [Step.TAKEN]
        fed.sent["a"] -= 1
        assert fed.send("a", k * BATCH) == [Step.JUMPED]
    assert fed.clocks.n_dropped == 0


def test_number_from_nowhere_is_dropped():
    """A number beyond `MAX_LOST` does not make later batches repeats."""
    fed = Fed("a")
    fed.together(0, 4)
    assert fed.place(batch(4 * BATCH, 4 + MAX_LOST + 1)).step is Step.JUMPED
    fed.sent["a"] = 5
    assert fed.send("a", 5 * BATCH) == [Step.TAKEN]


def test_held_batches_are_bounded():
    """A stream that is aside for long keeps its newest batches, and every other one is counted."""
    fed = Fed("a", "b")
    fed.together(0, 4)
    fed.send("a", *run_of(HOUR, HELD_BATCHES + 100))
    assert fed.clocks.n_dropped == 100
    fed.clocks.unseat("a")
    assert fed.clocks.n_dropped == HELD_BATCHES + 100


# The property: windows are those of the healthy streams.

SPEC = WindowSpec(BinRate(100), n_bins=20, stride_bins=7)
N_BATCHES = 80
FAR = [0, HOUR, -HOUR, 15 * S, -15 * S, 2**61, -(2**61)]
OFFSETS = [*FAR, 11 * S, -11 * S, 4 * S, -4 * S, S // 2]


def _spiking(stream: str, start_ns: int, seq: int, unit: int) -> SpikeBatch:
    times = np.array([start_ns, start_ns + unit * MS], dtype=np.int64)
    return SpikeBatch(
        stream, RUN, seq, start_ns, start_ns + BATCH, times, np.zeros(2, dtype=np.uint32)
    )


def _streamed(streams: Sequence[str], batches: Iterable[SpikeBatch]) -> dict[int, Window]:
    """Send batches through the registry, the ring and the cutter."""
    names = "hxyzb"
    population = Population([Unit(name) for name in names])
    ring = BinRing(SPEC.rate, len(names), capacity_bins=1000, window_bins=SPEC.n_bins)
    registry = StreamRegistry(population, "refuse", reach_ns=ring.capacity_ns)
    cutter = WindowCutter(SPEC, ManualClock())
    windows: dict[int, Window] = {}
    for name in streams:
        registry.register(Hello(name, RUN, "test", Population([Unit(name)])), host_ns=0)
        ring.add_stream(name)

    def cut() -> None:
        windows.update((window.first_bin, window.detached()) for window in cutter.ready(ring))

    for one in batches:
        accepted = registry.accept(one)
        for name in accepted.unseated:
            ring.set_blind(name, is_blind=True)
        if accepted.step is Step.RESTART:
            ring.begin_session({taken.stream for taken in accepted.batches})
        for taken in accepted.batches:
            ring.add(taken)
            cut()
    for name in registry.newly_silent(host_ns=S, timeout_ns=0):
        if name == "b":
            ring.set_blind(name, is_blind=True)
    cut()
    return windows


Draw = Callable[[st.SearchStrategy[Any]], Any]


def _bad_starts(draw: Draw, *, begins_well: bool) -> list[int]:
    """Times of a clock that jumps, alternates, stands still or drifts, in any order."""
    # A stream that joins within the ring is taken where it is, and windows begin there. So either
    # its first batch is sound, or it is far from the others until they have begun.
    far_ns = draw(st.sampled_from(FAR[1:]))
    starts = [0] if begins_well else [k * BATCH + far_ns for k in range(30)]
    drift_ns = 0
    while len(starts) < N_BATCHES:
        offset_ns = draw(st.sampled_from(OFFSETS if begins_well else FAR))
        drift_ns += begins_well * draw(st.sampled_from([0, 0, 0, STEP_NS // 2, -BATCH]))
        n, k = draw(st.integers(1, 50)), len(starts)
        starts += [(k + i) * BATCH + offset_ns + drift_ns for i in range(n)]
    return starts[:N_BATCHES]


@given(data=st.data(), n_healthy=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_one_bad_clock_changes_nothing_for_the_others(data: st.DataObject, n_healthy: int):
    """Healthy streams and a bad one, interleaved anyhow: the windows of the healthy ones."""
    healthy = "hxy"[:n_healthy]
    queues = {
        name: [_spiking(name, k * BATCH, k, 1 + unit) for k in range(N_BATCHES)]
        for unit, name in enumerate(healthy)
    }
    alone = _streamed(healthy, [one for trio in zip(*queues.values(), strict=True) for one in trio])
    starts = _bad_starts(data.draw, begins_well=n_healthy == 1 or data.draw(st.booleans()))
    queues["b"] = [_spiking("b", start, k, 5) for k, start in enumerate(starts)]
    # Any interleaving in which no stream is far ahead; the bad one does not begin alone.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    batches = []
    while any(queues.values()):
        most = max(map(len, queues.values()))
        near = [queue for queue in queues.values() if len(queue) > max(0, most - 20)]
        batches.append(near[rng.integers(len(near))].pop(0))
    windows = _streamed([*healthy, "b"], batches)
    assert list(windows) == list(alone)
    columns = ["hxyzb".index(name) for name in healthy]
    for first_bin, window in windows.items():
        assert np.array_equal(window.counts[:, columns], alone[first_bin].counts[:, columns])
