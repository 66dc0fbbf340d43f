"""Every subscriber gets everything, a new one the last value, a slow one loses its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import zmq

from contracts.errors import UserError
from contracts.narration_wire import pack_narration
from contracts.population import Population, Unit
from contracts.source_json import pack_mark, pack_units
from contracts.spikes import Hello, Mark
from daemon.publisher import (
    EVENTS_OF_A_STEP,
    LARGE_BYTES,
    REPEAT_EVERY_NS,
    REPEAT_LARGE_EVERY_NS,
    Publisher,
)
from tests.support.daemon_components import Context
from tests.support.manual_clock import ManualClock
from tests.support.narrations import narration
from tests.support.ramp_population import RUN
from tests.support.wait_until import wait_until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def publisher(context: Context, clock: ManualClock) -> Iterator[Publisher]:
    publisher = Publisher(context, "tcp://127.0.0.1:*", queue_messages=5000, clock=clock)
    yield publisher
    publisher.close()


@contextmanager
def subscriber(
    context: Context, publisher: Publisher, topic: bytes, *, queue: int = 0
) -> Iterator[zmq.Socket[bytes]]:
    """Subscribe, and return once the publisher has served it."""
    with context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, queue)
        if queue:
            socket.set(zmq.RCVBUF, 4096)
        socket.subscribe(topic)
        socket.connect(publisher.address)
        assert publisher.socket.poll(5000), "no subscription came"
        publisher.serve()
        yield socket


def received(socket: zmq.Socket[bytes]) -> tuple[bytes, dict[str, Any]]:
    assert socket.poll(5000), "nothing received"
    topic, payload = socket.recv_multipart()
    return topic, json.loads(payload)


def test_new_subscriber_gets_the_last_value_of_each_population(
    context: Context, publisher: Publisher
):
    """The last narration of each comes at once, marked as a repeat; statistics do not."""
    for seq in range(3):
        publisher.publish(pack_narration(narration(seq=seq, population="all")))
    publisher.publish(pack_narration(narration(seq=9, population="PV", text='"repeat":false')))
    publisher.publish([b"stats", b"{}"])
    with subscriber(context, publisher, b"") as socket:
        got = dict(received(socket) for _ in range(2))
        assert not socket.poll(0)
    assert set(got) == {b"narration.all", b"narration.PV"}
    assert (got[b"narration.all"]["seq"], got[b"narration.all"]["repeat"]) == (2, True)
    assert got[b"narration.PV"]["text"] == '"repeat":false'
    assert publisher.n_published == 5


def test_new_subscriber_gets_the_last_mark_and_the_unit_table(
    context: Context, publisher: Publisher, clock: ManualClock
):
    """Once a second at most where the table is large, whoever subscribes."""
    units = [Unit(f"{row:0100}") for row in range(LARGE_BYTES // 100)]
    publisher.publish(pack_units(Hello("probeA", RUN, "test", Population(units))))
    for frame in range(3):
        publisher.publish(pack_mark(Mark("probeA", RUN, frame, frame + 1, "movie", 7, frame)))
    with subscriber(context, publisher, b"") as first:
        got = dict(received(first) for _ in range(2))
        assert (got[b"mark.probeA"]["frame"], got[b"mark.probeA"]["repeat"]) == (2, True)
        assert got[b"units.probeA"]["unit_id"][1] == units[1].unit_id
        clock.sleep_ns(REPEAT_EVERY_NS)
        with subscriber(context, publisher, b"") as second:
            assert received(second)[0] == b"mark.probeA"
            assert not second.poll(50)
            clock.sleep_ns(REPEAT_LARGE_EVERY_NS)
            publisher.serve()
            assert received(second)[0] == b"units.probeA"


def test_new_subscriber_gets_only_what_it_asked_for(context: Context, publisher: Publisher):
    """One population's subscriber does not receive another."""
    publisher.publish(pack_narration(narration(seq=1, population="VISp")))
    publisher.publish(pack_narration(narration(seq=2, population="LGd")))
    with subscriber(context, publisher, b"narration.LGd") as socket:
        assert received(socket)[1]["seq"] == 2
        publisher.publish(pack_narration(narration(seq=3, population="LGd")))
        topic, message = received(socket)
    assert (topic, message["seq"], message["repeat"]) == (b"narration.LGd", 3, False)


