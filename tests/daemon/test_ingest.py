"""Ingest: whatever arrives, a value is passed on or a reason is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import msgpack
import numpy as np
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.clock import NS_PER_S
from contracts.errors import UserError
from contracts.population import Population, Unit
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import pack, unpack
from daemon import hello_reader
from daemon.bin_ring import MAX_STREAMS
from daemon.counters import Counters
from daemon.hello_reader import HELLO_COST_BYTES, MAX_HELLO_BYTES, SMALL_HELLO_BYTES
from daemon.ingest import Ingest
from daemon.message_intake import MARK_COST_BYTES, Ingested, SessionStart
from daemon.source_connection import MARK_BYTES_AT_ONCE
from daemon.stream_registry import StreamRegistry, StreamState
from tests.support.daemon_components import Context, SentMessages, connected_source, hello_of
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN, ramp_population
from tests.support.wait_until import wait_until

OTHER_RUN = "f" * 16
HELLO = hello_of(ramp_population(4))

Connected = tuple[SentMessages, Ingest, Counters]


@contextmanager
def ingest_of(
    *,
    extra_units: Literal["refuse", "ignore"] = "refuse",
    n_units: int = 4,
    clock: ManualClock | None = None,
) -> Iterator[Connected]:
    counters = Counters()
    registry = StreamRegistry(ramp_population(n_units), extra_units)
    ingest = Ingest(registry, counters, clock or ManualClock(42))
    try:
        yield connected_source(ingest), ingest, counters
    finally:
        ingest.close()


@pytest.fixture
def connected(context: Context) -> Iterator[Connected]:
    with ingest_of() as connected:
        yield connected


@pytest.fixture
def source(connected: Connected) -> SentMessages:
    return connected[0]


@pytest.fixture
def ingest(connected: Connected) -> Ingest:
    return connected[1]


@pytest.fixture
def counters(connected: Connected) -> Counters:
    return connected[2]


def batch(seq: int = 0, *, stream: str = "probeA", run: str = RUN, n_spikes: int = 0) -> SpikeBatch:
    times = np.full(n_spikes, seq * 10, dtype=np.int64)
    return SpikeBatch(
        stream, run, seq, seq * 10, seq * 10 + 10, times, np.zeros(n_spikes, dtype=np.uint32)
    )


def taken(ingest: Ingest, max_messages: int = 1000) -> list[Ingested]:
    return list(ingest.receive(max_messages=max_messages))


def test_batch_is_stamped_on_arrival(source, ingest, counters):
    """Hello and batch come through in order, the batch with our clock's time."""
    source.send(HELLO, batch(0, n_spikes=3), batch(1))
    hello, first, empty = taken(ingest)
    assert isinstance(hello, Hello)
    assert isinstance(first, SpikeBatch)
    assert isinstance(empty, SpikeBatch)
    assert (first.received_host_ns, first.n_spikes, empty.n_spikes) == (42, 3, 0)
    assert (counters.messages_received, counters.hellos_received) == (3, 1)
    assert counters.spikes_received == 3


def test_repeated_hello_is_counted_and_kept_back(source, ingest, counters):
    """The hello of every second is no news."""
    source.send(*[HELLO] * 3)
    assert len(taken(ingest)) == 1
    assert counters.hellos_received == 3
    assert counters.stream_restarts == 0


def test_batch_before_its_hello_is_counted(source, ingest, counters):
    """Without a hello a batch is dropped; its reason is no_hello."""
    source.send(batch(0, n_spikes=2))
    assert taken(ingest) == []
    assert counters.wire_errors["no_hello"] == 1
    assert counters.spikes_received == 0


def test_mark_before_anything_is_counted(source, ingest, counters):
    """Marks may come before their batch and before any hello."""
    source.send(Mark("probeA", RUN, 0, 10, "movie", 3))
    assert taken(ingest) == []
    assert (counters.marks_received, counters.marks_dropped) == (1, 1)


def test_marks_of_a_followed_run_are_passed_on_in_order(source, ingest, counters):
    """Those of another run, of another stream or over another connection are not."""
    other = connected_source(ingest)
    marks = [Mark("probeA", RUN, start_ns, start_ns + 5, "movie", 3) for start_ns in (0, 10, 20)]
    source.send(HELLO, marks[0], batch(0), marks[1], marks[2])
    source.send(replace(marks[0], run=OTHER_RUN), replace(marks[0], stream="probeB"))
    assert [message for message in taken(ingest) if isinstance(message, Mark)] == marks
    other.send(*marks)
    assert taken(ingest) == []
    assert (counters.marks_received, counters.marks_dropped) == (8, 5)


