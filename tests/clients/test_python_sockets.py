"""neurrate-client over real sockets: the daemon's own publisher and reader at the other end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import neurrate_client as client
import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neurrate_client import InvalidMessageError, Lost, Unit

from contracts.narration_wire import pack_narration
from contracts.source_json import pack_mark
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.trigger import pack_trigger
from contracts.wire import unpack
from daemon.publisher import Publisher
from tests.support.daemon_components import Context
from tests.support.narrations import narration
from tests.support.triggers import trigger
from tests.support.wait_until import wait_until
from tests.support.wire_fuzz import RUN

DEADLINE_S = 60.0
UNITS = [Unit("950901", "probeA"), Unit("950902", "probeA", "VISp", depth_um=12)]


@pytest.fixture
def daemon(context: Context) -> Iterator[Publisher]:
    """Yield the socket of a daemon."""
    daemon = Publisher(context, "tcp://127.0.0.1:*")
    yield daemon
    daemon.close()


@pytest.fixture
def source() -> Iterator[client.Publisher]:
    """Yield a source that has sent nothing."""
    source = client.Publisher("tcp://127.0.0.1:0", stream="probeA", units=UNITS, source="a test")
    yield source
    source.close(flush_s=0)


@pytest.fixture
def receiver(context: Context, source: client.Publisher) -> Iterator[Callable[[], object]]:
    """Yield a function that returns the next message of the source, read by the daemon's reader.

    Of the hellos of a run, which come once a second, it returns the first.
    """
    with context.socket(zmq.SUB) as socket:
        socket.set(zmq.RCVTIMEO, int(1000 * DEADLINE_S))
        socket.set(zmq.LINGER, 0)
        socket.subscribe(b"")
        socket.connect(source.address)
        assert source.wait_for_subscriber(DEADLINE_S)
        runs: set[str] = set()

        def receive() -> object:
            message = unpack(socket.recv_multipart())
            while isinstance(message, Hello) and message.run in runs:
                message = unpack(socket.recv_multipart())
            runs.add(message.run)
            return message

        yield receive


def _join(daemon: Publisher, subscriber: client.Subscriber | client.AsyncSubscriber) -> None:
    """Serve a subscription; a socket subscribes again, after a reconnection, once it is used."""
    n_served = 0

    def is_served() -> bool:
        nonlocal n_served
        subscriber._socket.get(zmq.EVENTS)
        n_served += bool(daemon.socket.poll(10))
        daemon.serve()
        return n_served > 0

    wait_until(is_served, deadline_s=DEADLINE_S, what="a subscription")


def _spoken(daemon: Publisher, seq: int, *, run: str = "run") -> None:
    daemon.publish(pack_narration(replace(narration(seq=seq), id=f"{run}-all-{seq}")))


# ---- subscribers


def test_a_newcomer_gets_the_last_value_and_then_the_next(daemon):
    """Marked as a repeat; who has it already does not get it again."""
    _spoken(daemon, 4)
    with client.Subscriber(daemon.address, ["narration."]) as first:
        _join(daemon, first)
        repeated = first.receive(DEADLINE_S)
        assert isinstance(repeated, client.Narration)
        assert (repeated.seq, repeated.repeat) == (4, True)
        with client.Subscriber(daemon.address, ["narration."]) as second:
            _join(daemon, second)
            wait_until(lambda: daemon.serve() or second.receive(0.01), what="a repeat")
            _spoken(daemon, 5)
            following = first.receive(DEADLINE_S)
            assert isinstance(following, client.Narration)
            assert (following.seq, following.repeat) == (5, False)
            assert first.reader.n_repeats == 1
            assert first.reader.latest == {"narration.all": following}


def test_holes_are_reported_where_they_are(daemon):
    """Before the message that follows, for each population and rule on its own."""
    with client.Subscriber(daemon.address, [""]) as subscriber:
        _join(daemon, subscriber)
        for seq in (7, 8, 11):
            _spoken(daemon, seq)
        daemon.publish(pack_trigger(trigger("car", seq=3)))
        daemon.publish(pack_trigger(trigger("car", seq=5)))
        events = [subscriber.receive(DEADLINE_S) for _ in range(7)]
        assert events[2] == Lost(topic="narration.all", first_seq=9, n=2)
        assert events[5] == Lost(topic="trigger.car", first_seq=4, n=1)
        assert [
            event.seq for event in events if isinstance(event, client.Narration | client.Trigger)
        ] == [7, 8, 11, 3, 5]
        assert subscriber.reader.n_lost == 3


def test_a_daemon_that_comes_back_is_followed(context):
    """At the same address, with numbers from 0: what was missed at its beginning is reported."""
    daemon = Publisher(context, "tcp://127.0.0.1:*")
    address = daemon.address
    with client.Subscriber(address, ["narration."]) as subscriber:
        _join(daemon, subscriber)
        _spoken(daemon, 9, run="first")
        assert isinstance(subscriber.receive(DEADLINE_S), client.Narration)
        daemon.close()
        daemon = Publisher(context, address)
        try:
            _join(daemon, subscriber)
            _spoken(daemon, 2, run="second")
            assert subscriber.receive(DEADLINE_S) == Lost(topic="narration.all", first_seq=0, n=2)
            following = subscriber.receive(DEADLINE_S)
            assert isinstance(following, client.Narration)
            assert following.id == "second-all-2"
        finally:
            daemon.close()


def test_hostile_messages_do_not_end_the_iteration(daemon, caplog):
    """They are counted, the log says what was wrong, and the next good one is yielded."""
    with client.Subscriber(daemon.address, [""]) as subscriber:
        _join(daemon, subscriber)
        junk = [b"\xff", b"{", b"[]", b'{"version":2}', b'{"x":' * 9_000, b"{}" * 9, b""]
        for payload in junk:
            daemon.publish([b"narration.all", payload])
        daemon.publish([b"a.new.topic", b"?"])
        _spoken(daemon, 0)
        with caplog.at_level(logging.WARNING):
            event = next(iter(subscriber))
        assert isinstance(event, client.Narration)
        assert (subscriber.reader.n_unreadable, subscriber.reader.n_ignored) == (len(junk), 1)
        assert len(caplog.records) == 1


def test_a_timeout_holds_while_junk_arrives(daemon):
    """A publisher of nothing but junk cannot keep the caller from its other work."""
    with client.Subscriber(daemon.address, [""]) as subscriber:
        _join(daemon, subscriber)
        for _ in range(2_000):
            daemon.publish([b"narration.all", b"{}"])
        assert subscriber.receive(0.0) is None or subscriber.reader.n_unreadable
        assert subscriber.receive(0.02) is None


def test_asyncio_gets_the_same(daemon):
    """A timeout, messages and holes, with `async for`."""

    async def follow() -> list[object]:
        async with client.AsyncSubscriber(daemon.address, ["narration."]) as subscriber:
            await asyncio.to_thread(_join, daemon, subscriber)
            assert await subscriber.receive(0.0) is None
            for seq in (0, 2):
                _spoken(daemon, seq)
            while (first := await subscriber.receive(0.0)) is None:
                pass  # what has arrived is taken without waiting
            events: list[object] = [first]
            async for event in subscriber:
                events.append(event)
                if len(events) == 3:
                    break
            return events

    events = asyncio.run(asyncio.wait_for(follow(), DEADLINE_S))
    assert events[1] == Lost(topic="narration.all", first_seq=1, n=1)
    assert [type(event).__name__ for event in events] == ["Narration", "Lost", "Narration"]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:5571", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:0", "ipc://", "tcp://a"]
)
def test_an_address_that_is_none_is_refused(address):
    """ZeroMQ would connect to another port, or wait for ever."""
    with pytest.raises(ValueError, match="tcp://HOST:PORT"):
        client.Subscriber(address)


# ---- publishers


def test_the_daemons_reader_takes_all_that_a_source_sends(source, receiver):
    """Hello, batches, a mark and the totals, to the nanosecond."""
    source.batch(-10, 20, np.array([-10, 19]), np.array([1, 0]))
    source.batch(20, 30)
    source.mark(5, 9, "movie", 3, frame=7, caption="A car.")
    source.end()
    hello = receiver()
    assert isinstance(hello, Hello)
    assert (hello.stream, hello.run, hello.next_seq, hello.source) == (
        "probeA", source.run, 0, "a test",
    )  # fmt: skip
    assert [unit.key for unit in hello.population.units] == [
        ("probeA", "950901"),
        ("probeA", "950902"),
    ]
    assert hello.population.units[1].depth_um == 12.0
    batch = receiver()
    assert isinstance(batch, SpikeBatch)
    assert (batch.seq, batch.start_ns, batch.stop_ns) == (0, -10, 20)
    assert batch.spike_time_ns.tolist() == [-10, 19]
    assert batch.unit_index.tolist() == [1, 0]
    assert 0 < batch.sent_host_ns
    empty = receiver()
    assert isinstance(empty, SpikeBatch)
    assert (empty.seq, empty.n_spikes) == (1, 0)
    assert receiver() == Mark("probeA", source.run, 5, 9, "movie", 3, 7, "A car.")
    assert receiver() == StreamEnd("probeA", source.run, 2, 2)


@contextmanager
def stalled(source: client.Publisher) -> Iterator[None]:
    """Send a subscriber that takes nothing more than the system keeps for it."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, 1)
        socket.set(zmq.RCVBUF, 4096)
        socket.subscribe(b"")
        socket.connect(source.address)
        assert source.wait_for_subscriber(DEADLINE_S)
        for seq in range(500):
            source.batch(seq, seq + 1, [seq] * 3_000, [0] * 3_000)
        del source  # the caller may drop it
        yield


