"""The once-a-second ``stats`` message: counters, latencies, health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

from contracts.messages import QueueMessage, StatisticsMessage, StreamMessage
from contracts.narration_wire import dump
from contracts.statistics import STATS_TOPIC, STATS_VERSION
from daemon.counters import Counters


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What one stream has covered.

    ``waiting``: left unread, because it is far ahead of the others or, under the policy ``all``,
    because the narrator has as many windows waiting as it may. ``aside``: its time does not agree
    with the other streams'.
    """

    covered_until_s: float  # session clock
    state: Literal["live", "blind", "ended", "waiting", "aside"]


def stats_message(
    *,
    host_ns: int,
    uptime_s: float,
    session_s: float | None,
    counters: Counters,
    latency_ms: Mapping[str, Mapping[str, float]],
    reasons: Sequence[str],
    notes: Sequence[str] = (),
    streams: Mapping[str, StreamStats],
    queue: Mapping[str, int],
) -> list[bytes]:
    """Build ``[topic, JSON]``.

    Windows are complete up to `session_s`, None before the first spike. `latency_ms` is
    `LatencyRecorder.summary`, `reasons` and `notes` are those of `Health`. `queue` counts the
    windows ``waiting`` for the narrator, and ``unfinished``: those and the ones that are being
    narrated.
    """
    message: StatisticsMessage = {
        "version": STATS_VERSION,
        "host_ns": host_ns,
        "uptime_s": uptime_s,
        "session_s": session_s,
        "counters": counters.as_dict(),
        "latency_ms": {stage: dict(summary) for stage, summary in latency_ms.items()},
        "ready": not reasons,
        "reasons": list(reasons),
        "notes": list(notes),
        "streams": {
            name: cast("StreamMessage", asdict(stream)) for name, stream in streams.items()
        },
        "queue": cast("QueueMessage", dict(queue)),
    }
    return [STATS_TOPIC, dump(message)]
