"""The listener: typed values from parts, repeats and unreadable messages, and real sockets."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import UserError, WireError
from contracts.narration import Narration, PartialNarration
from contracts.narration_wire import as_repeat, pack_narration, pack_partial, unpack_narration
from contracts.population import Population, Unit
from contracts.source_json import pack_mark, pack_units
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.statistics import Statistics
from contracts.trigger import pack_trigger
from contracts.wire import pack
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.service.stats import StreamStats, stats_message
from subscribers.listener import (
    MARK_TOPICS,
    N_REMEMBERED,
    NARRATION_TOPICS,
    SPIKE_TOPICS,
    Listener,
    MessageReader,
    parse,
)
from tests.support.keys import client_keys, new_pair, server_keys
from tests.support.narrations import narration, narrations
from tests.support.triggers import triggers
from tests.support.wait_until import wait_until

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

RUN = "0" * 16


@given(narrations())
def test_a_narration_is_read_with_its_json(sent):
    """Value, topic, time of arrival and the JSON as it was sent."""
    parts = pack_narration(sent)
    received = parse(parts, host_ns=7)
    assert received.value == sent
    assert (received.topic, received.host_ns) == (f"narration.{sent.population}", 7)
    assert received.content == json.loads(parts[1])
    assert not received.is_repeat


@given(triggers())
def test_a_trigger_is_read(sent):
    """A trigger comes out as it went in."""
    assert parse(pack_trigger(sent), host_ns=7).value == sent


def test_a_partial_narration_is_read():
    """A sentence that grows comes out as it went in."""
    sent = PartialNarration("all", 8, 0.1, 0.2, 0.1, "A grow", 2, 5, 6)
    assert parse(pack_partial(sent), host_ns=7).value == sent


def test_statistics_are_read():
    """Counters, streams and readiness come out as they went in."""
    counters = Counters()
    counters.windows_dropped["narrator_busy"] = 7
    value = parse(
        stats_message(
            host_ns=1,
            uptime_s=2.5,
            session_s=None,
            counters=counters,
            latency_ms={"total": {"p95": 123.5, "n": 3}},
            reasons=["narrator: loading"],
            streams={"a": StreamStats(1.0, "live")},
            queue={"waiting": 0, "unfinished": 1},
        ),
        host_ns=7,
    ).value
    assert isinstance(value, Statistics)
    assert value.counters == counters.as_dict()
    assert value.latency_ms == {"total": {"p95": 123.5, "n": 3}}
    assert (value.ready, value.reasons) == (False, ("narrator: loading",))
    assert value.streams == {"a": {"covered_until_s": 1.0, "state": "live"}}


@pytest.mark.parametrize(
    "sent",
    [
        Mark("nwb", RUN, 0, 10**9, "movie", 0, 0, "A dog."),
        StreamEnd("nwb", RUN, n_batches=3, n_spikes=4),
    ],
)
def test_messages_of_a_source_are_read(sent):
    """What a source publishes is read by the same function."""
    assert parse(pack(sent), host_ns=7).value == sent


def test_marks_and_unit_tables_of_a_daemon_are_read():
    """A mark is the same from either socket; only the daemon's has JSON."""
    mark = Mark("nwb", RUN, 0, 10**9, "movie", 0, 0, "A dog.")
    parts = pack_mark(mark)
    received = parse(parts, host_ns=7)
    assert (received.value, received.topic) == (mark, "mark.nwb")
    assert received.content == json.loads(parts[1])
    assert parse([parts[0], as_repeat(parts[1])], host_ns=7).is_repeat
    hello = Hello("nwb", RUN, "test", Population([Unit("1", y_um=20.0)]), table="by hand")
    value = parse(pack_units(hello), host_ns=7).value
    assert value == hello
    assert isinstance(value, Hello)
    assert value.population.units[0].y_um == 20.0


def test_a_batch_carries_the_time_of_its_arrival():
    """The stamp of a batch is the listener's."""
    batch = SpikeBatch("nwb", RUN, 0, 0, 10, np.array([3]), np.array([0], np.uint32))
    value = parse([bytes(part) for part in pack(batch)], host_ns=7).value
    assert isinstance(value, SpikeBatch)
    assert value.received_host_ns == 7
    assert value.spike_time_ns.tolist() == [3]