def test_a_close_waits_no_longer_than_it_may(source, caplog):
    """For a subscriber that does not read; that something was left is said."""
    with stalled(source):
        source.close(flush_s=0.1)
    assert "not all was taken within 0.1 s" in caplog.text


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_source_that_nobody_closed_waits_for_nobody():
    """A program that drops it, as after an error, goes on: libzmq's default is to wait for ever."""
    sources = [client.Publisher("tcp://127.0.0.1:0", stream="probeA", units=UNITS)]
    with stalled(sources[0]):
        dropping = threading.Thread(target=sources.clear, daemon=True)
        dropping.start()
        dropping.join(DEADLINE_S)
        assert not dropping.is_alive()


def test_a_second_run_has_a_new_name_and_counts_from_zero(source, receiver):
    """After `restart`, also at an earlier time."""
    source.batch(100, 200)
    first = source.run
    source.restart()
    assert source.run != first
    source.batch(0, 50, [1], [0])
    messages = [receiver() for _ in range(4)]
    assert [type(message).__name__ for message in messages] == ["Hello", "SpikeBatch"] * 2
    hello, batch = messages[2:]
    assert isinstance(batch, SpikeBatch)
    assert isinstance(hello, Hello)
    assert (hello.run, hello.next_seq, batch.run, batch.seq) == (source.run, 0, source.run, 0)


