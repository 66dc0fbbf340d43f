"""The fast loop: the walk of a spike, step by step, with everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import zmq

from contracts.binning import BinRate
from contracts.clock import NS_PER_S
from contracts.embedding import PatchEmbedding
from contracts.errors import PopulationMismatchError
from contracts.population import Population, Unit
from contracts.spikes import Mark, SpikeBatch, StreamEnd
from contracts.window import Window, WindowSpec
from daemon.pipeline import MAX_MESSAGES, check_population
from tests.support.daemon_components import Context, FakePort, hello_of, joined_loop, line_to
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import (
    RUN,
    batch_of,
    ramp_numbers,
    ramp_population,
    ramp_spikes,
)

RATE = BinRate(100)
BIN_NS = 10_000_000
SPEC = WindowSpec(RATE, n_bins=20, stride_bins=20)
OTHER_RUN = "f" * 16


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def ramp(
    start_bin: int,
    stop_bin: int,
    *,
    n_bins: int = 10,
    run: str = RUN,
    stream: str = "probeA",
    bits: Sequence[int] | None = None,
    first_seq: int = 0,
) -> list[SpikeBatch]:
    """Batches of a ramp; `bits` are the units of this stream, in its own order."""
    times, units = ramp_spikes(RATE, start_bin, stop_bin)
    if bits is not None:
        mine = np.isin(units, bits)
        times, units = times[mine], units[mine]
        units = np.array([bits.index(int(unit)) for unit in units], dtype=np.uint32)
    return [
        batch_of(
            times,
            units,
            start * BIN_NS,
            (start + n_bins) * BIN_NS,
            seq=first_seq + n,
            stream=stream,
            run=run,
        )
        for n, start in enumerate(range(start_bin, stop_bin, n_bins))
    ]


def part_of(bits: Sequence[int]) -> Population:
    return Population([ramp_population().units[bit] for bit in bits])


class Judge:
    """Remembers which windows it saw, and how many had been handed over by then."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.populations: list[list[str]] = []
        self.port = FakePort()

    def judge(self, embeddings: Sequence[PatchEmbedding]) -> None:
        """Look at one window."""
        self.seen.append((embeddings[0].window.seq, len(self.port.offered)))
        self.populations.append([each.population for each in embeddings])


def numbers(windows: Sequence[Window]) -> list[list[int]]:
    return [ramp_numbers(window.counts) for window in windows]


def spans(*first_bins: int, n_bins: int = 20) -> list[list[int]]:
    return [list(range(first, first + n_bins)) for first in first_bins]


def test_windows_of_a_ramp_are_narrated(context: Context, clock: ManualClock):
    """Every window holds its bins; one narration leaves for each."""
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *ramp(0, 100))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0, 20, 40, 60, 80)
        assert rooms.counters.narrations["ok"] == 5
        assert rooms.publisher.n_published == 5
        assert rooms.loop.is_idle
        assert rooms.counters.spikes_binned == rooms.counters.spikes_received > 0


def test_every_window_is_encoded_in_the_sequential_mode(context: Context, clock: ManualClock):
    """One batch completes ten windows: ten are encoded and offered."""
    with (
        joined_loop(context, clock, SPEC, port=(port := FakePort())) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of(), *ramp(0, 200, n_bins=100))
        rooms.loop.step()
        assert len(port.offered) == rooms.counters.windows_encoded == 10
        assert rooms.counters.windows_dropped["encoder_busy"] == 0


def test_newest_window_of_a_step_is_encoded_else(context: Context, clock: ManualClock):
    """Of ten windows that one step completes nine are counted as dropped; the newest is whole."""
    with (
        joined_loop(
            context, clock, SPEC, port=(port := FakePort()), encode_every_window=False
        ) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of(), *ramp(0, 200, n_bins=100))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(180)
        assert (rooms.counters.windows, rooms.counters.windows_encoded) == (10, 1)
        assert rooms.counters.windows_dropped["encoder_busy"] == 9
        assert len(port.offered) == 1


