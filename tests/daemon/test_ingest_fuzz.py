"""Ingest under a flood of wrong messages, over a real socket."""

from __future__ import annotations

from collections import Counter

import numpy as np
import zmq

from contracts.clock import NS_PER_S
from contracts.errors import WireError
from contracts.spikes import Hello, SpikeBatch
from contracts.wire import pack, unpack
from daemon.counters import Counters
from daemon.hello_reader import MAX_HELLO_UNITS
from daemon.ingest import Ingest
from daemon.stream_registry import StreamRegistry
from tests.support.manual_clock import ManualClock
from tests.support.wait_until import wait_until
from tests.support.wire_fuzz import POPULATION, RUN, fuzzed

N_MESSAGES = 4000
AT_ONCE = 500
"""Messages on the way, fewer than any queue holds."""


def test_flood_of_wrong_messages_is_counted_and_survived():
    """Every wrong message is counted under its reason, none is raised, and a sound batch counts."""
    flood = [parts for parts in fuzzed(seed=3, n_messages=N_MESSAGES) if parts]
    at_most = Counter(reason for parts in flood if (reason := _wire_error(parts)))
    # The hello of a run that is known is not read again, right or wrong.
    others = [parts for parts in flood if not parts[0].startswith(b"hello.")]
    at_least = Counter(reason for parts in others if (reason := _wire_error(parts)))
    assert len(at_most) >= 10
    counters, clock = Counters(), ManualClock()
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        ingest = Ingest(StreamRegistry(POPULATION, "ignore"), counters, clock)
        ingest.is_settled = True
        ingest.connect([f"tcp://127.0.0.1:{port}"])
        try:
            assert publisher.poll(10_000)
            for first in range(0, len(flood), AT_ONCE):
                chunk = flood[first : first + AT_ONCE]
                for parts in chunk:
                    publisher.send_multipart(parts)
                _receive(ingest, counters, first + len(chunk), clock)
            for reason, n_most in at_most.items():
                assert at_least[reason] <= counters.wire_errors.get(reason, 0) <= n_most

            n_spikes = counters.spikes_received
            for message in _sound():
                publisher.send_multipart([bytes(part) for part in pack(message)])
            (hello, batch) = _receive(ingest, counters, len(flood) + 2, clock)
            assert isinstance(hello, Hello)
            assert isinstance(batch, SpikeBatch)
            assert batch.spike_time_ns.tolist() == [5]
            assert counters.spikes_received == n_spikes + 1
        finally:
            ingest.close()


def _wire_error(parts: list[bytes]) -> str:
    try:
        unpack(parts, max_units=MAX_HELLO_UNITS)
    except WireError as error:
        return error.reason
    return ""


def _receive(
    ingest: Ingest, counters: Counters, n_messages: int, clock: ManualClock
) -> list[object]:
    """Receive until so many messages have arrived since the beginning."""
    received: list[object] = []

    def has_all() -> bool:
        clock.sleep_ns(NS_PER_S)  # malformed messages are read at a limited rate
        received.extend(ingest.receive(max_messages=100))
        return counters.messages_received >= n_messages

    wait_until(has_all, what=f"{n_messages} messages")
    assert counters.messages_received == n_messages
    return received


def _sound() -> tuple[Hello, SpikeBatch]:
    hello = Hello("sound", RUN, "test", POPULATION)
    times, units = np.array([5], np.int64), np.array([2], np.uint32)
    return hello, SpikeBatch("sound", RUN, 0, 0, 10, times, units)