BIG = 1 << 63


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((100, 100), "covers 1 to"),
        ((100, 50), "covers 1 to"),
        ((100, 100 + 10**9 + 1), "send several"),
        ((99, 150), "call restart"),
        ((100 + 10**9 + 1, 100 + 10**9 + 2), "call restart"),
        ((100.0, 150), "start_ns is an integer"),
        ((True, 150), "start_ns is an integer"),
        ((100, BIG), "stop_ns is an integer"),
        ((100, 150, [99], [0]), r"lie in \[100, 150\)"),
        ((100, 150, [150], [0]), r"lie in \[100, 150\)"),
        ((100, 150, [120], [2]), "row of the table"),
        ((100, 150, [120], [-1]), "uint32 rows"),
        ((100, 150, [120, 121], [0]), "one unit for each time"),
        ((100, 150, [120.0], [0]), "int64 nanoseconds"),
        ((100, 150, range(100, 150), range(50)), "row of the table"),
    ],
)
def test_a_wrong_batch_is_not_sent(source, receiver, args, said):
    """It raises and says what to do; the next right one has the next number."""
    source.batch(0, 100)
    with pytest.raises(InvalidMessageError, match=said):
        source.batch(*args)
    source.batch(100, 150)
    receiver()
    batches = [receiver(), receiver()]
    assert [batch.seq for batch in batches if isinstance(batch, SpikeBatch)] == [0, 1]


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        ((5, 4, "movie", 0), {}),
        ((0, 1, "x" * 1025, 0), {}),
        ((0, 1, b"movie", 0), {}),
        ((0, 1, "movie", BIG), {}),
        ((0, 1, "movie", 0), {"frame": 1.0}),
        ((0, 1, "movie", 0), {"caption": "\ud800"}),
    ],
)
def test_a_wrong_mark_is_not_sent(source, args, keys):
    """It raises before anything leaves."""
    with pytest.raises(InvalidMessageError):
        source.mark(*args, **keys)


def test_nothing_follows_the_end(source):
    """Neither batch, mark nor a second end."""
    source.end()
    for send in (
        lambda: source.batch(0, 1),
        lambda: source.mark(0, 1, "movie", 0),
        source.end,
    ):
        with pytest.raises(InvalidMessageError, match="restart"):
            send()


@pytest.mark.parametrize(
    "keys",
    [
        {"stream": "probe A"},
        {"stream": ""},
        {"units": []},
        {"units": [Unit("1"), Unit("1")]},
        {"units": [Unit("1", channel=-1)]},
        {"units": [Unit("1", depth_um=float("inf"))]},
        {"session_start_utc": "2019-02-31T00:00:00Z"},
        {"session_start_utc": "2019-01-19 08:54:18"},
        {"table": "x" * 1025},
    ],
)
def test_a_wrong_identity_binds_nothing(keys):
    """A name, a table or a time of day that the daemon would refuse."""
    with pytest.raises(InvalidMessageError):
        client.Publisher("tcp://127.0.0.1:0", **{"stream": "probeA", "units": UNITS, **keys})