UNREADABLE = [
    [],
    [b"stats"],
    [b"stats", b"{}"],
    [b"stats", b"[]"],
    [b"stats", b'{"counters": 3, "latency_ms": {}}'],
    [b"narration.all", b"\xff"],
    [b"narration.all", b'{"version": 9}'],
    [b"narration.all", b"{}", b""],
    [b"partial.all", b"{}"],
    [b"trigger.x", b"{}"],
    [b"mark.nwb", b"\xff"],
    [b"mark.nwb", b"{}"],
    [b"mark.nwb", b"{"],
    [b"units.nwb", b"{}"],
    [b"units.nwb", b'{"version": 1}'],
    [b"weather", b"{}"],
]


@pytest.mark.parametrize("parts", UNREADABLE)
def test_unreadable_messages_are_counted(parts):
    """What cannot be read is counted, and stops nothing."""
    reader = MessageReader()
    assert reader.read(parts, host_ns=0) is None
    assert reader.n_unreadable == 1
    assert reader.read(pack_narration(narration()), host_ns=0) is not None


@given(
    st.sampled_from(["window", "host_ns", "status", "id", "text", "seq", "n_units", "population"]),
    st.none() | st.lists(st.integers()) | st.binary().map(str),
)
def test_a_field_of_another_type_is_no_narration(key, value):
    """A value that was read has the types that it states."""
    message = json.loads(pack_narration(narration())[1]) | {key: value}
    parts = [b"narration.all", json.dumps(message).encode()]
    try:
        received = parse(parts, host_ns=0)
    except WireError:
        return
    assert isinstance(value, str)
    assert key in {"id", "text", "population"}
    assert getattr(received.value, key, None) == value or key == "text"


def test_fields_of_a_later_version_are_passed_over():
    """Additions do not raise the version, so a reader must not mind them."""
    message = json.loads(pack_narration(narration())[1]) | {"mood": "calm"}
    message["host_ns"]["printed"] = 9
    value = parse([b"narration.all", json.dumps(message).encode()], host_ns=0).value
    assert value == unpack_narration(pack_narration(narration())[1])


def test_a_repeat_is_dropped():
    """The last value that another subscriber causes is not yielded again; a first one is."""
    reader = MessageReader()
    topic, payload = pack_narration(narration())
    first = reader.read([topic, as_repeat(payload)], host_ns=0)
    assert first is not None
    assert first.is_repeat
    assert reader.read([topic, as_repeat(payload)], host_ns=1) is None
    assert reader.n_repeats == 1
    assert reader.n_unreadable == 0


def test_remembered_ids_are_bounded():
    """A listener that runs for weeks takes no more memory; recent ids are still known."""
    reader = MessageReader()
    sent = narration()
    for seq in range(N_REMEMBERED + 5):
        assert reader.read(pack_narration(replace(sent, id=f"{seq}")), host_ns=0)
    assert len(reader._ids) == N_REMEMBERED
    assert reader.read(pack_narration(replace(sent, id=f"{seq}")), host_ns=0) is None


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as context:
        yield context


def bound(context: Context, address: str = "tcp://127.0.0.1:*") -> Socket:
    """Return a publisher that says who subscribes."""
    socket = context.socket(zmq.XPUB)
    socket.set(zmq.LINGER, 0)
    socket.bind(address)
    return socket


def address_of(socket: Socket) -> str:
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def received_texts(listener: Listener, n: int) -> list[str]:
    """Return the texts of `n` narrations."""
    texts: list[str] = []

    def has_all() -> bool:
        texts.extend(
            one.value.utterance.text
            for one in listener.messages(wait_ms=20)
            if isinstance(one.value, Narration)
        )
        return len(texts) >= n

    wait_until(has_all)
    return texts


