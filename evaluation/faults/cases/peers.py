"""Programs that are no sources, at an address that the daemon listens to."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from secrets import token_hex

import zmq

from contracts.population import Population, Unit
from contracts.spikes import Hello
from contracts.wire import pack
from evaluation.faults.case import fault
from evaluation.faults.observations import wait_for
from evaluation.faults.sockets import MORE, Attack, HostileServer, frame, handshake
from evaluation.faults.trial import FaultDaemon, FaultTrial

PART = bytes(1 << 20)
MAX_SENT = 1 << 30  # Bytes that an endless message has when the attack gives up


@contextmanager
def beside_a_source(trial: FaultTrial, attack: Attack) -> Iterator[FaultDaemon]:
    """Run a daemon with a sound source and a hostile peer; check that all goes on at the end."""
    address = trial.address()
    with HostileServer(attack) as server:
        source = trial.source(address)
        daemon = trial.daemon(address, server.address).narrates()
        before_mb = daemon.memory_mb()
        wait_for(lambda: server.n_attacked or None, lambda: "a connection to the hostile peer")
        yield daemon
        daemon.narrates(10)
        daemon.does_not_grow(before_mb)
        daemon.is_ready()
        trial.ends_with_every_spike(daemon, source)


def _endless(connection: socket.socket) -> None:
    handshake(connection, b"XPUB")
    for _ in range(MAX_SENT // len(PART)):
        connection.sendall(frame(PART, MORE))


def _junk(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(os.urandom(65_536))


def _oversized(connection: socket.socket) -> None:
    handshake(connection, b"XPUB")
    connection.sendall(b"\x02" + (2**63).to_bytes(8, "big") + PART)


def _drip(connection: socket.socket) -> None:
    for byte in b"\xff" + bytes(63):
        connection.sendall(bytes([byte]))
        connection.settimeout(1)
        try:
            connection.recv(64)
        except TimeoutError:
            continue


@fault(
    lost="nothing of other sources",
    tests=[
        "peer_guard/test_source_reader.py::test_message_that_never_ends_takes_no_memory_of_the_reader"
    ],
)
def endless_message(trial: FaultTrial) -> None:
    """A message that never ends."""
    with beside_a_source(trial, _endless) as daemon:
        daemon.logs("peer dropped")
        daemon.counts('neurrate_sources_dropped_total{reason="parts"}')


@fault(
    lost="nothing of other sources",
    tests=["peer_guard/test_source_reader.py::test_something_else_at_the_address_is_dropped"],
)
def junk_bytes(trial: FaultTrial) -> None:
    """Bytes that are not ZeroMQ."""
    with beside_a_source(trial, _junk) as daemon:
        daemon.logs("peer dropped")
        daemon.counts('neurrate_sources_dropped_total{reason="greeting"}')


@fault(
    lost="nothing of other sources",
    tests=["peer_guard/test_source_reader.py::test_frames_beyond_the_limits_cost_the_connection"],
)
def oversized_frame(trial: FaultTrial) -> None:
    """A frame that claims 2^63 bytes."""
    with beside_a_source(trial, _oversized) as daemon:
        daemon.logs("peer dropped")
        daemon.counts('neurrate_sources_dropped_total{reason="frame"}')


@fault(
    lost="nothing of other sources",
    tests=["peer_guard/test_source_reader.py::test_a_greeting_that_drips_has_some_seconds"],
)
def dripped_greeting(trial: FaultTrial) -> None:
    """A greeting that comes byte by byte."""
    with beside_a_source(trial, _drip) as daemon:
        daemon.narrates(30)


@fault(
    lost="the hellos; nothing of other sources",
    tests=["daemon/test_ingest.py::test_flood_of_hellos_is_bounded"],
)
def hello_flood(trial: FaultTrial) -> None:
    """Hellos of 4,000 units, each of another run, as fast as they leave."""
    with flooded_with_hellos(trial, n_units=4_000, n_hellos=1_000) as daemon:
        daemon.logs("hello refused", level="WARNING")
        daemon.counts('neurrate_wire_errors_total{reason="population"}')
        daemon.counts('neurrate_wire_errors_total{reason="rate"}')


@fault(
    lost="the hellos; nothing of other sources",
    tests=["daemon/test_ingest.py::test_hello_of_too_many_units_is_not_read"],
)
def large_hellos(trial: FaultTrial) -> None:
    """Hellos of 50,000 units."""
    with flooded_with_hellos(trial, n_units=50_000, n_hellos=50) as daemon:
        daemon.logs("message dropped", level="WARNING")
        daemon.counts('neurrate_wire_errors_total{reason="size"}')
        daemon.counts('neurrate_wire_errors_total{reason="rate"}')


@contextmanager
def flooded_with_hellos(trial: FaultTrial, *, n_units: int, n_hellos: int) -> Iterator[FaultDaemon]:
    """Run a daemon with a sound source and one that sends hellos of units of its own."""
    units = Population([Unit(str(row), "probeZ") for row in range(n_units)])
    address, hostile = trial.address(), trial.address()
    source = trial.source(address)
    with zmq.Context() as context, context.socket(zmq.XPUB) as flood:
        flood.set(zmq.LINGER, 0)
        flood.bind(hostile)
        daemon = trial.daemon(address, hostile).narrates()
        before_mb = daemon.memory_mb()
        wait_for(lambda: flood.poll(100) or None, lambda: "a subscription")
        for number in range(n_hellos):
            flood.send_multipart(pack(Hello(f"z{number % 7}", token_hex(8), "flood", units)))
        yield daemon
        daemon.narrates(30)
        daemon.does_not_grow(before_mb)
        trial.ends_with_every_spike(daemon, source)


@fault(
    lost="those messages",
    tests=["daemon/test_ingest_fuzz.py"],
)
def broken_messages(trial: FaultTrial) -> None:
    """Messages that break the wire format."""
    address, hostile = trial.address(), trial.address()
    source = trial.source(address)
    with zmq.Context() as context, context.socket(zmq.XPUB) as peer:
        peer.set(zmq.LINGER, 0)
        peer.bind(hostile)
        daemon = trial.daemon(address, hostile).narrates()
        wait_for(lambda: peer.poll(100) or None, lambda: "a subscription")
        for number in count():
            if number == 10_000:
                break
            peer.send_multipart([b"spikes.z", os.urandom(50), b"", b""])
        daemon.counts('neurrate_wire_errors_total{reason="header"}')
        daemon.logs("message dropped")
        daemon.narrates()
        daemon.is_ready()
        trial.ends_with_every_spike(daemon, source)
