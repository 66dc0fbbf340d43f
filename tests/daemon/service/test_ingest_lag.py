"""How long spikes wait for a busy loop, and when that makes the daemon not ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from contracts.clock import NS_PER_S
from daemon.service.health import Health
from daemon.service.ingest_lag import IngestLag, remedy
from tests.support.daemon_components import Context, FakeNarratorClient, hello_of
from tests.support.manual_clock import ManualClock
from tests.support.ramp_session import FedLoop, Start, fed_loops, ramp

SECOND_NS = NS_PER_S


@pytest.fixture
def start(context: Context) -> Iterator[Start]:
    with fed_loops(context) as start:
        yield start


def lag_s(daemon: FedLoop, clock: ManualClock) -> float:
    return daemon.ingest.lag_ns(clock.ns) / NS_PER_S


def test_messages_wait_since_the_loop_was_up_to_date(start: Start):
    """From then on, until the next step has taken them; silence is no wait."""
    clock = ManualClock()
    daemon = start(clock)
    daemon.receive(hello_of())
    clock.ns += 5 * SECOND_NS
    assert lag_s(daemon, clock) == 0
    daemon.loop.step()
    daemon.source.send(*ramp(0, 20))
    clock.ns += SECOND_NS // 2
    assert lag_s(daemon, clock) == 0.5
    daemon.loop.step()
    assert lag_s(daemon, clock) == 0


def test_step_that_does_not_take_all_leaves_the_loop_behind(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    """Encoding a window takes a while: what is left waits, and longer with each step."""
    clock = ManualClock()
    daemon = start(clock)
    daemon.receive(hello_of())
    encode = daemon.encoder.encode

    def encode_slowly(windows):
        clock.ns += SECOND_NS // 5
        return encode(windows)

    monkeypatch.setattr(daemon.encoder, "encode", encode_slowly)
    daemon.source.send(*ramp(0, 100))
    lags_s = []
    for _ in range(6):
        daemon.loop.step()
        lags_s.append(lag_s(daemon, clock))
    assert lags_s == [pytest.approx(0.2 * n) for n in (1, 2, 3, 4)] + [0, 0]


def test_a_source_that_waits_is_not_late(start: Start):
    """A lossless replay has always more to send; a live stream on the same connection counts."""
    clock = ManualClock()
    daemon = start(clock)
    daemon.receive(replace(hello_of(), is_lossless=True))
    daemon.source.send(*ramp(0, 20))
    clock.ns += SECOND_NS
    assert lag_s(daemon, clock) == 0
    daemon.receive(hello_of(run="e" * 16))
    daemon.source.send(*ramp(20, 40, run="e" * 16))
    clock.ns += SECOND_NS
    assert lag_s(daemon, clock) == 1


def test_what_is_left_unread_on_purpose_is_not_late(start: Start):
    """While the hand-over is full, and no longer than a step after it had been."""
    clock, narrator = ManualClock(), FakeNarratorClient()
    daemon = start(clock, narrator_client=narrator)
    daemon.receive(hello_of())
    narrator.is_full = True
    daemon.source.send(*ramp(0, 20))
    for _ in range(20):
        clock.ns += SECOND_NS // 10
        daemon.loop.step()
    assert daemon.ingest.has_messages is False  # not among those that are read
    assert lag_s(daemon, clock) == 0
    narrator.is_full = False
    clock.ns += SECOND_NS // 10
    assert lag_s(daemon, clock) == 0.1


def test_closed_sources_wait_for_nobody(start: Start):
    """What is not read at shutdown is no reason."""
    clock = ManualClock()
    daemon = start(clock)
    daemon.receive(hello_of())
    daemon.source.send(*ramp(0, 20))
    clock.ns += SECOND_NS
    daemon.ingest.close()
    assert lag_s(daemon, clock) == 0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_half_a_second_is_a_reason_for_two(clock: ManualClock, caplog: pytest.LogCaptureFixture):
    """At once, also while the loop does not tick; afterwards for two seconds. One line each way."""
    caplog.set_level("INFO")
    waits_s = 0.5
    lag = IngestLag(lambda _: round(waits_s * NS_PER_S), clock, remedy=remedy(is_sequential=False))
    health = Health([], clock)
    health.ask("ingest", lag.problem)
    assert lag.tick() == 0.5
    assert health.is_ready
    waits_s = 0.7  # while the loop is in a step
    assert health.reasons()[0].startswith(
        "ingest: spikes wait 0.7 s for the fast loop, which is busy with encoding and publi"
    )
    waits_s = 0.9
    for _ in range(10):
        lag.tick()
    waits_s = 0.1
    for _ in range(19):
        clock.ns += SECOND_NS // 10
        health.tick()
        assert lag.tick() == 0.9
        assert not health.is_ready
    clock.ns += SECOND_NS // 10
    health.tick()
    assert lag.tick() == 0.1
    assert health.is_ready
    assert [record.message for record in caplog.records] == [
        "spikes wait for the fast loop",
        "the fast loop is up to date again",
    ]


def test_narrating_in_the_loop_has_another_remedy(clock: ManualClock):
    """The sequential mode is not for live sources."""
    lag = IngestLag(lambda _: NS_PER_S, clock, remedy=remedy(is_sequential=True))
    assert "Use narrator.mode = worker" in lag.problem()
