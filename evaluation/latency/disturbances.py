"""Disturbances of a soak: processes that stop or die, and a subscriber that never reads.

A disturbance is due at a time, happens once, and is never repeated: `Disturbance.step` takes the
first of a sorted list for as long as it is due. Whatever ends the soak, leaving `disturbing` lets
stopped processes continue: until then a narrator could not notice that its daemon has ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from contracts.clock import Clock
from evaluation.latency.process_usage import worker_of
from evaluation.latency.recorder import SoakRecorder
from evaluation.latency.sample import Event
from evaluation.trial import Trial
from subscribers.listener import Listener

SLOW, STOPPED, GOES_ON, KILLED = (
    "slow subscriber",
    "narrator stopped",
    "narrator goes on",
    "narrator killed",
)
RECORDER_KILLED, RECORDER_STARTED, RECORDER_BACK = (
    "recorder killed",
    "recorder started",
    "recorder is back",
)
SOURCE_STOPPED, SOURCE_GOES_ON = "source stopped", "source goes on"

STOPPED_S = 30.0  # How long the narrator is stopped
UNRECORDED_S = 10.0  # Until the recorder is started again
SOURCE_STOPPED_S = 1.0  # Less than `ingest.stream_timeout_s`, after which nobody waits for it
# When, as a share of the whole
SLOW_AT, RECORDER_KILLED_AT, STOPPED_AT, KILLED_AT, SOURCE_STOPPED_AT = 0.15, 0.25, 0.4, 0.75, 0.88
LONGEST_STOP = 0.2  # Of the whole, for soaks of a few seconds
LONGEST_UNRECORDED = 0.05


@dataclass(frozen=True, slots=True)
class DisturbanceSchedule:
    """When each disturbance happens, wall seconds since the first window."""

    slow_s: float
    recorder_killed_s: float
    recorder_started_s: float
    stopped_s: float
    goes_on_s: float
    killed_s: float
    source_stopped_s: float
    source_goes_on_s: float

    @classmethod
    def of(cls, seconds: float) -> DisturbanceSchedule:
        """Lay it out over a soak of some length."""
        stopped_s, unrecorded_s = STOPPED_AT * seconds, RECORDER_KILLED_AT * seconds
        source_s = SOURCE_STOPPED_AT * seconds
        return cls(
            slow_s=SLOW_AT * seconds,
            recorder_killed_s=unrecorded_s,
            recorder_started_s=unrecorded_s + min(UNRECORDED_S, LONGEST_UNRECORDED * seconds),
            stopped_s=stopped_s,
            goes_on_s=stopped_s + min(STOPPED_S, LONGEST_STOP * seconds),
            killed_s=KILLED_AT * seconds,
            source_stopped_s=source_s,
            source_goes_on_s=source_s + SOURCE_STOPPED_S,
        )


class Disturbance:
    """Disturbs the processes when the schedule says so; `stack` closes the slow subscriber."""

    def __init__(
        self,
        schedule: DisturbanceSchedule,
        trial: Trial,
        recorder: SoakRecorder,
        clock: Clock,
        stack: ExitStack,
    ) -> None:
        self._trial = trial
        self._recorder = recorder
        self._clock = clock
        self._stack = stack
        self._stopped_pid: int | None = None
        self._pending: list[tuple[float, str, Callable[[], object]]] = [
            (schedule.slow_s, SLOW, self._join_and_never_read),
            (schedule.recorder_killed_s, RECORDER_KILLED, recorder.kill),
            (schedule.recorder_started_s, RECORDER_STARTED, recorder.start),
            (schedule.stopped_s, STOPPED, self._stop),
            (schedule.goes_on_s, GOES_ON, self.resume),
            (schedule.killed_s, KILLED, self._kill),
            (schedule.source_stopped_s, SOURCE_STOPPED, self._stop_source),
            (schedule.source_goes_on_s, SOURCE_GOES_ON, self._resume_source),
        ]

    def step(self, t_s: float) -> Iterator[Event]:
        """Do what is due, and yield an event for it.

        `t_s` are wall seconds since the first window.
        """
        while self._pending and t_s >= self._pending[0][0]:
            _, name, act = self._pending.pop(0)
            act()
            yield self._event(name, t_s)
        if self._recorder.is_back():
            yield self._event(RECORDER_BACK, t_s)

    def resume(self) -> None:
        """Let the narrator continue, if it was stopped here."""
        pid, self._stopped_pid = self._stopped_pid, None
        _signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """Let everything continue that was stopped here."""
        self.resume()
        self._resume_source()

    def _event(self, name: str, t_s: float) -> Event:
        return Event(name, round(t_s, 3), self._clock.now_ns())

    def _stop(self) -> None:
        # The process id is kept: the worker that resumes must be the one that was stopped, and the
        # daemon may have replaced it by then.
        self._stopped_pid = worker_of(self._trial.daemon.pid)
        _signal(self._stopped_pid, signal.SIGSTOP)

    def _kill(self) -> None:
        _signal(worker_of(self._trial.daemon.pid), signal.SIGKILL)

    def _stop_source(self) -> None:
        _signal(self._trial.sources[-1].pid, signal.SIGSTOP)

    def _resume_source(self) -> None:
        source = self._trial.sources[-1]
        _signal(source.pid if source.is_running else None, signal.SIGCONT)

    def _join_and_never_read(self) -> None:
        # With the shortest queue here, messages pile up in the daemon's queue for this subscriber
        # at once; the daemon must drop them there and serve the others.
        publish = self._trial.publish
        self._stack.enter_context(Listener(publish, (b"",), setting="a soak", queue=1))


@contextmanager
def disturbing(
    schedule: DisturbanceSchedule | None, trial: Trial, recorder: SoakRecorder, clock: Clock
) -> Iterator[Disturbance | None]:
    """Disturb, if there is a schedule; at the end no process is left stopped."""
    if schedule is None:
        yield None
        return
    with ExitStack() as stack:
        disturbance = Disturbance(schedule, trial, recorder, clock, stack)
        stack.callback(disturbance.close)
        yield disturbance


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is None:
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended by itself
        return