@pytest.mark.parametrize("encode_every_window", [True, False])
def test_every_third_window_is_handed_over(
    context: Context, clock: ManualClock, encode_every_window: bool
):
    """Those whose number three divides, in a replay or live; the others are not even encoded."""
    with (
        joined_loop(
            context,
            clock,
            SPEC,
            port=(port := FakePort()),
            encode_every_window=encode_every_window,
            narrate_every=3,
        ) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of())
        for message in ramp(0, 200):
            line.send(message)
            rooms.loop.step()
        assert [batch[0].window.seq for batch in port.offered] == [0, 3, 6, 9]
        assert rooms.counters.windows_encoded == 4
        assert rooms.counters.windows_dropped["not_selected"] == 6
        assert rooms.counters.windows_dropped["encoder_busy"] == 0


def test_triggers_see_every_window(context: Context, clock: ManualClock):
    """Also those that are not handed over, and each before it is."""
    port, judged = FakePort(), Judge()
    judged.port = port
    with (
        joined_loop(
            context,
            clock,
            SPEC,
            port=port,
            encode_every_window=False,
            narrate_every=3,
            triggers=judged,
        ) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of())
        for message in ramp(0, 200):
            line.send(message)
            rooms.loop.step()
        assert judged.seen == [(n, (n + 2) // 3) for n in range(10)]
        assert [batch[0].window.seq for batch in port.offered] == [0, 3, 6, 9]


def test_what_triggers_listen_to_is_encoded_and_judged_first(context: Context, clock: ManualClock):
    """The others come after, and only of windows that are narrated; the order stays."""
    port, judged = FakePort(), Judge()
    judged.port = port
    with (
        joined_loop(
            context,
            clock,
            SPEC,
            port=port,
            populations=("all", "VISp", "LGd"),
            encode_every_window=False,
            narrate_every=2,
            triggers=judged,
            urgent=("VISp",),
        ) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of())
        for message in ramp(0, 80):
            line.send(message)
            rooms.loop.step()
        assert judged.populations == [["VISp"]] * 4
        assert judged.seen == [(0, 0), (1, 1), (2, 1), (3, 2)]
        names = [[each.population for each in batch] for batch in port.offered]
        assert names == [["all", "VISp", "LGd"]] * 2
        assert not rooms.encoder.windows


def test_window_that_is_asked_for_is_not_lost_to_one_that_is_not(
    context: Context, clock: ManualClock
):
    """Of ten windows that one step completes, the newest with the right number is handed over."""
    port = FakePort()
    with (
        joined_loop(
            context,
            clock,
            SPEC,
            port=port,
            encode_every_window=False,
            narrate_every=4,
            triggers=Judge(),
        ) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of(), *ramp(0, 200, n_bins=100))
        rooms.loop.step()
        assert [batch[0].window.seq for batch in port.offered] == [0, 4, 8]
        dropped = rooms.counters.windows_dropped
        assert rooms.counters.windows == 10 == 3 + sum(dropped.values())


def test_full_hand_over_holds_the_source(context: Context, clock: ManualClock):
    """Nothing more is read until a window has been taken; the line is silent, not blind."""
    port = FakePort()
    with (
        joined_loop(context, clock, SPEC, port=port) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of())
        rooms.loop.step()
        port.is_full = True
        line.send(*ramp(0, 200))
        rooms.loop.step()
        assert rooms.counters.messages_received == 1
        assert rooms.ingest.sockets == []
        assert rooms.ingest.waiting_streams() == {"probeA"}
        port.is_full = False
        rooms.loop.step()
        assert len(port.offered) == 10


def test_message_is_taken_whole_before_the_loop_holds(context: Context, clock: ManualClock):
    """A jump is believed at its second batch, and both come then: a full port loses neither."""

    class Filling(FakePort):
        """Is full from its first window on."""

        def offer(self, narration_batch) -> None:
            super().offer(narration_batch)
            self.is_full = True

    far_bins = 10 * 3600 * 120
    port = Filling()
    with (
        joined_loop(context, clock, SPEC, port=port, capacity_bins=1000) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        jumped = ramp(far_bins, far_bins + 200, n_bins=100, first_seq=1)
        line.send(hello_of(), *ramp(0, 10), *jumped)
        for _ in range(4):
            rooms.loop.step()
            port.is_full = False
        assert rooms.counters.spikes_received == rooms.counters.spikes_binned
        assert [window.first_bin for window in rooms.encoder.windows][-1] == far_bins + 180


def test_pending_window_outlives_the_ring(context: Context, clock: ManualClock):
    """A window that waits for its turn keeps its counts while the ring is written over."""
    with (
        joined_loop(context, clock, SPEC, encode_every_window=False, capacity_bins=250) as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of(), *ramp(0, 20), *ramp(250, 255, n_bins=5, first_seq=25))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0)


def test_burst_is_taken_in_steps(context: Context, clock: ManualClock):
    """More messages than a step takes are left for the next one."""
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *ramp(0, 600, n_bins=1))
        rooms.loop.step()
        assert rooms.counters.messages_received == MAX_MESSAGES
        rooms.loop.step()
        rooms.loop.step()
        assert rooms.counters.messages_received == 601
        assert numbers(rooms.encoder.windows) == spans(*range(0, 600, 20))


def test_two_probes_cover_the_population_together(context: Context, clock: ManualClock):
    """Odd and even bits on two streams, each in its own order: the windows are the ramp's."""
    odd, even = [15, 1, 3, 13, 5, 11, 7, 9], [0, 2, 4, 6, 8, 10, 12, 14]
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(part_of(odd), stream="odd"))
        rooms.loop.step()
        assert not rooms.ingest.is_settled
        line.send(hello_of(part_of(even), stream="even"))
        rooms.loop.step()
        assert rooms.ingest.is_settled
        line.send(*ramp(0, 60, stream="odd", bits=odd))
        rooms.loop.step()
        assert rooms.encoder.windows == []  # the slower probe decides
        line.send(*ramp(0, 60, stream="even", bits=even))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0, 20, 40)
        assert rooms.counters.gap_bins == 0