def test_second_subscriber_of_a_topic_is_served_too(
    context: Context, publisher: Publisher, clock: ManualClock
):
    """Each subscription is seen, not only each topic's first; a tenth of a second apart."""
    publisher.publish(pack_narration(narration(seq=4)))
    with subscriber(context, publisher, b"narration.") as first:
        assert received(first)[1]["seq"] == 4
        with subscriber(context, publisher, b"narration.") as second:
            assert not second.poll(20)
            clock.ns += REPEAT_EVERY_NS
            publisher.serve()
            assert received(second)[1]["seq"] == 4


def test_subscribers_that_come_at_once_share_a_repeat(
    context: Context, publisher: Publisher, clock: ManualClock
):
    """Whoever asks again and again costs the others one repeat in a tenth of a second."""
    publisher.publish(pack_narration(narration(seq=4)))
    with (
        subscriber(context, publisher, b"narration.") as good,
        context.socket(zmq.XSUB) as rogue,
    ):
        assert received(good)[1]["seq"] == 4
        rogue.set(zmq.LINGER, 0)
        rogue.connect(publisher.address)
        for _ in range(300):
            rogue.send(b"\x01narration.all")
        rogue.send(b"\x01partial.")  # the last of them

        def has_served_all() -> bool:
            publisher.serve()
            return publisher.has_partial_subscriber

        wait_until(has_served_all, what="the last request")
        assert not good.poll(20)
        clock.ns += REPEAT_EVERY_NS
        publisher.serve()
        publisher.serve()
        assert received(good)[1]["repeat"]
        assert not good.poll(20)


def test_a_step_reads_some_requests_and_leaves_the_rest(context: Context, publisher: Publisher):
    """However many come, the loop has its turn after 256 of them."""
    with context.socket(zmq.XSUB) as rogue:
        rogue.set(zmq.LINGER, 0)
        rogue.connect(publisher.address)
        for number in range(EVENTS_OF_A_STEP + 1):
            rogue.send(b"\x01%d" % number)
        rogue.send(b"\x01partial.")
        wait_until(lambda: bool(publisher.socket.poll(0)), what="a request")
        n_steps = 0

        def has_served_all() -> bool:
            nonlocal n_steps
            n_steps += 1
            publisher.serve()
            return publisher.has_partial_subscriber

        wait_until(has_served_all, what="the last request")
        assert n_steps > 1


def test_without_subscribers_nothing_waits(publisher: Publisher):
    """Without subscribers messages go nowhere, and only the last value is kept."""
    for seq in range(20_000):
        publisher.publish([b"narration.all", b'{"repeat":false,"seq":%d}' % seq])
    assert publisher.n_published == 20_000


def test_slow_subscriber_loses_its_own_messages_and_no_others(context: Context):
    """One never reads from a small queue; the other receives all ten thousand, in order."""
    publisher = Publisher(context, "tcp://127.0.0.1:*", queue_messages=100)
    publisher.socket.set(zmq.SNDBUF, 4096)
    n_messages, filler = 10_000, "x" * 2000
    with zmq.Context() as theirs:
        with (
            subscriber(theirs, publisher, b"narration.", queue=1) as slow,
            subscriber(theirs, publisher, b"narration.") as good,
        ):
            seqs = []
            for seq in range(n_messages):
                publisher.publish(pack_narration(narration(seq=seq, text=filler)))
                if seq % 20 == 19:  # as fast as it reads, and never faster: it must lose nothing
                    publisher.serve()  # as the loop does; libzmq learns here who has read
                    seqs += [received(good)[1]["seq"] for _ in range(20)]
            assert seqs == list(range(n_messages))
            got = []
            while slow.poll(200):
                got.append(json.loads(slow.recv_multipart()[1])["seq"])
            assert len(got) < n_messages
            assert got == sorted(got)
        publisher.close()


