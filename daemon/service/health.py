"""Whether the daemon is alive, and whether it can narrate; if not, why not.

The fast loop ticks and sets conditions; the HTTP thread reads. Each condition is replaced as a
whole, so that no lock is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from contracts.clock import NS_PER_S, Clock, HostClock

TICK_TIMEOUT_S = 5.0
"""A fast loop without a step for so long hangs: its slowest one takes milliseconds."""


class ReadyCondition(NamedTuple):
    """One thing that must be true before the daemon can narrate."""

    is_ok: bool
    reason: str
    """Why it is not met, and what to do; empty when it is."""


class Health:
    """Conditions by name, each unmet until it is set, and the heartbeat of the fast loop."""

    def __init__(self, conditions: Iterable[str], clock: Clock | None = None) -> None:
        self._clock = clock or HostClock()
        self._conditions = {name: ReadyCondition(False, "not started yet") for name in conditions}
        self._last_tick_ns = self._clock.now_ns()
        self._problems: dict[str, Callable[[], str]] = {}
        # What a daemon that is ready does without; replaced as a whole.
        self.notes: tuple[str, ...] = ()

    def tick(self) -> None:
        """Note that the fast loop has made a step."""
        self._last_tick_ns = self._clock.now_ns()

    def set(self, name: str, is_ok: bool, reason: str = "") -> None:
        """Set a condition, with the reason if it is not met."""
        self._conditions[name] = ReadyCondition(is_ok, "" if is_ok else reason)

    def ask(self, name: str, problem: Callable[[], str]) -> None:
        """Add a condition that is looked up when somebody asks, on whichever thread.

        `problem` returns why it is not met; empty if it is.
        """
        self._problems[name] = problem

    @property
    def is_alive(self) -> bool:
        """Whether the fast loop has ticked within five seconds."""
        return self._clock.now_ns() - self._last_tick_ns < TICK_TIMEOUT_S * NS_PER_S

    @property
    def is_ready(self) -> bool:
        """Whether every condition is met and the fast loop ticks."""
        return not self.reasons()

    def conditions(self) -> dict[str, ReadyCondition]:
        """Return every condition, that of the fast loop first."""
        silent_s = (self._clock.now_ns() - self._last_tick_ns) / NS_PER_S
        reason = "" if self.is_alive else f"the fast loop has not ticked for {silent_s:.1f} s"
        asked = {name: problem() for name, problem in self._problems.items()}
        return {
            "fast_loop": ReadyCondition(not reason, reason),
            **self._conditions,
            **{name: ReadyCondition(not problem, problem) for name, problem in asked.items()},
        }

    def reasons(self, conditions: Mapping[str, ReadyCondition] | None = None) -> list[str]:
        """Return why the daemon is not ready, one sentence for each unmet condition."""
        return [
            f"{name}: {condition.reason}"
            for name, condition in (conditions or self.conditions()).items()
            if not condition.is_ok
        ]
