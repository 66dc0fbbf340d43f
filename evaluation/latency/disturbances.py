"""What a soak does to the processes: a narrator that stops, one that dies, a subscriber asleep."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from contracts.clock import Clock
from evaluation.latency.process_usage import worker_of
from evaluation.latency.sample import Event
from subscribers.listener import subscribed

SLOW, STOPPED, GOES_ON, KILLED = (
    "slow subscriber",
    "narrator stopped",
    "narrator goes on",
    "narrator killed",
)

STOPPED_S = 30.0
"""How long the narrator is stopped."""

SLOW_AT, STOPPED_AT, KILLED_AT = 0.15, 0.4, 0.75
"""When, as a share of the whole."""

LONGEST_STOP = 0.2
"""Of the whole, for soaks of a few seconds."""


@dataclass(frozen=True, slots=True)
class DisturbanceSchedule:
    """When what happens, wall seconds since the first window."""

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
    """Does to the processes what the programme says, when it is time.

    Parameters
    ----------
    programme : DisturbanceSchedule
    daemon_pid : int
    publish : str
        Address of the narrations.
    clock : Clock
    stack : ExitStack
        Closes what is opened here.
    """

    def __init__(
        self,
        programme: DisturbanceSchedule,
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
        self._todo: list[tuple[float, str, Callable[[], object]]] = [
            (programme.slow_s, SLOW, self._join_and_sleep),
            (programme.stopped_s, STOPPED, self._stop),
            (programme.goes_on_s, GOES_ON, self.go_on),
            (programme.killed_s, KILLED, self._kill),
        ]

    def step(self, t_s: float) -> Iterator[Event]:
        """Do what is due.

        Parameters
        ----------
        t_s : float
            Wall seconds since the first window.

        Yields
        ------
        Event
            As it is done.
        """
        while self._todo and t_s >= self._todo[0][0]:
            _, name, act = self._todo.pop(0)
            act()
            yield Event(name, round(t_s, 3), self._clock.now_ns())

    def go_on(self) -> None:
        """Let the narrator go on, if it was stopped here."""
        pid, self._stopped_pid = self._stopped_pid, None
        _signal(pid, signal.SIGCONT)

    def _stop(self) -> None:
        self._stopped_pid = worker_of(self._daemon_pid)
        _signal(self._stopped_pid, signal.SIGSTOP)

    def _kill(self) -> None:
        _signal(worker_of(self._daemon_pid), signal.SIGKILL)

    def _join_and_sleep(self) -> None:
        """Subscribe to everything, with the shortest queue, and never read."""
        self._stack.enter_context(subscribed(self._publish, (b"",), setting="a soak", queue=1))


@contextmanager
def disturbing(
    programme: DisturbanceSchedule | None, daemon_pid: int, publish: str, clock: Clock
) -> Iterator[Disturbance | None]:
    """Disturb; at the end nobody is left stopped.

    Parameters
    ----------
    programme : DisturbanceSchedule or None
        None for nothing.
    daemon_pid : int
    publish : str
        Address of the narrations.
    clock : Clock

    Yields
    ------
    Disturbance or None
    """
    if programme is None:
        yield None
        return
    with ExitStack() as stack:
        disturbance = Disturbance(programme, daemon_pid, publish, clock, stack)
        stack.callback(disturbance.go_on)
        yield disturbance


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is None:
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended by itself
        return
