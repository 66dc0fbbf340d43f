"""Triggers over OSC: real datagrams, read by python-osc, and ports at which nobody listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from pythonosc.osc_packet import OscPacket

from daemon.triggers.sinks.osc import OscOutlet
from daemon.triggers.sinks.thread import DeliveryError
from daemon.triggers.tables import OscSinkTable
from tests.support.sinks import delivery_of, running
from tests.support.wait_until import wait_until


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        yield receiver


def _table(receiver: socket.socket, **options: object) -> OscSinkTable:
    port = receiver.getsockname()[1]
    return OscSinkTable.model_validate({"kind": "osc", "port": port, **options})


def test_each_trigger_is_one_message(receiver):
    """Its address, and seven arguments of the documented types."""
    delivery = delivery_of(seq=3)
    with running(OscOutlet(_table(receiver, address="/rig/1"))) as sink:
        sink.offer(delivery)
        datagram = receiver.recv(65_536)
    assert datagram.startswith(b"/rig/1\0\0,ssffdds\0")
    (timed,) = OscPacket(datagram).messages
    trigger = delivery.trigger
    assert timed.message.params == [
        trigger.name,
        trigger.population,
        pytest.approx(trigger.score),
        pytest.approx(trigger.threshold),
        trigger.window.stop_s,
        trigger.window.frame_s,
        trigger.id,
    ]
    assert (sink.n_sent, sink.n_failed) == (1, 0)


def test_a_port_without_a_program_is_a_failure_until_there_is_one(receiver):
    """The system says so of this machine at once, and the next trigger arrives again."""
    table = _table(receiver)
    receiver.close()
    outlet = OscOutlet(table)
    outlet.open()
    for _ in range(2):
        with pytest.raises(DeliveryError, match="ConnectionRefusedError"):
            outlet.deliver(delivery_of())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((table.host, table.port))
        again.settimeout(30)
        outlet.deliver(delivery_of())
        assert again.recv(65_536).startswith(b"/neurrate/trigger\0")
    outlet.close(deadline_s=0)


def test_an_address_that_cannot_be_reached_is_a_failure(receiver):
    """Broadcasts are not allowed; the sink says so and goes on."""
    with running(OscOutlet(_table(receiver, host="255.255.255.255"))) as sink:
        for seq in range(5):
            sink.offer(delivery_of(seq))
        wait_until(lambda: sink.n_failed == 5)
        assert sink.problem


def test_many_at_once_all_leave_in_their_order(receiver):
    """Nothing answers, so nothing waits."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with running(OscOutlet(_table(receiver)), queue=100) as sink:
        for seq in range(100):
            sink.offer(delivery_of(seq))
        ids = [OscPacket(receiver.recv(65_536)).messages[0].message.params[6] for _ in range(100)]
    assert ids == [delivery_of(seq).trigger.id for seq in range(100)]


@pytest.mark.parametrize(
    "options",
    [
        {"host": "rig.local"},
        {"host": ""},
        {"port": 0},
        {"port": 65_536},
        {"address": "neurrate"},
        {"address": "/"},
        {"address": "/a b"},
        {"address": "/a*"},
        {"address": "/ü"},
        {"timeout_s": 1.0},
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_refused_at_the_start(receiver, options):
    """Names, patterns, ports, and a timeout, which a datagram has not."""
    with pytest.raises(ValidationError):
        _table(receiver, **options)