def test_narration_comes_out_as_it_went_in(context: Context, publisher: Publisher):
    """What a subscriber reads is what was published, byte by byte."""
    parts = pack_narration(narration(seq=3, text="Ein Schiff, über Nacht."))
    with subscriber(context, publisher, b"narration.all") as socket:
        publisher.publish(parts)
        assert socket.poll(5000)
        assert socket.recv_multipart() == parts


def test_messages_of_subscribers_are_ignored(context: Context, publisher: Publisher):
    """Noise, an empty message, an end without a beginning: nothing breaks."""
    publisher.publish(pack_narration(narration(seq=1)))
    with context.socket(zmq.XSUB) as rogue:
        rogue.set(zmq.LINGER, 0)
        rogue.connect(publisher.address)
        for event in (b"", b"\x07noise", b"\x00never", b"\x01narration.all"):
            rogue.send(event)

        def has_received() -> bool:
            publisher.serve()
            return bool(rogue.poll(0))

        wait_until(has_received, what="the repeat")
        assert rogue.recv_multipart()[0] == b"narration.all"


def test_huge_request_costs_its_sender_the_connection(context: Context, publisher: Publisher):
    """A subscriber cannot make the daemon keep megabytes: its connection is cut, others go on."""
    with (
        context.socket(zmq.XSUB) as rogue,
        subscriber(context, publisher, b"narration.") as good,
    ):
        rogue.set(zmq.LINGER, 0)
        rogue.set(zmq.RECONNECT_IVL, -1)
        watch = rogue.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        rogue.connect(publisher.address)
        rogue.send(b"\x07" + bytes(32 << 20))
        assert watch.poll(10_000), "the connection was not cut"
        rogue.disable_monitor()
        watch.close()
        assert not publisher.socket.poll(0)
        publisher.publish(pack_narration(narration(seq=1)))
        assert received(good)[1]["seq"] == 1


def test_taken_port_says_what_to_change(context: Context, publisher: Publisher):
    """The address, the cause and the setting."""
    with pytest.raises(UserError, match=r"Cannot bind tcp.*in use.*publish\.bind"):
        Publisher(context, publisher.address)


def test_open_address_needs_to_be_written_out(context: Context):
    """Other machines can reach it only if the user says so."""
    with pytest.raises(UserError, match="--insecure"):
        Publisher(context, "tcp://0.0.0.0:*")
    Publisher(context, "tcp://0.0.0.0:*", is_insecure=True).close()


def test_rapid_start_and_stop_leaks_nothing(context: Context):
    """Three hundred starts and stops leave no file descriptor behind."""
    process = psutil.Process()
    Publisher(context, "tcp://127.0.0.1:*").close()
    before = process.num_fds()
    for _ in range(300):
        Publisher(context, "tcp://127.0.0.1:*").close()
    wait_until(lambda: process.num_fds() <= before + 2, what="closed descriptors")


def test_publisher_knows_what_is_listened_to(context: Context, publisher: Publisher):
    """A topic is subscribed to while a subscriber asks for it, for more of it or for everything."""

    def is_subscribed() -> bool:
        publisher.serve()
        return publisher.has_partial_subscriber

    assert not is_subscribed()
    with subscriber(context, publisher, b"narration."):
        assert not is_subscribed()
        for topic in (b"", b"part", b"partial.", b"partial.VISp"):
            with subscriber(context, publisher, topic):
                wait_until(is_subscribed, what="the subscription")
            wait_until(lambda: not is_subscribed(), what="its end")
