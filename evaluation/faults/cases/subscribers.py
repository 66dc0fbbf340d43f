"""Subscribers that read slowly, not at all, or send what they should not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import repeat

import zmq

from contracts.journal_reader import JournalReader
from evaluation.faults.case import fault
from evaluation.faults.observations import wait_for
from evaluation.faults.sockets import MORE, connect, frame, handshake
from evaluation.faults.trial import FaultTrial

PART = bytes(1000)

RECORDED = 100
"""Messages in the journal before its recorder is killed."""

ATTACK_S = 10.0  # The longest that an attack takes where the daemon reads slowly


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
    tests=["subscribers/test_listener.py::test_a_publisher_that_comes_back_is_heard_again"],
)
def subscriber_outlives_daemon(trial: FaultTrial) -> None:
    """The daemon is killed under a subscriber, and started again at the same address."""
    publish = trial.address()
    _, first, address = trial.pair(publish=publish)
    subscriber = trial.subscriber(publish)
    first.narrates(10).child.kill()
    n_before = subscriber.child.text().count("all:")
    trial.daemon(address, publish=publish).narrates(10).is_ready()
    wait_for(
        lambda: True if subscriber.child.text().count("all:") > n_before + 3 else None,
        lambda: f"narrations of the second daemon, got {subscriber.child.text()!r}",
    )


@fault(
    lost="what it received since its last flush, at most a second",
    tests=[
        "system/test_recorder.py::test_recorder_that_is_killed_leaves_a_journal_without_a_hole",
        "contracts/test_journal.py::test_cut_at_any_byte_gives_whole_messages_alone",
    ],
)
def recorder_killed(trial: FaultTrial) -> None:
    """The recorder is killed (SIGKILL), and started again in the same folder."""
    source, daemon, address = trial.pair()
    first = trial.recorder(address, daemon.publish)
    trial.records(RECORDED)
    first.child.kill()
    killed_ns = time.monotonic_ns()
    newest_ns = max(message.host_ns for message in JournalReader(trial.journal).messages())
    second = trial.recorder(address, daemon.publish)
    trial.records(2 * RECORDED)
    daemon.is_ready()
    second.child.ask_to_stop()
    second.ends(0)
    lost_ms = (killed_ns - newest_ns) / 1e6
    trial.observations.lost.append(f"newest message in the journal: {lost_ms:.0f} ms old")
    trial.ends_with_every_spike(daemon, source)


def attacked(
    trial: FaultTrial, blocks: Iterable[bytes], reason: str = "", *, greets: bool = True
) -> None:
    """Send blocks to the publish socket; the daemon must go on, small, and end as usual.

    `reason` is why the daemon cuts the connection; empty if it only reads slowly.
    """
    source, daemon, _ = trial.pair()
    before_mb = daemon.memory_mb()
    with connect(daemon.publish) as connection:
        stop = time.monotonic() + ATTACK_S
        with suppress(OSError):  # the daemon has hung up, or does not read
            if greets:
                handshake(connection, b"SUB")
            for block in blocks:
                if time.monotonic() > stop:
                    break
                connection.sendall(block)
        daemon.narrates(10)
        daemon.does_not_grow(before_mb)
        if reason:
            daemon.logs("peer dropped")
            daemon.counts(f'neurrate_subscribers_dropped_total{{reason="{reason}"}}')
        daemon.is_ready()
        trial.ends_with_every_spike(daemon, source)


@fault(
    lost="that subscriber's messages",
    tests=["peer_guard/test_subscriber_guard.py::test_too_many_subscriptions_cost_the_connection"],
)
def million_subscriptions(trial: FaultTrial) -> None:
    """10^6 subscriptions."""
    numbers = range(1_000_000)
    attacked(trial, (frame(b"\x01%08d" % number) for number in numbers), "subscriptions")


@fault(
    lost="that subscriber's messages",
    tests=["stream_sources/test_publisher.py::test_what_subscribers_say_is_passed_over"],
)
def million_subscriptions_at_a_source(trial: FaultTrial) -> None:
    """10^6 subscriptions at a source, and then a message to it that never ends."""
    source, daemon, address = trial.pair()
    topics = b"".join(frame(b"\x01%08d" % number) for number in range(1_000_000))
    for block in (topics, frame(PART, MORE) * 100_000):
        with connect(address) as connection, suppress(OSError):
            handshake(connection, b"SUB")
            connection.sendall(block)
    source.logs("peer dropped")
    daemon.narrates(10)
    daemon.is_ready()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="nothing",
    tests=[
        "peer_guard/test_subscriber_guard.py::test_a_flood_of_requests_is_read_slowly_and_nobody_waits_for_it"
    ],
)
def resubscriptions(trial: FaultTrial) -> None:
    """10^6 subscriptions and their ends, of one topic."""
    pair = frame(b"\x01narration.") + frame(b"\x00narration.")
    attacked(trial, repeat(pair * 1000, 1000))


@fault(
    lost="nothing",
    tests=["peer_guard/test_subscriber_guard.py::test_whoever_breaks_a_rule_is_disconnected"],
)
def junk_on_publish(trial: FaultTrial) -> None:
    """Bytes that are not ZeroMQ."""
    attacked(trial, repeat(os.urandom(65_536), 1000), "greeting", greets=False)


@fault(
    lost="nothing",
    tests=["peer_guard/test_subscriber_guard.py::test_message_that_never_ends_takes_no_memory"],
)
def endless_on_publish(trial: FaultTrial) -> None:
    """A message that never ends."""
    attacked(trial, repeat(frame(PART, MORE) * 1000, 1000), "request")
