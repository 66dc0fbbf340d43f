"""The clock of a source on another machine: the truth is within the stated error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import NS_PER_S
from contracts.population import Population, Unit
from contracts.spikes import ClockEcho, Hello, SpikeBatch
from daemon.source_clocks import (
    MAX_DRIFT,
    MAX_PINGS,
    PING_NS,
    SourceClocks,
    offset_bounds,
)
from tests.support.manual_clock import ManualClock

OWN, OTHER, RUN = "0" * 16, "f" * 16, "a" * 16
MS = NS_PER_S // 1000
UNITS = Population([Unit("1", "probeA")])


def hello(clock_id: str = OTHER, run: str = RUN) -> Hello:
    return Hello("probeA", run, "test", UNITS, clock_id=clock_id)


def batch(sent_ns: int, received_ns: int, echo: ClockEcho | None = None) -> SpikeBatch:
    empty = np.empty(0, np.int64), np.empty(0, np.uint32)
    return SpikeBatch("probeA", RUN, 0, 0, 1, *empty, sent_ns, received_ns, echo)


@dataclass
class Link:
    """A daemon and a source whose clock runs otherwise, and the ways between them."""

    clock: ManualClock
    clocks: SourceClocks
    theirs: Callable[[int], int]  # what the source's clock says at a time of the daemon's

    @classmethod
    def to(cls, theirs: Callable[[int], int]) -> Link:
        clock = ManualClock(1000 * NS_PER_S)
        clocks = SourceClocks(clock, OWN)
        clocks.begin(hello(), 0)
        return cls(clock, clocks, theirs)

    def ask(self, there_ns: int, rest_ns: int, back_ns: int) -> None:
        """Send a ping, which is answered after a rest at the source."""
        number = self.clocks.next_ping(0)
        assert number is not None
        self.clock.ns += there_ns
        echo = ClockEcho(number, self.theirs(self.clock.ns))
        self.clock.ns += rest_ns
        sent_ns = self.theirs(self.clock.ns)
        self.clock.ns += back_ns
        self.clocks.take(batch(sent_ns, self.clock.ns, echo), 0)

    def check(self) -> float:
        """Return the error, within which the truth must be."""
        report = self.clocks.report()
        truth_s = (self.clock.ns - self.theirs(self.clock.ns)) / NS_PER_S
        error_s = report.error_s["probeA"]
        assert abs(report.offset_s["probeA"] - truth_s) <= error_s
        return error_s


WAYS = st.integers(0, 3 * NS_PER_S) | st.integers(0, MS)


@given(
    st.integers(-900, 900),
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(WAYS, WAYS, WAYS, st.integers(0, 100 * NS_PER_S)), min_size=1, max_size=20),
)
def test_the_truth_is_within_the_error(
    drift_ppm: int, offset_ns: int, asked: list[tuple[int, int, int, int]]
):
    """Whatever the ways, the rests at the source, the pauses and the drift: also in between."""

    def theirs(ns: int) -> int:
        return 2 * 10**15 + offset_ns + ns + ns * drift_ppm // 1_000_000

    link = Link.to(theirs)
    for there_ns, rest_ns, back_ns, pause_ns in asked:
        link.ask(there_ns, rest_ns, back_ns)
        link.check()
        link.clock.ns += PING_NS + pause_ns
        link.check()


def test_five_seconds_are_known_to_a_millisecond():
    """With ways of 0.2 ms and the drift of crystals: half a round trip, and a second's drift."""
    link = Link.to(lambda ns: ns + 5 * NS_PER_S + ns * 50 // 1_000_000)
    for _ in range(20):
        link.ask(200_000, 5 * MS, 200_000)
        assert link.check() < 0.0003
        link.clock.ns += PING_NS
    assert link.check() < 0.0013
    delay_s = link.clocks.report().delay_s
    assert delay_s == {}  # no batch since
    link.ask(200_000, 0, 200_000)
    assert link.clocks.report().delay_s["probeA"] == pytest.approx(0.0002, abs=0.0003)


def test_a_slow_way_back_is_in_the_error():
    """The middle is wrong by half of what the ways differ by, and the error says as much."""
    link = Link.to(lambda ns: ns - 5 * NS_PER_S)
    for _ in range(5):
        link.ask(0, MS, 400 * MS)
        assert 0.2 <= link.check() < 0.202
        link.clock.ns += PING_NS
    assert abs(link.clocks.report().offset_s["probeA"] - 5.2) < 0.01


def test_error_grows_while_nobody_answers():
    """By a millisecond a second; what was known is not forgotten."""
    link = Link.to(lambda ns: ns)
    link.ask(0, 0, 0)
    link.clock.ns += 600 * NS_PER_S
    assert link.check() == pytest.approx(600 * MAX_DRIFT, rel=1e-3)


def test_a_step_begins_anew(caplog: pytest.LogCaptureFixture):
    """A machine that slept, or a source that lies: what contradicts it replaces what was known."""
    now = {"offset": 0}
    link = Link.to(lambda ns: ns + now["offset"])
    link.ask(MS, 0, MS)
    link.clock.ns += PING_NS
    now["offset"] = -3600 * NS_PER_S
    link.ask(MS, 0, MS)
    assert link.check() < 0.0011
    assert "a source's clock has stepped" in caplog.text


@pytest.mark.parametrize("connection", [0, 1])
def test_only_answers_to_own_pings_count(connection: int):
    """Another daemon's are passed over, and those of another connection."""
    link = Link.to(lambda ns: ns)
    number = link.clocks.next_ping(0)
    assert number is not None
    echo = ClockEcho(number if connection else number ^ 1, link.clock.ns)
    link.clocks.take(batch(link.clock.ns, link.clock.ns + MS, echo), connection)
    assert link.clocks.report().offset_s == {}


def test_stamps_of_no_clock_are_refused(caplog: pytest.LogCaptureFixture):
    """Sent before the ping came, or a rest longer than the whole round trip."""
    assert offset_bounds(0, 10, 9, 100) is None
    assert offset_bounds(0, 0, 110, 100) is None
    assert offset_bounds(0, 0, 100, 100) is not None
    link = Link.to(lambda ns: ns)
    number = link.clocks.next_ping(0)
    assert number is not None
    with caplog.at_level(logging.WARNING):
        link.clocks.take(batch(7, link.clock.ns, ClockEcho(number, 8)), 0)
    assert "stamps of no clock" in caplog.text
    assert link.clocks.report().offset_s == {}


def test_one_clock_needs_no_estimate():
    """A source on this machine is not asked, and its delay is plain."""
    clocks = SourceClocks(ManualClock(NS_PER_S), OWN)
    clocks.begin(hello(OWN), 0)
    assert clocks.next_ping(0) is None
    clocks.take(batch(10 * MS, 12 * MS), 0)
    clocks.take(batch(20 * MS, 21 * MS), 0)
    report = clocks.report()
    assert (report.offset_s, report.error_s, report.delay_s) == ({}, {}, {"probeA": 0.002})
    assert clocks.report().delay_s == {}


def test_a_source_that_does_not_answer_has_no_figures():
    """Older ones are not asked, and one on another machine has no delay before it has answered."""
    clocks = SourceClocks(ManualClock(NS_PER_S), OWN)
    clocks.begin(hello(""), 0)
    assert clocks.next_ping(0) is None
    clocks.take(batch(10 * MS, 12 * MS), 0)
    assert clocks.report().delay_s == {}
    clocks.begin(hello(OTHER, "b" * 16), 0)
    assert clocks.next_ping(0) is not None
    clocks.take(batch(10 * MS, 12 * MS), 0)  # of the run before
    assert clocks.report().delay_s == {}
    clocks.begin(hello(""), 0)  # the older program again
    assert clocks.next_ping(0) is None


def test_pings_are_sent_once_a_second_and_few_are_remembered():
    """However long nobody answers."""
    link = Link.to(lambda ns: ns)
    first = link.clocks.next_ping(0)
    assert first is not None
    assert link.clocks.next_ping(0) is None
    for _ in range(MAX_PINGS):
        link.clock.ns += PING_NS
        assert link.clocks.next_ping(0) is not None
    link.clocks.take(batch(1, link.clock.ns, ClockEcho(first, 1)), 0)
    assert link.clocks.report().offset_s == {}