def test_one_listener_reads_two_publishers(context):
    """The same topics of both; unreadable messages are counted on the way."""
    with bound(context) as a, bound(context) as b:
        with Listener(address_of(a), NARRATION_TOPICS, setting="--connect") as listener:
            listener.connect(address_of(b), setting="--connect")
            for socket, text in ((a, "from a"), (b, "from b")):
                assert socket.poll(5000)
                socket.send_multipart([b"narration.all", b"?"])
                socket.send_multipart(pack_narration(narration(text=text, population=text[-1])))
            assert sorted(received_texts(listener, 2)) == ["from a", "from b"]
            assert listener.n_unreadable == 2


def test_a_publisher_that_comes_back_is_heard_again(context):
    """The connection is made again, and the last value that comes with it is not read twice."""
    topic, payload = pack_narration(narration(text="before"))
    with ExitStack() as stack:
        # Of its own context, whose end is what frees the port.
        own = stack.enter_context(zmq.Context())
        first = stack.enter_context(bound(own))
        address = address_of(first)
        with Listener(address, (b"narration.",), setting="--connect") as listener:
            assert first.poll(5000)
            first.send_multipart([topic, payload])
            assert received_texts(listener, 1) == ["before"]
            stack.close()
            with bound(context, address) as second:
                # libzmq subscribes again while the listener reads, not behind its back.
                wait_until(lambda: listener.wait(20) or second.poll(20))
                second.send_multipart([topic, as_repeat(payload)])
                second.send_multipart(pack_narration(narration(seq=1, text="after")))
                assert received_texts(listener, 1) == ["after"]
            assert listener.n_repeats == 1


def test_a_listener_that_does_not_read_loses_its_own_messages(context):
    """With a bounded queue the publisher neither waits nor notices, and memory is bounded."""
    n_sent = 20_000
    with bound(context) as socket:
        socket.set(zmq.XPUB_NODROP, 0)
        with Listener(address_of(socket), (b"",), setting="--connect", queue=1) as listener:
            assert socket.poll(5000)
            parts = [b"narration.all", b"x" * 10_000]
            for _ in range(n_sent):
                socket.send_multipart(parts, zmq.NOBLOCK)
            n_read = 0
            while listener.wait(200):
                listener.socket.recv_multipart()
                n_read += 1
    assert 0 < n_read < n_sent


def test_a_limit_ends_a_round(context):
    """A publisher that never pauses cannot keep the caller from its other work."""
    with bound(context) as socket:
        with Listener(address_of(socket), MARK_TOPICS, setting="--truth", queue=0) as listener:
            assert socket.poll(5000)
            for start in range(5):
                socket.send_multipart(pack(Mark("nwb", RUN, start, start + 1, "movie", start)))
            socket.send_multipart(pack(StreamEnd("nwb", RUN, n_batches=0, n_spikes=0)))
            starts: list[int] = []
            while len(starts) < 5:
                round_ = list(listener.messages(wait_ms=5000, limit=2))
                assert 0 < len(round_) <= 2
                starts += [one.value.start_ns for one in round_ if isinstance(one.value, Mark)]
    assert starts == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:0"])
def test_an_address_that_is_none_is_refused(address):
    """The error names the option that it came from, and nothing stays open."""
    with pytest.raises(UserError, match="--connect"):
        Listener(address, SPIKE_TOPICS, setting="--connect")


@pytest.mark.parametrize(
    ("has_key", "question"), [(True, "is our key on its list"), (False, "has one of us keys")]
)
def test_a_listener_that_is_refused_says_so(context, tmp_path, caplog, has_key, question):
    """A key that is not on the list, or none at all: once a minute, with the address."""
    server = server_keys(tmp_path)
    publisher = Publisher(context, "tcp://127.0.0.1:*", keys=server)
    keys = client_keys(server, new_pair()) if has_key else None
    try:
        with Listener(publisher.address, (b"",), setting="--connect", keys=keys) as listener:

            def has_warned() -> bool:
                assert list(listener.messages(wait_ms=10)) == []
                return "refuses us" in caplog.text

            wait_until(has_warned)
            if has_key:  # without, libzmq gives up
                n_dropped = sum(publisher.dropped.values())
                wait_until(lambda: has_warned() and sum(publisher.dropped.values()) > n_dropped + 2)
        [line] = [one.message for one in caplog.records if "refuses us" in one.message]
        assert line.startswith(f"{publisher.address} refuses us: {question}")
    finally:
        publisher.close()