def test_probe_that_joins_later_loses_nothing(context: Context, clock: ManualClock):
    """The first probe is two seconds ahead when the second says hello: the windows are whole."""
    left, right = list(range(8)), list(range(8, 16))
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(part_of(left), stream="l"), *ramp(0, 200, stream="l", bits=left))
        rooms.loop.step()
        line.send(hello_of(part_of(right), stream="r"), *ramp(0, 200, stream="r", bits=right))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(*range(0, 200, 20))
        assert (rooms.counters.gap_bins, rooms.counters.spikes_late) == (0, 0)


def test_no_window_before_every_unit_is_announced(context: Context, clock: ManualClock):
    """Half a population is not narrated, however long it sends."""
    half = list(range(8))
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(part_of(half)), *ramp(0, 200, bits=half))
        rooms.loop.step()
        assert rooms.counters.windows == 0
        assert rooms.counters.spikes_binned > 0
        with pytest.raises(PopulationMismatchError, match=r"8 units .*unit_id 8, 9"):
            check_population(rooms.ingest, first_hello_ns=0, timeout_s=1, now_ns=NS_PER_S)
        check_population(rooms.ingest, first_hello_ns=0, timeout_s=1, now_ns=NS_PER_S - 1)


def test_foreign_stream_after_settling_stops_nobody(context: Context, clock: ManualClock):
    """A second source of another session is counted at every hello and batch, never raised."""
    foreign = Population([Unit("900"), Unit("901")])
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *ramp(0, 40))
        for seq in range(3):
            line.send(hello_of(foreign, stream="b"), *ramp(0, 10, stream="b", first_seq=seq))
        line.send(StreamEnd("b", RUN, 3, 0), *ramp(40, 80, first_seq=4))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0, 20, 40, 60)
        assert rooms.counters.wire_errors["population"] == 3
        assert rooms.counters.wire_errors["no_hello"] == 4


