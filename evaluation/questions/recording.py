"""Records what a daemon publishes, until a replay has ended."""

from __future__ import annotations

from pathlib import Path

from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.keys import ClientKeys
from contracts.statistics import STATS_TOPIC, Statistics
from daemon.stream_registry import StreamState
from evaluation.progress import report
from subscribers.listener import Listener
from subscribers.recorder.record import RecordOptions, record

AFTER_END_S = 2
"""Recorded beyond the end: statistics and narrations come by connections of their own."""

QUIET_S = 10
"""By the daemon's clock, without a new bin or narration: its source was killed. One that plays
sends batches, if empty ones, and a daemon its statistics, every second."""

SILENT_S = 600
"""Without statistics a daemon has gone. One that narrates within its loop (``sequential``) sends
none meanwhile, which takes minutes with a large model on a CPU."""


def record_replay(address: str, keys: ClientKeys | None, folder: Path) -> Path:
    """Record a daemon's narrations of one replay to a new journal, and return its folder.

    Waits for the first bin as long as it takes; Control-C ends it.

    Raises
    ------
    UserError
        If `folder` cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    report(f"evaluate: waiting for {address}")
    with Listener(address, (STATS_TOPIC,), setting="--subscribe", keys=keys) as listener:
        watch = ReplayWatch(HostClock())

        def has_ended() -> bool:
            for message in listener.messages():
                if isinstance(message.value, Statistics):
                    watch.take(message.value)
            return watch.has_ended

        options = RecordOptions(folder, (), (address,), keys=(keys,))
        ended = record(options, HostClock(), should_stop=has_ended)
    if ended.error is not None:
        raise ended.error
    return folder


class ReplayWatch:
    """Tells by a daemon's statistics whether a replay has ended. No socket here.

    The daemon says so: every stream has ended, and nothing is being narrated. A daemon that is busy
    says nothing for a while, which is no end.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first: tuple[object, ...] | None = None
        self._seen: tuple[object, ...] | None = None
        self._changed_ns = 0  # The daemon's clock
        self._has_begun = False
        self._received_ns = 0
        self._ended_ns: int | None = None

    def take(self, statistics: Statistics) -> None:
        """Note one message."""
        found = (statistics.session_s, statistics.by_label("narrations"))
        if self._first is None:
            report("evaluate: recording")
            self._first = found
        states = {stream["state"] for stream in statistics.streams.values()}
        is_over = states == {StreamState.ENDED.value}
        # A replay that had ended before is not the one that is waited for.
        is_new = found != self._first or not is_over
        self._has_begun |= statistics.session_s is not None and is_new
        is_busy = statistics.queue.get("unfinished", 0) > 0
        if is_busy or found != self._seen:
            self._seen, self._changed_ns = found, statistics.host_ns
        self._received_ns = self._clock.now_ns()
        is_quiet = statistics.host_ns - self._changed_ns > QUIET_S * NS_PER_S
        if not self._has_begun or not (is_quiet or (is_over and not is_busy)):
            self._ended_ns = None
        elif self._ended_ns is None:
            self._ended_ns = self._received_ns

    @property
    def has_ended(self) -> bool:
        """Whether a replay has begun and ended since the first message."""
        now_ns = self._clock.now_ns()
        if self._has_begun and now_ns - self._received_ns > SILENT_S * NS_PER_S:
            return True
        return self._ended_ns is not None and now_ns - self._ended_ns > AFTER_END_S * NS_PER_S
