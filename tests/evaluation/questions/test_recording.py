"""When the recording of a replay ends, by what the daemon says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.clock import NS_PER_S
from contracts.statistics import Statistics
from evaluation.questions.recording import AFTER_END_S, QUIET_S, SILENT_S, ReplayWatch
from tests.support.manual_clock import ManualClock

STARTED_S = 5_000.0  # Of the daemon's clock, which is not ours


class _Replay:
    """A daemon that publishes its statistics, and who watches it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.watch = ReplayWatch(self.clock)
        self.begun_ns = self.clock.ns

    def wait(self, seconds: float) -> None:
        self.clock.ns += round(seconds * NS_PER_S)

    def say(
        self, session_s: float | None, narrations: int = 0, *, state: str = "live", n_left: int = 0
    ) -> None:
        host_ns = round(STARTED_S * NS_PER_S) + self.clock.ns - self.begun_ns
        streams = {} if session_s is None else {"a": {"state": "ended"}, "b": {"state": state}}
        self.watch.take(
            Statistics(
                host_ns=host_ns, uptime_s=1.0, session_s=session_s,
                counters={"narrations": {"ok": narrations}}, latency_ms={}, ready=True,
                reasons=(), streams=streams, queue={"waiting": 0, "unfinished": n_left},
            )
        )  # fmt: skip

    def seconds(self, count: int) -> Iterator[float]:
        for second in range(count):
            self.wait(1)
            yield float(second)


@pytest.fixture
def replay() -> _Replay:
    return _Replay()


def test_it_ends_when_every_stream_has_and_all_is_narrated(replay: _Replay):
    """Not with the first of two streams, and not while a window is in the narrator."""
    replay.say(None)
    for second in replay.seconds(20):
        replay.say(second)
    for _ in replay.seconds(60):  # slow narrations of the last windows
        replay.say(20.0, state="ended", n_left=3)
        assert not replay.watch.has_ended
    replay.say(20.0, 40, state="ended")
    assert not replay.watch.has_ended  # what it published before may still be on its way
    replay.wait(AFTER_END_S + 0.1)
    assert replay.watch.has_ended


def test_a_daemon_behind_a_slow_model_has_not_ended(replay: _Replay):
    """It says nothing for minutes, and goes on; without a word for longer it has gone."""
    replay.say(None)
    replay.say(1.0, 1)
    for second in (2.0, 3.0):
        replay.wait(SILENT_S - 1)
        assert not replay.watch.has_ended
        replay.say(second, int(second))
        assert not replay.watch.has_ended
    replay.wait(SILENT_S + 1)
    assert replay.watch.has_ended


def test_a_source_that_was_killed_is_an_end(replay: _Replay):
    """Its stream never ends: the daemon says for a while that nothing is new."""
    replay.say(None)
    replay.say(4.0, 7)
    for _ in replay.seconds(QUIET_S):
        replay.say(4.0, 7, state="blind")
        assert not replay.watch.has_ended
    for _ in replay.seconds(AFTER_END_S + 2):
        replay.say(4.0, 7, state="blind")
    assert replay.watch.has_ended


def test_the_replay_before_is_not_waited_for(replay: _Replay):
    """A daemon whose streams have ended is recorded from the next one on, however short it is."""
    for _ in replay.seconds(3 * QUIET_S):
        replay.say(90.0, 50, state="ended")
        assert not replay.watch.has_ended
    replay.wait(1)
    replay.say(2.0, 51, state="ended")
    replay.wait(AFTER_END_S + 1)
    assert replay.watch.has_ended


def test_a_stream_that_goes_on_is_no_end(replay: _Replay):
    """As a source that is started again at once."""
    replay.say(None)
    replay.say(1.0, 1)
    replay.say(2.0, 2, state="ended")
    replay.wait(AFTER_END_S / 2)
    replay.say(3.0, 3)
    replay.wait(AFTER_END_S)
    assert not replay.watch.has_ended
