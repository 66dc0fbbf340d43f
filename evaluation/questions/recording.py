"""Records what a daemon publishes, until it has nothing more to narrate."""

from __future__ import annotations

from pathlib import Path

from contracts.clock import NS_PER_S, HostClock
from contracts.keys import ClientKeys
from contracts.statistics import STATS_TOPIC, Statistics
from evaluation.progress import report
from subscribers.listener import Listener
from subscribers.recorder.record import RecordOptions, record

QUIET_S = 10
"""Seconds without a new bin or narration after which a replay has ended. A source that plays sends
batches, if empty ones, and a daemon its statistics, every second."""


def record_until_quiet(address: str, keys: ClientKeys | None, folder: Path) -> Path:
    """Record a daemon's narrations to a new journal, and return its folder.

    Waits for the first bin as long as it takes; Control-C ends it.

    Raises
    ------
    UserError
        If `folder` cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    report(f"evaluate: waiting for {address}")
    with Listener(address, (STATS_TOPIC,), setting="--subscribe", keys=keys) as listener:
        quiet = _Quiet(listener)
        options = RecordOptions(folder, (), (address,), keys=(keys,))
        ended = record(options, HostClock(), should_stop=quiet.has_ended)
    if ended.error is not None:
        raise ended.error
    return folder


class _Quiet:
    """Watches a daemon's statistics."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._clock = HostClock()
        self._seen: tuple[object, ...] | None = None
        self._changed_ns = 0

    def has_ended(self) -> bool:
        """Whether nothing has changed for `QUIET_S`, since the first bin."""
        now_ns = self._clock.now_ns()
        for message in self._listener.messages():
            statistics = message.value
            if not isinstance(statistics, Statistics):
                continue
            if self._seen is None:
                report("evaluate: recording")
                self._seen = ()
            found = (statistics.session_s, statistics.by_label("narrations"))
            is_busy = statistics.queue.get("unfinished", 0) > 0
            if statistics.session_s is not None and (is_busy or found != self._seen):
                self._seen, self._changed_ns = found, now_ns
        return self._changed_ns > 0 and now_ns - self._changed_ns > QUIET_S * NS_PER_S
