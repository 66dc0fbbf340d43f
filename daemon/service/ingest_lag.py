"""Whether spikes of live sources wait because the fast loop is busy."""

from __future__ import annotations

import logging
from collections.abc import Callable

from contracts.clock import NS_PER_S, Clock, ns_to_second, second_to_ns
from daemon.rate_limited_log import RateLimitedLog

LATE_S = 0.5
"""Longer than a step of a loop that keeps up, and half of what makes a live narration useless."""

MEMORY_S = 2.0
"""A loop that encodes for a second is up to date once a second, for a moment."""

LOG_EVERY_S = 10.0

logger = logging.getLogger(__name__)


class IngestLag:
    """The longest that spikes have waited within two seconds, and whether that is too long.

    `lag_ns` is `Ingest.lag_ns`, for a time of the host clock; `remedy` says what to do. `tick`
    belongs to the fast loop. `problem` may be asked for by any thread, also while the loop is busy.
    """

    def __init__(self, lag_ns: Callable[[int], int], clock: Clock, *, remedy: str) -> None:
        self._lag_ns = lag_ns
        self._clock = clock
        self._remedy = remedy
        self._log = RateLimitedLog(logger, clock, interval_s=LOG_EVERY_S)
        self._longest = (0, 0)  # and when that was, host clock; replaced as a whole
        self._is_late = False

    def tick(self) -> float:
        """Note how long spikes wait after a step; return the longest of late, in seconds."""
        now_ns = self._clock.now_ns()
        lag_ns = self._lag_ns(now_ns)
        if lag_ns >= self._recent_ns(now_ns):
            self._longest = (lag_ns, now_ns)
        lag_s = ns_to_second(self._longest[0])
        is_late = lag_s > LATE_S
        if is_late:
            fields = {"lag_s": round(lag_s, 2), "remedy": self._remedy}
            self._log.warning("late", "spikes wait for the fast loop", extra=fields)
        elif self._is_late:
            self._log.info("in time", "the fast loop is up to date again", extra={})
        self._is_late = is_late
        return lag_s

    def problem(self) -> str:
        """Return for how long spikes wait, and what to do; empty if that is not too long."""
        now_ns = self._clock.now_ns()
        lag_ns = max(self._lag_ns(now_ns), self._recent_ns(now_ns))
        if lag_ns <= LATE_S * NS_PER_S:
            return ""
        return f"spikes wait {ns_to_second(lag_ns):.1f} s for the fast loop, {self._remedy}"

    def _recent_ns(self, now_ns: int) -> int:
        longest_ns, at_ns = self._longest
        return longest_ns if now_ns - at_ns < second_to_ns(MEMORY_S) else 0


def remedy(*, is_sequential: bool) -> str:
    """Return why the loop is busy, and what to do."""
    if is_sequential:
        return "which narrates in between. Use narrator.mode = worker for live sources"
    return (
        "which is busy with encoding and publishing. Use fewer populations or a larger "
        "window.stride_bins; the line 'encoder measured' in the log says how long a window takes"
    )