def test_flood_of_marks_is_left_out_beyond_a_rate():
    """What one connection sends too fast is counted; another's marks are not touched by it."""
    clock = ManualClock(42)
    mark = Mark("probeA", RUN, 0, 10, "x" * 1024, 3, caption="語" * 1024)
    n_bytes = len(pack(mark)[1]) + MARK_COST_BYTES
    with ingest_of(clock=clock, extra_units="ignore") as (flood, ingest, counters):
        flood.send(HELLO, *[mark] * 500)
        n_passed = sum(isinstance(message, Mark) for message in taken(ingest))
        assert n_passed == -(-MARK_BYTES_AT_ONCE // n_bytes)
        assert counters.marks_dropped == 500 - n_passed
        units = Population([Unit("other")])
        good = connected_source(ingest)
        good.send(Hello("good", OTHER_RUN, "test", units))
        good.send(*[Mark("good", OTHER_RUN, n, n + 1, "movie", n) for n in range(400)])
        assert len(taken(ingest)) == 401
        clock.sleep_ns(NS_PER_S)
        flood.send(mark)
        assert taken(ingest) == [mark]


def test_loss_duplicates_and_tail_are_counted(source, ingest, counters):
    """Holes, repeats and what the end adds."""
    source.send(HELLO, batch(0), batch(3), batch(3), batch(1))
    source.send(StreamEnd("probeA", RUN, n_batches=6, n_spikes=0))
    kinds = [type(message).__name__ for message in taken(ingest)]
    assert kinds == ["Hello", "SpikeBatch", "SpikeBatch", "StreamEnd"]
    assert (counters.batches_lost, counters.batches_duplicate) == (2 + 2, 2)


def test_batches_from_before_it_listened_are_counted(source, ingest, counters):
    """As many as the hello says that the source has sent."""
    source.send(replace(HELLO, next_seq=5), batch(5))
    assert len(taken(ingest)) == 2
    assert (counters.batches_before, counters.batches_lost) == (5, 0)


def test_restart_is_counted(source, ingest, counters):
    """A new run under the same name is a restart; the old run's batches are dropped."""
    source.send(HELLO, batch(7))
    source.send(hello_of(ramp_population(4), run=OTHER_RUN), batch(8), batch(0, run=OTHER_RUN))
    kinds = [type(message).__name__ for message in taken(ingest)]
    assert kinds == ["Hello", "SpikeBatch", "Hello", "SessionStart", "SpikeBatch"]
    assert counters.stream_restarts == 1
    assert counters.wire_errors["no_hello"] == 1
    assert counters.batches_lost == 7


def test_end_of_an_unknown_run_ends_nothing(source, ingest, counters):
    """An end that is not of the stream's run is dropped and counted; the stream stays live."""
    source.send(HELLO)
    source.send(StreamEnd("probeA", OTHER_RUN, 9, 9), StreamEnd("probeB", RUN, 9, 9))
    assert [type(message) for message in taken(ingest)] == [Hello]
    assert ingest.registry.streams["probeA"].state is StreamState.LIVE
    assert counters.wire_errors["no_hello"] == 2
    assert counters.batches_lost == 0


@pytest.mark.parametrize("is_settled", [False, True])
def test_foreign_population_is_refused_and_stops_nothing(source, ingest, counters, is_settled):
    """Before and after the start: counted at every hello, kept with the reason, read once."""
    ingest.is_settled = is_settled
    foreign = hello_of(Population([Unit("77")]), stream="other")
    source.send(foreign, batch(0, stream="other"), foreign, HELLO, batch(0))
    assert len(taken(ingest)) == 2
    assert counters.wire_errors["population"] == 2
    assert counters.wire_errors["no_hello"] == 1
    assert "unit_id 77" in str(ingest.refusals["other"].error)
    source.send(hello_of(ramp_population(4), stream="other", run=OTHER_RUN))
    source.send(StreamEnd("probeA", RUN, 1, 0))
    taken(ingest)
    source.send(hello_of(ramp_population(4), stream="other", run=OTHER_RUN))
    assert len(taken(ingest)) == 1
    assert not ingest.refusals


def test_labels_of_a_peer_do_not_steer_a_terminal(source, ingest, caplog):
    """Unit labels and the source's name are escaped and cut before they are logged."""
    label = "\x1b[2J\nWARNING all is well" + "x" * 1000
    source.send(Hello("other", RUN, "\x1b[31mred", Population([Unit(label)])))
    taken(ingest)
    (record,) = caplog.records
    assert "\\x1b[2J\\nWARNING" in record.detail
    assert "\\x1b[31mred" in record.detail
    assert record.detail.isprintable()
    assert len(record.detail) < 400


def large_hello(n_units: int = 1000, *, run: str = RUN) -> Hello:
    return hello_of(ramp_population(n_units), run=run)


def test_large_hello_is_read_by_a_thread_in_order(
    context: Context, monkeypatch: pytest.MonkeyPatch
):
    """Its socket is left unread meanwhile: the batches behind it come after it, none is lost."""
    may_read = threading.Event()

    def slowly(parts, **limits: int):
        assert may_read.wait(10)
        return unpack(parts, **limits)

    monkeypatch.setattr(hello_reader, "unpack", slowly)
    with ingest_of(n_units=1000) as (source, ingest, counters):
        assert len(pack(large_hello())[1]) > SMALL_HELLO_BYTES
        source.send(large_hello(), batch(0), batch(1))
        assert taken(ingest) == []
        assert ingest.poll_fds == []
        may_read.set()
        received: list[Ingested] = []

        def have_come() -> bool:
            received.extend(taken(ingest))
            return len(received) == 3

        wait_until(have_come, what="the hello and what follows it")
    assert [type(message) for message in received] == [Hello, SpikeBatch, SpikeBatch]
    assert counters.wire_errors["no_hello"] == 0


def test_flood_of_hellos_is_bounded(context: Context):
    """A new run in each: as many are read as the budget allows, the others are counted."""
    clock = ManualClock()
    with ingest_of(clock=clock) as (source, ingest, counters):
        source.send(*(hello_of(ramp_population(4), run=f"{n:016x}") for n in range(1500)))
        while taken(ingest):
            pass
        n_read = counters.hellos_received
        assert n_read < MAX_HELLO_BYTES / HELLO_COST_BYTES
        assert counters.wire_errors["rate"] == 1500 - n_read
        clock.sleep_ns(10**9)
        source.send(hello_of(ramp_population(4), run=OTHER_RUN))
        assert isinstance(taken(ingest)[0], Hello)


def test_hello_of_too_many_units_is_not_read(source, ingest, counters):
    """A hundred thousand units, a table beyond the bytes: dropped with the reason, unread."""
    many = Population([Unit(f"{n}") for n in range(100_000)])
    source.send_raw(*pack(hello_of(many)))
    texts = Population([Unit("x" * 1000 + f"{n}") for n in range(3000)])
    source.send_raw(*pack(hello_of(texts)))
    wait_until(lambda: taken(ingest) or counters.wire_errors["size"] == 2, what="both")
    assert not ingest.registry.streams


def test_ignored_units_still_pass(context: Context):
    """With extra_units = ignore the spikes of unknown units pass as unknown."""
    population = Population([*ramp_population(4).units, Unit("77")])
    with ingest_of(extra_units="ignore") as (source, ingest, _):
        times, units = np.zeros(2, np.int64), np.array([4, 1], np.uint32)
        source.send(hello_of(population), SpikeBatch("probeA", RUN, 0, 0, 10, times, units))
        _, translated = taken(ingest)
    assert isinstance(translated, SpikeBatch)
    assert translated.unit_index.tolist() == [4, 1]


def test_more_streams_than_the_ring_takes_are_refused(context: Context):
    """Stream 65 and the rest are dropped with a reason, and those before continue."""
    probes = [Population([unit]) for unit in ramp_population(MAX_STREAMS + 3).units]
    with ingest_of(n_units=len(probes)) as (source, ingest, counters):
        source.send(*(hello_of(probe, stream=f"s{n}") for n, probe in enumerate(probes)))
        assert len(taken(ingest)) == MAX_STREAMS
        source.send(hello_of(probes[0], stream="s0", run=OTHER_RUN))  # a restart fits
        assert len(taken(ingest)) == 1
    assert counters.wire_errors["stream"] == 3


def test_units_of_another_live_stream_are_refused(source, ingest, counters):
    """The same units under two names would be counted twice: the second stream is refused."""
    source.send(HELLO)
    assert len(taken(ingest)) == 1
    ingest.is_settled = True
    source.send(hello_of(ramp_population(4), stream="again"))
    assert not taken(ingest)
    assert counters.wire_errors["population"] == 1


def test_one_batch_from_nowhere_is_dropped(source, ingest, counters):
    """A far jump of the clock that the next batch does not confirm costs that batch alone."""
    nowhere = replace(batch(10**15), seq=1)
    source.send(HELLO, batch(0), nowhere, batch(2), batch(3))
    assert [m.seq for m in taken(ingest) if isinstance(m, SpikeBatch)] == [0, 2, 3]
    assert (counters.wire_errors["jump"], counters.batches_lost) == (1, 1)


def test_batch_that_silence_gives_up_is_counted(source, ingest, counters):
    """It was held back until a next one could confirm its time, and none came."""
    source.send(HELLO, batch(0), replace(batch(10**15), seq=1))
    assert [m.seq for m in taken(ingest) if isinstance(m, SpikeBatch)] == [0]
    assert counters.wire_errors["jump"] == 0
    assert ingest.registry.newly_silent(host_ns=2**62, timeout_ns=1)
    assert not taken(ingest)
    assert counters.wire_errors["jump"] == 1


def test_jump_that_is_confirmed_loses_nothing(source, ingest, counters):
    """A single source goes on far away: a new session, with every batch since the jump."""
    far_ns = 10**14
    jumped = [
        replace(batch(1 + n), start_ns=far_ns + n * 10**8, stop_ns=far_ns + (n + 1) * 10**8)
        for n in range(40)
    ]
    source.send(HELLO, batch(0), *jumped)
    messages = taken(ingest)
    assert [m.seq for m in messages if isinstance(m, SpikeBatch)] == list(range(41))
    assert [m for m in messages if isinstance(m, SessionStart)] == [SessionStart(("probeA",))]
    assert (counters.wire_errors["jump"], counters.batches_lost) == (0, 0)


def test_two_sources_of_one_name_are_told(context: Context):
    """Two connections: the first source loses nothing, what the second one sends is counted."""
    with ingest_of() as (first, ingest, counters):
        second = connected_source(ingest)
        first.send(HELLO, batch(0))
        taken(ingest)
        for seq in range(1, 20):
            second.send(hello_of(ramp_population(4), run=OTHER_RUN), batch(seq, run=OTHER_RUN))
            first.send(batch(seq))
            assert [type(message) for message in taken(ingest)] == [SpikeBatch]
        assert ingest.registry.streams["probeA"].rival_run == OTHER_RUN
    assert counters.wire_errors["taken"] == 38
    assert counters.batches_lost == counters.stream_restarts == 0


def test_life_of_a_stream_is_logged_once_each(source, ingest, caplog):
    """Joining, jumping, coming back, restarting and ending are a line each; batches are none."""
    caplog.set_level("INFO")
    source.send(HELLO, *(batch(seq) for seq in range(50)))
    source.send(*(replace(batch(50 + n), start_ns=10**15, stop_ns=10**15 + 10) for n in range(10)))
    source.send(*(batch(seq) for seq in range(60, 80)))
    source.send(hello_of(ramp_population(4), run=OTHER_RUN), batch(0, run=OTHER_RUN))
    source.send(StreamEnd("probeA", OTHER_RUN, 1, 0))
    taken(ingest)
    assert [record.message for record in caplog.records] == [
        "stream joined",
        "stream's time jumped",
        "stream restarted",
        "session begins anew",
        "stream ended",
    ]


def test_one_poisoned_sequence_number_costs_one_batch(source, ingest, counters):
    """A number from nowhere does not make every later batch a duplicate."""
    poisoned = replace(batch(1), seq=2**62)
    source.send(HELLO, batch(0), poisoned, batch(2), batch(3))
    assert [m.seq for m in taken(ingest) if isinstance(m, SpikeBatch)] == [0, 2, 3]
    assert (counters.wire_errors["jump"], counters.batches_lost) == (1, 1)


def test_no_more_messages_than_asked_for(source, ingest):
    """A burst is taken in steps, so that the loop comes round."""
    source.send(HELLO, *(batch(seq) for seq in range(20)))
    assert [len(taken(ingest, 8)) for _ in range(4)] == [8, 8, 5, 0]


HOSTILE: dict[str, tuple[str, list[bytes]]] = {
    "nothing": ("parts", [b""]),
    "topic": ("topic", [b"zzz.a", b"\x80"]),
    "header": ("header", [b"spikes.a", b"\xc1", b"", b""]),
    "parts": ("parts", [b"spikes.a", b"\x80"]),
    "version": ("version", [b"hello.a", msgpack.packb({"version": 99})]),
    "size": ("size", [b"mark.a", b"\x00" * 100_000]),
    "length": ("length", [*map(bytes, pack(batch(0, n_spikes=2))[:3]), b"1234"]),
    "stream": ("stream", [b"spikes.other", *map(bytes, pack(batch(0))[1:])]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_message_is_counted_and_the_next_one_taken(name: str, source, ingest, counters):
    """What does not follow the format is dropped with its reason; the stream continues."""
    reason, parts = HOSTILE[name]
    source.send(HELLO, batch(0))
    source.send_raw(*parts)
    source.send(batch(1))
    assert len(taken(ingest)) == 3
    assert {key for key, n in counters.wire_errors.items() if n} == {reason}


@given(st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=5), max_size=20))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_noise_never_raises(context: Context, messages: list[list[bytes]]):
    """Random parts are each counted once, and nothing comes of them."""
    with ingest_of() as (source, ingest, counters):
        for parts in messages:
            source.send_raw(*parts)
        assert taken(ingest) == []
    assert counters.messages_received == len(messages)
    assert sum(counters.wire_errors.values()) == len(messages)


def test_flood_of_bad_messages_is_logged_once_a_second(source, ingest, counters, caplog):
    """A thousand bad messages are a thousand in the counter and one line in the log."""
    for _ in range(1000):
        source.send_raw(b"zzz", b"")
    assert taken(ingest, 2000) == []
    assert counters.wire_errors["topic"] == 1000
    assert len([record for record in caplog.records if record.name == "daemon.message_intake"]) == 1


def test_flood_of_bad_messages_is_left_unread(context: Context):
    """Beyond a thousand at once a hundred a second are read, and the others wait."""
    clock = ManualClock(42)
    with ingest_of(clock=clock) as (source, ingest, counters):
        for _ in range(1500):
            source.send_raw(b"zzz", b"")
        for _ in range(3):
            taken(ingest, 2000)
            assert counters.wire_errors["topic"] == 1000
        assert ingest.poll_fds == []
        assert ingest.is_drained  # a stream of it that says nothing becomes blind
        clock.ns += NS_PER_S
        taken(ingest, 2000)
        assert counters.wire_errors["topic"] == 1100
        for _ in range(60):
            clock.ns += NS_PER_S // 10
            taken(ingest, 2000)
        assert counters.wire_errors["topic"] == 1500


def test_oversized_message_costs_its_sender_the_connection(context: Context):
    """A part beyond the limit never arrives; the daemon is untouched."""
    counters = Counters()
    ingest = Ingest(StreamRegistry(ramp_population(4), "refuse"), counters, ManualClock())
    with context.socket(zmq.XPUB) as sender:
        sender.set(zmq.LINGER, 0)
        port = sender.bind_to_random_port("tcp://127.0.0.1")
        ingest.connect([f"tcp://127.0.0.1:{port}"])
        assert sender.poll(5000)
        sender.recv()
        sender.send_multipart([b"spikes.a", bytes(17 << 20), b"", b""])
        assert sender.poll(10_000), "the connection was not cut"  # the subscription ends with it
        assert sender.recv() == b"\x00"
    assert taken(ingest) == []
    ingest.close()


def test_bad_address_is_the_users_error(context: Context):
    """An address that ZeroMQ refuses is reported with the setting's name."""
    ingest = Ingest(StreamRegistry(ramp_population(4), "refuse"), Counters(), ManualClock())
    with pytest.raises(UserError, match=r"ingest\.connect.*'tcp://nonsense'"):
        ingest.connect(["tcp://nonsense"])
    ingest.close()


def test_rapid_start_and_stop_leaks_nothing(context: Context):
    """Three hundred starts and stops leave no file descriptor behind."""
    process = psutil.Process()

    def start_and_stop() -> None:
        registry = StreamRegistry(ramp_population(4), "refuse")
        ingest = Ingest(registry, Counters(), ManualClock())
        ingest.connect(["tcp://127.0.0.1:1"])
        ingest.close()

    start_and_stop()
    before = process.num_fds()
    for _ in range(300):
        start_and_stop()
    wait_until(lambda: process.num_fds() <= before + 2, what="closed descriptors")
