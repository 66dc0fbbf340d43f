"""The log of a soak: a line of JSON each second, and one for each event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from evaluation.latency.process_usage import Footprint


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured in one second."""

    t_s: float  # Wall seconds since the first window
    # None while there is no such process
    daemon: Footprint | None
    worker: Footprint | None
    source: Footprint | None
    recorder: Footprint | None
    # Of the newest ``stats``: windows ``waiting`` for the narrator, and ``unfinished``
    queue: dict[str, int]
    counters: dict[str, Any]  # Of the newest ``stats``; they never decrease
    # Received in this second; failed narrations are not in the first count
    n_narrations: int
    n_failed: int
    n_triggers: int
    # p50, p95, p99, max and n of this second's narrations and triggers
    latency_ms: dict[str, float] | None
    trigger_ms: dict[str, float] | None
    # Session time covered, at the speed of the replay, minus the wall time that has passed
    drift_ms: float | None
    stats_age_s: float  # How old the newest ``stats`` is

    @property
    def counted_s(self) -> float:
        """When the counters were read: wall seconds since the first window."""
        return self.t_s - self.stats_age_s


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the processes."""

    name: str  # One of those in `evaluation.latency.disturbances`
    t_s: float  # Wall seconds since the first window
    host_ns: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """The first narration begun after an event."""

    event: str
    after_s: float  # From the event until the narration was published
    age_ms: float  # Of its window when the narrator took it


@dataclass(slots=True)
class Log:
    """The file of a soak; each line is flushed before the next, so that a crash loses nothing."""

    file: IO[str] | None
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write one line."""
        if self.file is not None:
            line = json.dumps({"kind": kind, **content}, ensure_ascii=False, allow_nan=False)
            self.file.write(line + "\n")
            self.file.flush()

    def sample(self, sample: Sample) -> None:
        """Record one second."""
        self.samples.append(sample)
        self.write("sample", asdict(sample))

    def event(self, event: Event) -> None:
        """Record what was done to the processes."""
        self.events.append(event)
        self.write("event", asdict(event))

    def recovery(self, recovery: Recovery) -> None:
        """Record the first narration after an event."""
        self.recoveries.append(recovery)
        self.write("recovery", asdict(recovery))
