"""Disturbances of a soak: a narrator that stops, one that dies, a subscriber that never reads.

A disturbance is due at a time, happens once, and is never repeated: `Disturbance.step` takes the
first of a sorted list for as long as it is due. Whatever ends the soak, leaving `disturbing` lets a
stopped narrator continue: until then it could not notice that its daemon has ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from contracts.clock import Clock
from evaluation.latency.process_usage import worker_of
from evaluation.latency.sample import Event
from subscribers.listener import Listener

SLOW, STOPPED, GOES_ON, KILLED = (
    "slow subscriber",
    "narrator stopped",
    "narrator goes on",
    "narrator killed",
)

STOPPED_S = 30.0  # How long the narrator is stopped
SLOW_AT, STOPPED_AT, KILLED_AT = 0.15, 0.4, 0.75  # When, as a share of the whole
LONGEST_STOP = 0.2  # Of the whole, for soaks of a few seconds


@dataclass(frozen=True, slots=True)
class DisturbanceSchedule:
    """When each disturbance happens, wall seconds since the first window."""

    slow_s: float
    stopped_s: float
    goes_on_s: float
    killed_s: float

    @classmethod
    def of(cls, seconds: float) -> DisturbanceSchedule:
        """Lay it out over a soak of some length."""
        stopped_s = STOPPED_AT * seconds
        goes_on_s = stopped_s + min(STOPPED_S, LONGEST_STOP * seconds)
        return cls(SLOW_AT * seconds, stopped_s, goes_on_s, KILLED_AT * seconds)


class Disturbance:
    """Disturbs the processes when the schedule says so.

    `publish` is the address of the narrations; `stack` closes the socket of the slow subscriber.
    """

    def __init__(
        self,
        schedule: DisturbanceSchedule,
        daemon_pid: int,
        publish: str,
        clock: Clock,
        stack: ExitStack,
    ) -> None:
        self._daemon_pid = daemon_pid
        self._publish = publish
        self._clock = clock
        self._stack = stack
        self._stopped_pid: int | None = None
        self._pending: list[tuple[float, str, Callable[[], object]]] = [
            (schedule.slow_s, SLOW, self._join_and_never_read),
            (schedule.stopped_s, STOPPED, self._stop),
            (schedule.goes_on_s, GOES_ON, self.resume),
            (schedule.killed_s, KILLED, self._kill),
        ]

    def step(self, t_s: float) -> Iterator[Event]:
        """Do what is due, and yield an event for it.

        `t_s` are wall seconds since the first window.
        """
        while self._pending and t_s >= self._pending[0][0]:
            _, name, act = self._pending.pop(0)
            act()
            yield Event(name, round(t_s, 3), self._clock.now_ns())

    def resume(self) -> None:
        """Let the narrator continue, if it was stopped here."""
        pid, self._stopped_pid = self._stopped_pid, None
        _signal(pid, signal.SIGCONT)

    def _stop(self) -> None:
        # The process id is kept: the worker that resumes must be the one that was stopped, and the
        # daemon may have replaced it by then.
        self._stopped_pid = worker_of(self._daemon_pid)
        _signal(self._stopped_pid, signal.SIGSTOP)

    def _kill(self) -> None:
        _signal(worker_of(self._daemon_pid), signal.SIGKILL)

    def _join_and_never_read(self) -> None:
        # With the shortest queue here, messages pile up in the daemon's queue for this subscriber
        # at once; the daemon must drop them there and serve the others.
        self._stack.enter_context(Listener(self._publish, (b"",), setting="a soak", queue=1))


@contextmanager
def disturbing(
    schedule: DisturbanceSchedule | None, daemon_pid: int, publish: str, clock: Clock
) -> Iterator[Disturbance | None]:
    """Disturb, if there is a schedule; at the end no process is left stopped."""
    if schedule is None:
        yield None
        return
    with ExitStack() as stack:
        disturbance = Disturbance(schedule, daemon_pid, publish, clock, stack)
        stack.callback(disturbance.resume)
        yield disturbance


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is None:
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended by itself
        return
