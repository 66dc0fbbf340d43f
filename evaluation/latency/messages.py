"""The latencies in narrations and triggers, and their percentiles.

They are not measured here but read from the stamps in a message, and the parts of every message
must sum to its whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.clock import second_to_ns
from contracts.errors import ChildError
from subscribers.listener import Received

TOLERANCE_MS = 1e-6
"""A nanosecond: stamps are whole ones, and milliseconds in float64 are far finer."""


@dataclass(frozen=True, slots=True)
class TimedMessage:
    """The times of one narration or trigger."""

    kind: str  # ``narration``; of a trigger the kind of its rule: ``probe``, ``word``, ``likeness``
    name: str  # Of the population that was narrated, or of the trigger
    window_seq: int
    window_stop_ns: int  # Session clock; 0 if the message has none
    status: str  # ``ok``, ``truncated`` or ``failed``; empty for a trigger
    n_tokens: int
    host_ns: Mapping[str, int]  # Stamps in their order
    stages_ms: Mapping[str, float]  # Durations of the stages in their order, without the total
    total_ms: float
    received_ns: int  # When it arrived in this process, host clock

    @property
    def published_ns(self) -> int:
        """When it left the daemon, host clock."""
        return list(self.host_ns.values())[-1]

    @property
    def first_ns(self) -> int:
        """When the newest spike was received, host clock."""
        return next(iter(self.host_ns.values()))


def read(message: Received) -> TimedMessage | None:
    """Read the times of a narration or a trigger; return None for a repeat of a last value.

    Raises
    ------
    ChildError
        If its parts do not sum to its whole.
    """
    content = message.content
    if message.is_repeat:
        return None
    if problem := parts_problem(content):
        raise ChildError(
            f"the parts of a latency must sum to the whole, and in a {message.topic} of "
            f"window {content['window']['seq']} {problem}"
        )
    stages = dict(content["latency_ms"])
    total = stages.pop("total")
    return TimedMessage(
        kind=content.get("kind", "narration"),
        name=message.topic.partition(".")[2],
        window_seq=content["window"]["seq"],
        window_stop_ns=second_to_ns(content["window"].get("stop_s", 0.0)),
        status=content.get("status", ""),
        n_tokens=content.get("n_tokens", 0),
        host_ns=content["host_ns"],
        stages_ms=stages,
        total_ms=total,
        received_ns=message.host_ns,
    )


def parts_problem(content: Mapping[str, Any]) -> str:
    """Return what is wrong with the stamps and the stages of a message; empty if nothing is.

    ``host_ns`` holds the stamps in their order, ``latency_ms`` a stage between each two and
    ``total``.
    """
    stamps = list(content["host_ns"].values())
    names = list(content["host_ns"])
    spans = [(later - earlier) / 1e6 for earlier, later in pairwise(stamps)]
    stages = dict(content["latency_ms"])
    total = stages.pop("total")
    for name, span in zip(names[1:], spans, strict=True):
        if span < 0:
            return f"the stamp {name} lies {-span:.6f} ms before the one before it"
    if len(stages) != len(spans):
        return f"{len(stages)} stages lie between {len(stamps)} stamps"
    for (stage, stage_ms), span in zip(stages.items(), spans, strict=True):
        if abs(stage_ms - span) > TOLERANCE_MS:
            return f"the stage {stage} is {stage_ms:.6f} ms and its stamps are {span:.6f} ms apart"
    if abs(sum(stages.values()) - total) > TOLERANCE_MS:
        return f"the stages sum to {sum(stages.values()):.6f} ms and the total is {total:.6f} ms"
    for name, age in content.get("age_ms", {}).items():
        since = (content["host_ns"][name] - stamps[0]) / 1e6
        if abs(age - since) > TOLERANCE_MS:
            return f"the age at {name} is {age:.6f} ms and the stamps are {since:.6f} ms apart"
    return ""


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float] | None:
    """Return p50, p95, p99, max and n; None of nothing."""
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "max": float(np.max(values)), "n": len(values)}


def stage_percentiles(messages: Sequence[TimedMessage]) -> dict[str, dict[str, float]]:
    """Return the percentiles of every stage, in milliseconds, ``total`` last; empty of nothing.

    All messages are of one kind.
    """
    columns = {
        stage: [message.stages_ms[stage] for message in messages] for stage in _stages(messages)
    }
    columns["total"] = [message.total_ms for message in messages]
    summaries = {stage: percentiles(values) for stage, values in columns.items()}
    return {stage: summary for stage, summary in summaries.items() if summary is not None}


MIDDLE = (40.0, 60.0)  # Percentiles of the total between which a message counts as typical


def middle_ms(messages: Sequence[TimedMessage]) -> dict[str, float]:
    """Return the mean of every stage over the typical messages, milliseconds; empty of nothing.

    Medians of stages do not sum to the median of the whole. These do sum to the mean total of the
    messages whose total lies between the 40th and the 60th percentile, which is nearly the median.

    All messages are of one kind.
    """
    if not messages:
        return {}
    totals = np.array([message.total_ms for message in messages])
    low, high = np.percentile(totals, MIDDLE)
    typical = [message for message in messages if low <= message.total_ms <= high]
    # Of two messages with different totals none need lie between: then the nearest to the median.
    typical = typical or [messages[int(np.argmin(np.abs(totals - np.median(totals))))]]
    return {
        stage: float(np.mean([message.stages_ms[stage] for message in typical]))
        for stage in _stages(messages)
    }


def _stages(messages: Sequence[TimedMessage]) -> list[str]:
    return list(messages[0].stages_ms) if messages else []
