"""A soak: the whole chain at one rate for a long time, looked at once a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.clock import NS_PER_S, HostClock
from contracts.narration import Status
from contracts.narration_wire import load
from evaluation.latency.disturbances import (
    GOES_ON,
    KILLED,
    Disturbance,
    DisturbanceSchedule,
    disturbing,
)
from evaluation.latency.messages import (
    NARRATION,
    STATS,
    TRIGGER,
    Message,
    TimedMessage,
    percentiles,
    read,
)
from evaluation.latency.process_usage import footprint, worker_of
from evaluation.latency.rig import Rig, RigPlan, running
from evaluation.latency.sample import Event, Log, Recovery, Sample

EVERY_NS = NS_PER_S

RECOVERED_FROM = (GOES_ON, KILLED)
"""After these the narrator must speak again."""


@dataclass(frozen=True, slots=True)
class SoakResult:
    """What a soak leaves behind: what the source and the daemon say of themselves."""

    source: dict[str, Any]
    daemon: dict[str, Any]


@dataclass(slots=True)
class _Second:
    """What has arrived since the last sample."""

    narrations_ms: list[float] = field(default_factory=list)
    triggers_ms: list[float] = field(default_factory=list)
    n_failed: int = 0


class SoakSampler:
    """Turns what is heard into samples.

    Parameters
    ----------
    rig : Rig
    speed : float
        Session seconds per second.
    log : Log
    """

    def __init__(self, rig: Rig, speed: float, log: Log) -> None:
        self._rig = rig
        self._speed = speed
        self._log = log
        self._clock = HostClock()
        self._second = _Second()
        self._stats: dict[str, Any] | None = None
        self._first: tuple[float, int] | None = None
        self._next_ns = 0
        self._waits_for: list[Event] = []

    @property
    def t_s(self) -> float | None:
        """Wall seconds since the first window; None before."""
        return None if self._first is None else (self._clock.now_ns() - self._first[1]) / NS_PER_S

    def hear(self, message: Message) -> None:
        """Take in a message."""
        if message.topic == STATS:
            self._stats = load(message.payload)
            if self._first is None and self._stats["counters"]["windows"]:
                self._first = (self._stats["session_s"], self._stats["host_ns"])
                self._next_ns = self._clock.now_ns() + EVERY_NS
        elif message.topic.startswith(NARRATION) and (heard := read(message)):
            self._hear_narration(heard)
        elif message.topic.startswith(TRIGGER) and (heard := read(message)):
            self._second.triggers_ms.append(heard.total_ms)

    def note(self, event: Event) -> None:
        """Remember what was done, and wait for the first narration after it."""
        self._log.event(event)
        if event.name in RECOVERED_FROM:
            self._waits_for.append(event)

    def look(self) -> None:
        """Write a sample if a second has passed."""
        now_ns = self._clock.now_ns()
        if self._first is None or now_ns < self._next_ns:
            return
        self._next_ns = max(self._next_ns + EVERY_NS, now_ns)
        self._log.sample(self._sample(now_ns))
        self._second = _Second()

    def _hear_narration(self, heard: TimedMessage) -> None:
        if heard.status == Status.FAILED.value:
            self._second.n_failed += 1
            return
        self._second.narrations_ms.append(heard.total_ms)
        begun_ns = heard.host_ns["worker_start"]
        for event in [each for each in self._waits_for if begun_ns >= each.host_ns]:
            self._waits_for.remove(event)
            self._log.recovery(
                Recovery(
                    event.name,
                    after_s=(heard.published_ns - event.host_ns) / NS_PER_S,
                    age_ms=(begun_ns - heard.first_ns) / 1e6,
                )
            )

    def _sample(self, now_ns: int) -> Sample:
        stats = self._stats or {}
        second = self._second
        daemon_pid = self._rig.daemon.pid
        return Sample(
            t_s=round(self.t_s or 0.0, 3),
            daemon=footprint(daemon_pid),
            worker=footprint(worker_of(daemon_pid)),
            source=footprint(self._rig.source.pid),
            queue=stats.get("queue", {}),
            counters=stats["counters"],
            n_narrations=len(second.narrations_ms),
            n_failed=second.n_failed,
            n_triggers=len(second.triggers_ms),
            latency_ms=percentiles(second.narrations_ms),
            trigger_ms=percentiles(second.triggers_ms),
            drift_ms=self._drift_ms(stats),
            stats_age_s=round((now_ns - stats["host_ns"]) / NS_PER_S, 3),
        )

    def _drift_ms(self, stats: dict[str, Any]) -> float | None:
        """Return session time covered, at the replay's speed, less wall time passed."""
        if self._first is None or stats["session_s"] is None:
            return None
        session_s, host_ns = self._first
        passed_s = (stats["host_ns"] - host_ns) / NS_PER_S
        covered_s = (float(stats["session_s"]) - session_s) / self._speed
        drift_ms: float = round(1e3 * (covered_s - passed_s), 3)
        return drift_ms


def soak(
    plan: RigPlan,
    folder: Path,
    log: Log,
    *,
    programme: DisturbanceSchedule | None,
    is_stopped: Callable[[], bool],
    on_second: Callable[[float], None],
) -> SoakResult:
    """Run until the source has sent all, or until it is asked to stop; the daemon ends by itself.

    Parameters
    ----------
    plan : RigPlan
    folder : Path
        For logs and summaries of the processes.
    log : Log
        Takes every second.
    programme : DisturbanceSchedule or None
        What is done to the processes; None for nothing.
    is_stopped : callable
        Asked all the time. The source is then asked to stop, and what it sent is narrated.
    on_second : callable
        Told how long it has run.

    Returns
    -------
    SoakResult
    """
    with (
        running(plan, folder, spikes_too=False) as rig,
        disturbing(programme, rig.daemon.pid, rig.publish, HostClock()) as disturbance,
    ):
        watch = SoakSampler(rig, plan.speed, log)
        while not rig.is_over:
            if is_stopped():
                if disturbance is not None:
                    disturbance.go_on()
                rig.source.ask_to_stop()
                if watch.t_s is None:  # the narrator is still loading
                    rig.daemon.ask_to_stop()
            _turn(rig, watch, disturbance, on_second)
        while more := rig.take():
            for message in more:
                watch.hear(message)
        return SoakResult(*rig.summaries())


def _turn(
    rig: Rig,
    watch: SoakSampler,
    disturbance: Disturbance | None,
    on_second: Callable[[float], None],
) -> None:
    for message in rig.take():
        watch.hear(message)
    t_s = watch.t_s
    if t_s is None or not rig.source.is_running:
        return
    watch.look()
    on_second(t_s)
    for event in disturbance.step(t_s) if disturbance is not None else ():
        watch.note(event)
