"""Ingest: whatever arrives, a value is passed on or a reason is counted."""

from __future__ import annotations

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

from contracts.errors import PopulationMismatchError, UserError
from contracts.population import Population, Unit
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import pack
from daemon.bin_ring import MAX_STREAMS
from daemon.counters import Counters
from daemon.ingest import Ingest
from daemon.stream_registry import StreamRegistry, StreamState
from tests.support.daemon_components import Context, SourceSocket, connected_source, hello_of
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN, ramp_population
from tests.support.wait_until import wait_until

OTHER_RUN = "f" * 16
HELLO = hello_of(ramp_population(4))

Connected = tuple[SourceSocket, Ingest, Counters]


@contextmanager
def ingest_of(
    context: Context, *, extra_units: Literal["refuse", "ignore"] = "refuse", n_units: int = 4
) -> Iterator[Connected]:
    counters = Counters()
    registry = StreamRegistry(ramp_population(n_units), extra_units)
    ingest = Ingest(context, registry, counters, ManualClock(42))
    try:
        with connected_source(ingest, context) as source:
            yield source, ingest, counters
    finally:
        ingest.close()


@pytest.fixture
def connected(context: Context) -> Iterator[Connected]:
    with ingest_of(context) as connected:
        yield connected


@pytest.fixture
def source(connected: Connected) -> SourceSocket:
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


def taken(ingest: Ingest, max_messages: int = 1000) -> list[SpikeBatch | StreamEnd | Hello]:
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
    assert counters.marks_received == 1


def test_loss_duplicates_and_tail_are_counted(source, ingest, counters):
    """Holes, repeats and what the end adds."""
    source.send(HELLO, batch(0), batch(3), batch(3), batch(1))
    source.send(StreamEnd("probeA", RUN, n_batches=6, n_spikes=0))
    kinds = [type(message).__name__ for message in taken(ingest)]
    assert kinds == ["Hello", "SpikeBatch", "SpikeBatch", "StreamEnd"]
    assert (counters.batches_lost, counters.batches_duplicate) == (2 + 2, 2)


def test_restart_is_counted(source, ingest, counters):
    """A new run under the same name is a restart; the old run's batches are dropped."""
    source.send(HELLO, batch(7))
    source.send(hello_of(ramp_population(4), run=OTHER_RUN), batch(8), batch(0, run=OTHER_RUN))
    kinds = [type(message).__name__ for message in taken(ingest)]
    assert kinds == ["Hello", "SpikeBatch", "Hello", "SpikeBatch"]
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


def test_foreign_population_is_raised_until_settled_and_counted_after(source, ingest, counters):
    """At the start it is raised for the user; later it is a peer's error and stops nothing."""
    foreign = hello_of(Population([Unit("77")]), stream="other")
    source.send(foreign)
    with pytest.raises(PopulationMismatchError, match="unit_id 77"):
        taken(ingest)
    ingest.is_settled = True
    source.send(foreign, batch(0, stream="other"), HELLO, batch(0))
    assert len(taken(ingest)) == 2
    assert counters.wire_errors["population"] == 1
    assert counters.wire_errors["no_hello"] == 1


def test_ignored_units_still_pass(context: Context):
    """With extra_units = ignore the spikes of unknown units pass as unknown."""
    population = Population([*ramp_population(4).units, Unit("77")])
    with ingest_of(context, extra_units="ignore") as (source, ingest, _):
        times, units = np.zeros(2, np.int64), np.array([4, 1], np.uint32)
        source.send(hello_of(population), SpikeBatch("probeA", RUN, 0, 0, 10, times, units))
        _, translated = taken(ingest)
    assert isinstance(translated, SpikeBatch)
    assert translated.unit_index.tolist() == [4, 1]


def test_more_streams_than_the_ring_takes_are_refused(context: Context):
    """Stream 65 and the rest are dropped with a reason, and those before continue."""
    probes = [Population([unit]) for unit in ramp_population(MAX_STREAMS + 3).units]
    with ingest_of(context, n_units=len(probes)) as (source, ingest, counters):
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


def test_jump_that_is_confirmed_loses_nothing(source, ingest, counters):
    """Two batches far away are accepted, the first one with the second."""
    far = 10**10
    jumped = [replace(batch(far + i), seq=1 + i) for i in range(2)]
    source.send(HELLO, batch(0), *jumped)
    assert [m.seq for m in taken(ingest) if isinstance(m, SpikeBatch)] == [0, 1, 2]
    assert (counters.wire_errors["jump"], counters.batches_lost) == (0, 0)


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
    with ingest_of(context) as (source, ingest, counters):
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
    assert len([record for record in caplog.records if record.name == "daemon.ingest"]) == 1


def test_oversized_message_costs_its_sender_the_connection(context: Context):
    """A part beyond the limit never arrives; the daemon is untouched."""
    counters = Counters()
    ingest = Ingest(context, StreamRegistry(ramp_population(4), "refuse"), counters, ManualClock())
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
    ingest = Ingest(
        context, StreamRegistry(ramp_population(4), "refuse"), Counters(), ManualClock()
    )
    with pytest.raises(UserError, match=r"ingest\.connect.*'tcp://nonsense'"):
        ingest.connect(["tcp://nonsense"])
    ingest.close()


def test_rapid_start_and_stop_leaks_nothing(context: Context):
    """Three hundred starts and stops leave no file descriptor behind."""
    process = psutil.Process()

    def start_and_stop() -> None:
        registry = StreamRegistry(ramp_population(4), "refuse")
        ingest = Ingest(context, registry, Counters(), ManualClock())
        ingest.connect(["tcp://127.0.0.1:1"])
        ingest.close()

    start_and_stop()
    before = process.num_fds()
    for _ in range(300):
        start_and_stop()
    wait_until(lambda: process.num_fds() <= before + 2, what="closed descriptors")