@pytest.mark.parametrize("address", ["tcp://*:0", "tcp://0.0.0.0:0", "tcp://192.0.2.1:5570"])
def test_what_other_machines_reach_must_be_asked_for(address):
    """Nothing on the socket is encrypted."""
    with pytest.raises(ValueError, match="insecure=True"):
        client.Publisher(address, stream="probeA", units=UNITS)


def test_a_port_that_is_taken_is_said(source):
    """With the address, and nothing left open."""
    with pytest.raises(OSError, match="Cannot bind"):
        client.Publisher(source.address, stream="probeB", units=UNITS)


def test_a_lossless_source_loses_nothing(context):
    """Its subscriber's queue holds ten messages, and all five hundred arrive in order."""
    import threading

    sent = client.Publisher("tcp://127.0.0.1:0", stream="p", units=UNITS, lossless=True)
    with context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, 10)
        socket.set(zmq.RCVTIMEO, int(1000 * DEADLINE_S))
        socket.subscribe(b"")
        socket.connect(sent.address)

        def send() -> None:
            with sent:
                for start_ns in range(0, 50_000, 100):
                    times = range(start_ns, start_ns + 100)
                    sent.batch(start_ns, start_ns + 100, times, [0] * 100)

        thread = threading.Thread(target=send)
        thread.start()
        messages = [unpack(socket.recv_multipart())]
        while not isinstance(messages[-1], StreamEnd):
            messages.append(unpack(socket.recv_multipart()))
        thread.join(DEADLINE_S)
    assert isinstance(messages[0], Hello)
    assert messages[0].is_lossless
    batches = [message for message in messages if isinstance(message, SpikeBatch)]
    assert [batch.seq for batch in batches] == list(range(500))
    assert messages[-1] == StreamEnd("p", sent.run, 500, 50_000)


def test_an_error_in_the_source_ends_the_run(source, receiver):
    """The daemon need not wait to find out that it is gone; the totals are what was sent."""

    def fail() -> None:
        with source:
            source.batch(0, 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    receiver(), receiver()
    assert receiver() == StreamEnd("probeA", source.run, 1, 0)


def test_marks_are_yielded_each_time(daemon):
    """They have no numbers: a repeat is marked as one."""
    with client.Subscriber(daemon.address, ["mark."]) as subscriber:
        _join(daemon, subscriber)
        parts = pack_mark(Mark("probeA", RUN, 0, 2**60, "movie", 0))
        daemon.publish(parts)
        daemon.publish(parts)
        received = [subscriber.receive(DEADLINE_S) for _ in range(2)]
        assert [event.stop_ns for event in received if isinstance(event, client.Mark)] == [
            2**60
        ] * 2


TIMES = st.sampled_from([0, 1, 10, 50, 10**9, 10**9 + 60, 2**62, -5, 1.5, None, True])
CALLS = st.lists(
    st.one_of(
        st.tuples(
            st.just("batch"), TIMES, TIMES, st.lists(TIMES, max_size=2), st.lists(TIMES, max_size=2)
        ),
        st.tuples(st.just("mark"), TIMES, TIMES, st.text(max_size=3), TIMES),
        st.tuples(st.sampled_from(["restart", "end"])),
    ),
    max_size=12,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=CALLS)
def test_no_order_of_calls_sends_a_wrong_message(source, receiver, calls):
    """What is refused leaves nothing behind; what arrives is legal, in order and counted."""
    source.restart()
    runs = [source.run]
    for name, *args in calls:
        try:
            getattr(source, name)(*args)
        except InvalidMessageError:
            continue
        if source.run != runs[-1]:
            runs.append(source.run)
    if not source.has_ended:
        source.end()
    totals = {run: [0, 0] for run in runs}
    stop_ns: dict[str, int] = {}
    message = None
    while not (isinstance(message, StreamEnd) and message.run == runs[-1]):
        message = receiver()  # raises if the message is not legal
        assert isinstance(message, Hello | Mark | SpikeBatch | StreamEnd)
        if message.run not in totals:
            continue  # a hello that greets newcomers of the run before
        n_batches, n_spikes = totals[message.run]
        if isinstance(message, SpikeBatch):
            assert message.seq == n_batches
            assert message.start_ns >= stop_ns.get(message.run, message.start_ns)
            assert (message.unit_index < len(UNITS)).all()
            stop_ns[message.run] = message.stop_ns
            totals[message.run] = [n_batches + 1, n_spikes + message.n_spikes]
        elif isinstance(message, StreamEnd):
            assert [message.n_batches, message.n_spikes] == [n_batches, n_spikes]
