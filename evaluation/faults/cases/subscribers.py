"""Subscribers that read slowly, not at all, or send what they should not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import zmq

from evaluation.faults.case import fault
from evaluation.faults.observations import wait_for
from evaluation.faults.sockets import MORE, connect, frame, handshake
from evaluation.faults.trial import FaultDaemon, FaultTrial

PART = bytes(1000)

DaemonAttack = Callable[[socket.socket, FaultDaemon], None]


@fault(
    lost="its own messages, nobody else's",
    tests=["daemon/test_publisher.py::test_slow_subscriber_loses_its_own_messages_and_no_others"],
)
def slow_subscriber(trial: FaultTrial) -> None:
    """A subscriber that does not read."""
    source, daemon, _ = trial.pair(settings=["publish.queue_messages=1"])
    before_mb = daemon.memory_mb()
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.set(zmq.RCVHWM, 1)
        slow.set(zmq.LINGER, 0)
        slow.subscribe(b"")
        slow.connect(daemon.publish)
        daemon.narrates(30)
        daemon.does_not_grow(before_mb)
        daemon.is_ready()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="its own messages",
    tests=["daemon/test_publisher.py::test_slow_subscriber_loses_its_own_messages_and_no_others"],
)
def subscriber_killed(trial: FaultTrial) -> None:
    """A subscriber that is killed (SIGKILL) or stopped (SIGSTOP)."""
    source, daemon, _ = trial.pair()
    watchers = [trial.subscriber(daemon.publish) for _ in range(2)]
    wait_for(
        lambda: True if all("all:" in one.child.text() for one in watchers) else None,
        lambda: "narrations at both subscribers",
    )
    watchers[0].child.kill()
    watchers[1].child.signal(signal.SIGSTOP)
    daemon.narrates(10)
    daemon.is_ready()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="what is published until the next daemon has its address",
    tests=["subscribers/test_listener.py"],
)
def subscriber_outlives_daemon(trial: FaultTrial) -> None:
    """The daemon is killed under a subscriber, and started again at the same address."""
    publish = trial.address()
    _, first, address = trial.pair(publish=publish)
    subscriber = trial.subscriber(publish)
    first.narrates(10).child.kill()
    n_before = subscriber.child.text().count("all:")
    trial.daemon(address, publish=publish).narrates(10)
    wait_for(
        lambda: True if subscriber.child.text().count("all:") > n_before + 3 else None,
        lambda: f"narrations of the second daemon, got {subscriber.child.text()!r}",
    )


def attacked(trial: FaultTrial, attack: DaemonAttack, reason: str = "") -> None:
    """Attack the publish socket; the daemon must go on, small, and end soon."""
    source, daemon, _ = trial.pair()
    before_mb = daemon.memory_mb()
    with connect(daemon.publish) as connection:
        try:
            attack(connection, daemon)
        except OSError:
            pass  # the daemon has hung up
        daemon.narrates(10)
        daemon.does_not_grow(before_mb)
        if reason:
            daemon.logs("peer dropped")
            daemon.counts(f'neurrate_subscribers_dropped_total{{reason="{reason}"}}')
        daemon.is_ready()
        trial.ends_with_every_spike(daemon, source)


def _subscriptions(connection: socket.socket, daemon: FaultDaemon) -> None:
    handshake(connection, b"SUB")
    for block in range(1000):
        connection.sendall(b"".join(frame(b"\x01%08d" % (block * 1000 + n)) for n in range(1000)))


def _repeats(connection: socket.socket, daemon: FaultDaemon) -> None:
    handshake(connection, b"SUB")
    pair = frame(b"\x01narration.") + frame(b"\x00narration.")
    for _ in range(1000):
        connection.sendall(pair * 1000)


def _junk(connection: socket.socket, daemon: FaultDaemon) -> None:
    for _ in range(1000):
        connection.sendall(os.urandom(65_536))


def _endless(connection: socket.socket, daemon: FaultDaemon) -> None:
    handshake(connection, b"SUB")
    for _ in range(1000):
        connection.sendall(frame(PART, MORE) * 1000)


@fault(lost="that subscriber's messages", tests=[])
def million_subscriptions(trial: FaultTrial) -> None:
    """10^6 subscriptions."""
    attacked(trial, _subscriptions, "subscriptions")


@fault(lost="nothing", tests=[])
def resubscriptions(trial: FaultTrial) -> None:
    """10^6 subscriptions and their ends, of one topic."""
    attacked(trial, _repeats)


@fault(lost="nothing", tests=[])
def junk_on_publish(trial: FaultTrial) -> None:
    """Bytes that are not ZeroMQ."""
    attacked(trial, _junk, "greeting")


@fault(lost="nothing", tests=[])
def endless_on_publish(trial: FaultTrial) -> None:
    """A message that never ends."""
    attacked(trial, _endless, "message")
