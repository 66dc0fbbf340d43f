"""The daemon's once-a-second account of itself: counters, latencies, readiness, streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contracts.errors import WireError
from contracts.narration_wire import check_version, read_fields

STATS_TOPIC = b"stats"

STATS_VERSION: Final = 1
"""Version of the message. Raised when a field changes meaning or goes."""

Number = int | float


@dataclass(frozen=True, slots=True)
class Statistics:
    """One ``stats`` message.

    Attributes
    ----------
    host_ns : int
        When it was made; the daemon's monotonic clock.
    session_s : float or None
        Session seconds up to which windows are complete; None before the first spike.
    counters : dict
        By name, and for counters with a label by label.
    latency_ms : dict
        ``p50``, ``p95``, ``p99``, ``max`` and ``n`` of each stage and of ``total``; empty before
        the first narration.
    streams : dict
        ``covered_until_s`` and ``state`` of each stream.
    queue : dict
        Windows: ``waiting`` for the narrator, and ``unfinished``.
    """

    host_ns: int
    uptime_s: float
    session_s: float | None
    counters: dict[str, int | dict[str, int]]
    latency_ms: dict[str, dict[str, Number]]
    ready: bool
    reasons: tuple[str, ...]
    streams: dict[str, dict[str, Any]]
    queue: dict[str, int]

    def count(self, name: str) -> int:
        """Return a counter without labels; 0 if the daemon has none of this name."""
        value = self.counters.get(name, 0)
        return 0 if isinstance(value, dict) else value

    def by_label(self, name: str) -> dict[str, int]:
        """Return a counter by label; empty if the daemon has none of this name."""
        value = self.counters.get(name, {})
        return value if isinstance(value, dict) else {}


def statistics_of(message: Mapping[str, Any]) -> Statistics:
    """Read the JSON object of a ``stats`` message.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    check_version(message, "stats", STATS_VERSION)
    try:
        return read_fields(Statistics, message)
    except ValueError as error:
        raise WireError("field", f"a stats message lacks or misspells a field: {error}") from error