def test_restart_with_fewer_units_does_not_unsettle(context: Context, clock: ManualClock):
    """A source that comes back with half of its units is heard, and the daemon goes on."""
    half = list(range(8))
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *ramp(0, 40))
        line.send(hello_of(part_of(half), run=OTHER_RUN), *ramp(40, 80, run=OTHER_RUN, bits=half))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0, 20, 40, 60)
        check_population(rooms.ingest, first_hello_ns=0, timeout_s=1, now_ns=99 * NS_PER_S)
        assert rooms.ingest.registry.missing_units() == [str(bit) for bit in range(8, 16)]


def test_lost_batches_are_gaps_and_nothing_shifts(context: Context, clock: ManualClock):
    """The bins of a lost batch are empty and counted; the others keep their place."""
    batches = ramp(0, 60)
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *batches[:2], *batches[3:])
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == [
            *spans(0),
            [*[0] * 10, *range(30, 40)],
            *spans(40),
        ]
        assert [window.n_gap_bins for window in rooms.encoder.windows] == [0, 10, 0]
        assert (rooms.counters.batches_lost, rooms.counters.gap_bins) == (1, 10)


def test_duplicates_are_counted_once(context: Context, clock: ManualClock):
    """Every batch twice, in any order: the windows do not change."""
    batches = ramp(0, 60)
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *(batch for batch in batches for _ in range(2)), *batches[::-1])
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0, 20, 40)
        assert rooms.counters.batches_duplicate == 12


def test_empty_batches_are_silence_and_not_loss(context: Context, clock: ManualClock):
    """Windows of nothing are narrated without a gap."""
    none = np.array([], dtype=np.int64), np.array([], dtype=np.uint32)
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), batch_of(*none, 0, 40 * BIN_NS))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == [[0] * 20] * 2
        assert rooms.counters.gap_bins == 0


def test_marks_in_any_place_change_nothing(context: Context, clock: ManualClock):
    """Marks before the hello, before their batch and after it are counted."""
    mark = Mark("probeA", RUN, 100, 200, "movie", 1)
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(mark, hello_of(), mark, *ramp(0, 20), mark)
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0)
        assert rooms.counters.marks_received == 3


def test_restarted_session_is_narrated_from_its_beginning(context: Context, clock: ManualClock):
    """A new run that goes back in time is cut anew, once; its numbers have no mixture."""
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *ramp(100, 160))
        line.send(hello_of(run=OTHER_RUN), *ramp(0, 40, run=OTHER_RUN))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(100, 120, 140, 0, 20)
        assert rooms.counters.stream_restarts == 1
        assert rooms.counters.spikes_late == 0


def test_blind_stream_is_not_waited_for_and_comes_back(context: Context, clock: ManualClock):
    """Windows go on without it and say so; with its next batch it is waited for again."""
    left, right = list(range(8)), list(range(8, 16))
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(part_of(left), stream="l"), hello_of(part_of(right), stream="r"))
        line.send(*ramp(0, 20, stream="l", bits=left), *ramp(0, 20, stream="r", bits=right))
        line.send(*ramp(20, 60, stream="l", bits=left, first_seq=2))
        rooms.loop.step()
        assert len(rooms.encoder.windows) == 1
        rooms.loop.stop_waiting_for("r")
        assert [window.blind_streams for window in rooms.encoder.windows] == [(), ("r",), ("r",)]
        assert rooms.counters.streams_blind == 1
        line.send(*ramp(60, 80, stream="r", bits=right, first_seq=6))
        line.send(*ramp(60, 80, stream="l", bits=left, first_seq=6))
        rooms.loop.step()
        assert rooms.encoder.windows[-1].blind_streams == ()
        assert numbers(rooms.encoder.windows[-1:]) == spans(60)
        assert rooms.counters.batches_lost == 4


