"""A soak: the whole chain at one rate for a long time, sampled once a second.

1. Until the daemon has cut its first window there is no sample: time counts from that window, as
   loading takes seconds or minutes.
2. Then, while the source runs: a sample each second, and what the schedule of disturbances says.
3. After the source has ended there is none: the daemon narrates what waits, and processes that end
   would look like leaks in reverse.

All the while a recorder keeps what sources and daemon send, and this process notes it too; at the
end the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from contracts.narration import Narration, Status
from contracts.statistics import Statistics
from contracts.trigger import Trigger
from evaluation.journals import Sent, SpikeWitness
from evaluation.latency.disturbances import (
    GOES_ON,
    KILLED,
    Disturbance,
    DisturbanceSchedule,
    disturbing,
)
from evaluation.latency.inputs import TrialInputs, units_of_probes
from evaluation.latency.messages import TimedMessage, percentiles, read
from evaluation.latency.process_usage import check_soak_libraries, footprint, worker_of
from evaluation.latency.rate import WindowRate
from evaluation.latency.recorder import SoakJournal, SoakRecorder, soak_journal
from evaluation.latency.sample import Event, Log, Recovery, Sample
from evaluation.trial import Trial, TrialPlan, TrialSummary, running
from subscribers.listener import Received

SAMPLE_NS = NS_PER_S
RECOVERED_FROM = (GOES_ON, KILLED)  # After these the narrator must narrate again


@dataclass(slots=True)
class _Second:
    """Latencies of what has arrived since the last sample, milliseconds."""

    narrations_ms: list[float] = field(default_factory=list)
    triggers_ms: list[float] = field(default_factory=list)
    n_failed: int = 0


class SoakSampler:
    """Turns messages into samples.

    `speed` is in session seconds per wall second.
    """

    def __init__(self, trial: Trial, recorder: SoakRecorder, speed: float, log: Log) -> None:
        self._trial = trial
        self._recorder = recorder
        self._speed = speed
        self._log = log
        self._clock = HostClock()
        self._second = _Second()
        self._stats: Mapping[str, Any] | None = None
        self._first: tuple[float, int] | None = None
        self._next_ns = 0
        self._unrecovered: list[Event] = []

    @property
    def t_s(self) -> float | None:
        """Wall seconds since the first window; None before."""
        return None if self._first is None else (self._clock.now_ns() - self._first[1]) / NS_PER_S

    def take(self, message: Received) -> None:
        """Take in a message."""
        if isinstance(message.value, Statistics):
            self._stats = message.content
            if self._first is None and self._stats["counters"]["windows"]:
                # Session and host time of one instant: the drift is measured against this pair.
                self._first = (self._stats["session_s"], self._stats["host_ns"])
                self._next_ns = self._clock.now_ns() + SAMPLE_NS
        elif isinstance(message.value, Narration) and (timed := read(message)):
            self._take_narration(timed)
        elif isinstance(message.value, Trigger) and (timed := read(message)):
            self._second.triggers_ms.append(timed.total_ms)

    def note(self, event: Event) -> None:
        """Log an event, and await the first narration that is begun after it."""
        self._log.event(event)
        if event.name in RECOVERED_FROM:
            self._unrecovered.append(event)

    def sample(self) -> None:
        """Log a sample if a second has passed."""
        now_ns = self._clock.now_ns()
        if self._first is None or now_ns < self._next_ns:
            return
        # On a fixed grid, so that samples do not drift; one that is late by more than a second is
        # not made up for by several at once.
        self._next_ns = max(self._next_ns + SAMPLE_NS, now_ns)
        self._log.sample(self._sample(now_ns))
        self._second = _Second()

    def _take_narration(self, narration: TimedMessage) -> None:
        if narration.status == Status.FAILED.value:
            self._second.n_failed += 1
            return
        self._second.narrations_ms.append(narration.total_ms)
        begun_ns = narration.host_ns["worker_start"]
        # A narration that was begun before the event and published after it is no recovery.
        for event in [event for event in self._unrecovered if begun_ns >= event.host_ns]:
            self._unrecovered.remove(event)
            self._log.recovery(
                Recovery(
                    event.name,
                    after_s=(narration.published_ns - event.host_ns) / NS_PER_S,
                    age_ms=(begun_ns - narration.first_ns) / 1e6,
                )
            )

    def _sample(self, now_ns: int) -> Sample:
        stats = self._stats or {}
        second = self._second
        daemon_pid = self._trial.daemon.pid
        return Sample(
            t_s=round(self.t_s or 0.0, 3),
            daemon=footprint(daemon_pid),
            worker=footprint(worker_of(daemon_pid)),
            source=footprint(self._trial.source.pid),
            recorder=footprint(self._recorder.pid),
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

    def _drift_ms(self, stats: Mapping[str, Any]) -> float | None:
        """Return session time covered, at the speed of the source, less wall time passed."""
        if self._first is None or stats["session_s"] is None:
            return None
        session_s, host_ns = self._first
        passed_s = (stats["host_ns"] - host_ns) / NS_PER_S
        covered_s = (float(stats["session_s"]) - session_s) / self._speed
        drift_ms: float = round(1e3 * (covered_s - passed_s), 3)
        return drift_ms


def check_soak(journal: Path | None) -> None:
    """Refuse a soak that could not be evaluated.

    Raises
    ------
    UserError
        If the journal's folder has files.
    DependencyError
        If psutil or SciPy is not installed.
    """
    check_soak_libraries()
    if journal is not None and journal.exists() and any(journal.iterdir()):
        raise UserError(
            f"--journal {journal} must be a new folder, and it has files: what a soak sends is "
            "compared with all that is in its journal."
        )


N_SUBSCRIBERS = 4
"""Of each source: the daemon, the recorder, and two of this process, its witness and its gate."""


@dataclass(frozen=True, slots=True)
class SoakResult:
    """What the processes of a soak wrote at their end, and what the journal has."""

    summary: TrialSummary
    recorded: SoakJournal


def soak(
    plan: TrialPlan,
    folder: Path,
    journal: Path,
    log: Log,
    *,
    speed: float,
    schedule: DisturbanceSchedule | None,
    is_stopped: Callable[[], bool],
    on_second: Callable[[float], None],
) -> SoakResult:
    """Run until the sources have sent all, or until asked to stop; the daemon ends by itself.

    `is_stopped` is called at least every 50 ms; once it is true, the sources are asked to stop, and
    what they sent is narrated. `on_second` is called with how many wall seconds it has run. `speed`
    is in session seconds per wall second. Without `schedule` nothing is disturbed.
    """
    clock, sent = HostClock(), Sent()
    with ExitStack() as stack:
        plan = replace(plan, n_subscribers=N_SUBSCRIBERS)
        trial = stack.enter_context(running(plan, folder, listens=False))
        recorder = SoakRecorder(journal, trial, folder, clock, stack)
        witness = stack.enter_context(closing(SpikeWitness(trial.all_spikes, sent)))
        trial.listen()
        disturbance = stack.enter_context(disturbing(schedule, trial, recorder, clock))
        sampler = SoakSampler(trial, recorder, speed, log)
        for messages in trial.received():
            recorder.check()
            witness.read()
            if is_stopped():
                _stop(trial, sampler, disturbance)
            for message in messages:
                sampler.take(message)
                sent.take(message)
            t_s = sampler.t_s
            # Every source: one that is stopped outlasts the others, and must be let go on.
            if t_s is not None and any(source.is_running for source in trial.sources):
                sampler.sample()
                on_second(t_s)
                for event in disturbance.step(t_s) if disturbance is not None else ():
                    sampler.note(event)
        summary = trial.wait()
        witness.read()
        ended = recorder.stop()
        return SoakResult(summary, soak_journal(recorder, sent, ended))


def soak_at(
    at: WindowRate,
    inputs: TrialInputs,
    folder: Path,
    journal: Path,
    log: Log,
    *,
    seconds: float,
    **options: Any,
) -> SoakResult:
    """Soak at a rate, the recording in a loop, with a source for each half of its probes.

    `options` are those of `soak`.
    """
    units = units_of_probes(inputs)
    plan = replace(
        at.plan(inputs, seconds=seconds),
        is_looped=True,
        units=units,
        more_recordings=(inputs.recording,) * (len(units) - 1),
    )
    return soak(plan, folder, journal, log, speed=at.speed, **options)


def _stop(trial: Trial, sampler: SoakSampler, disturbance: Disturbance | None) -> None:
    if disturbance is not None:
        disturbance.close()  # a stopped narrator would never finish what waits
    for source in trial.sources:
        source.ask_to_stop()
    if sampler.t_s is None:  # no window yet, so nothing waits to be narrated
        trial.daemon.ask_to_stop()
