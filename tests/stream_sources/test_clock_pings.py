"""The pings that a source has received: bounded, and answered in turn."""

from __future__ import annotations

import pytest

from contracts.spikes import ClockEcho
from stream_sources.clock_pings import ClockPings
from tests.support.manual_clock import ManualClock


def test_newest_of_each_subscriber_is_answered_in_turn():
    """A subscriber that asks without end gets one answer, and delays the others by one batch."""
    clock = ManualClock(10)
    pings = ClockPings(clock)
    for number in range(1000):
        pings.add(1, b"ping.%016x" % number)
    clock.ns = 20
    pings.add(2, b"ping.%016x" % 7)
    pings.add(1, b"ping.%016x" % 1000)
    assert pings.take() == ClockEcho(1000, 20)
    assert pings.take() == ClockEcho(7, 20)
    assert pings.take() is None


@pytest.mark.parametrize(
    "topic", [b"ping.", b"ping.1", b"ping." + b"f" * 16, b"ping.%016xx" % 1, b"ping." + b"G" * 16]
)
def test_what_is_no_ping_is_passed_over(topic: bytes):
    """Other lengths, other letters, and numbers that no header can hold."""
    pings = ClockPings(ManualClock())
    pings.add(1, topic)
    assert pings.take() is None