def test_ended_stream_is_not_waited_for(context: Context, clock: ManualClock):
    """One probe's end lets the other's windows go on, and lost last batches are counted."""
    left, right = list(range(8)), list(range(8, 16))
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(part_of(left), stream="l"), hello_of(part_of(right), stream="r"))
        line.send(*ramp(0, 20, stream="l", bits=left), *ramp(0, 20, stream="r", bits=right))
        line.send(StreamEnd("r", RUN, n_batches=7, n_spikes=0))
        line.send(*ramp(20, 60, stream="l", bits=left, first_seq=2))
        rooms.loop.step()
        assert len(rooms.encoder.windows) == 3
        assert rooms.counters.batches_lost == 5
        assert not rooms.ingest.registry.have_all_ended


def test_end_of_another_run_does_not_end_the_stream(context: Context, clock: ManualClock):
    """A stale end leaves the stream live: it still holds the watermark and counts its gaps."""
    left, right = list(range(8)), list(range(8, 16))
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(part_of(left), stream="l"), hello_of(part_of(right), stream="r"))
        line.send(*ramp(0, 20, stream="l", bits=left), *ramp(0, 20, stream="r", bits=right))
        line.send(StreamEnd("r", OTHER_RUN, n_batches=7, n_spikes=0))
        line.send(*ramp(20, 60, stream="l", bits=left, first_seq=2))
        rooms.loop.step()
        assert len(rooms.encoder.windows) == 1
        assert rooms.loop.ring.blind_streams == ()


def test_spikes_of_unknown_units_are_counted(context: Context, clock: ManualClock):
    """Where extra units are ignored their spikes are unknown and the windows are whole."""
    population = Population([Unit("900"), *ramp_population().units])
    times, units = ramp_spikes(RATE, 0, 20)
    times = np.append(times, [5, 6]).astype(np.int64)
    units = np.append(units + 1, [0, 4_000_000_000]).astype(np.uint32)
    with (
        joined_loop(context, clock, SPEC, extra_units="ignore") as rooms,
        line_to(rooms.ingest, context) as line,
    ):
        line.send(hello_of(population), batch_of(times, units, 0, 20 * BIN_NS))
        rooms.loop.step()
        assert numbers(rooms.encoder.windows) == spans(0)
        assert rooms.counters.spikes_unknown == 2
        assert rooms.counters.spikes_binned + 2 == rooms.counters.spikes_received


@pytest.mark.parametrize("far_ns", [2**61, -(2**61)])
def test_batch_from_nowhere_never_raises(far_ns: int, context: Context, clock: ManualClock):
    """A clock that jumps by decades: nothing raises, every spike is binned, late or unknown."""
    one = np.array([far_ns], dtype=np.int64), np.array([3], dtype=np.uint32)
    with joined_loop(context, clock, SPEC) as rooms, line_to(rooms.ingest, context) as line:
        line.send(hello_of(), *ramp(0, 40), batch_of(*one, far_ns, far_ns + 10, seq=4))
        line.send(*ramp(40, 80, first_seq=5))
        rooms.loop.step()
        counters = rooms.counters
        assert numbers(rooms.encoder.windows)[:2] == spans(0, 20)
        assert counters.spikes_received == counters.spikes_binned + counters.spikes_late


def test_stamps_of_a_published_narration_sum_up(context: Context):
    """From the walk itself: each stage is there, none is negative, and they sum to the total."""

    class Ticking(ManualClock):
        def now_ns(self) -> int:
            self.ns += 1_000_003
            return self.ns

    with (
        joined_loop(context, Ticking(), SPEC, populations=("all", "PV")) as rooms,
        line_to(rooms.ingest, context) as line,
        context.socket(zmq.SUB) as socket,
    ):
        socket.subscribe(b"narration.")
        socket.connect(rooms.publisher.address)
        assert rooms.publisher.socket.poll(5000)
        rooms.publisher.serve()
        line.send(hello_of(), *ramp(0, 20))
        rooms.loop.step()
        for name in (b"narration.all", b"narration.PV"):
            assert socket.poll(5000)
            topic, payload = socket.recv_multipart()
            latency_ms = json.loads(payload)["latency_ms"]
            total = latency_ms.pop("total")
            assert topic == name
            assert min(latency_ms.values()) > 0
            assert sum(latency_ms.values()) == pytest.approx(total)
