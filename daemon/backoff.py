"""Pauses between attempts at something that fails, each twice as long as the last."""

from __future__ import annotations

import math

from contracts.clock import Clock, ns_to_second, second_to_ns

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Pauses double from the first to the longest: a process that cannot start must not use a core for
trying, a server that loads a model for minutes is not asked all the time, and one that is back is
noticed within half a minute."""


class Backoff:
    """When something that failed may be tried again: a process, or a server.

    What ran for longer than `healthy_after_s`, from `begin` to `end`, has its pauses start from the
    first again. Infinite: only `reset` does that.
    """

    def __init__(self, clock: Clock, *, healthy_after_s: float = math.inf) -> None:
        self._clock = clock
        self._healthy_after_s = healthy_after_s
        self._pause_s = FIRST_PAUSE_S
        self._began_ns = 0
        self._due_ns = 0

    @property
    def remaining_s(self) -> float:
        """Seconds until the pause is over; 0 or less once it is."""
        return ns_to_second(self._due_ns - self._clock.now_ns())

    @property
    def is_over(self) -> bool:
        """Whether the pause is over."""
        return self._clock.now_ns() >= self._due_ns

    def begin(self) -> None:
        """Note that it was started."""
        self._began_ns = self._clock.now_ns()

    def end(self, pause_s: float | None = None) -> float:
        """Note that it failed; begin a pause, at most `LONGEST_PAUSE_S`, and return its seconds.

        It may ask for a pause itself (``Retry-After``), instead of the next one.
        """
        now_ns = self._clock.now_ns()
        if ns_to_second(now_ns - self._began_ns) > self._healthy_after_s:
            self.reset()
        pause_s = self._pause_s if pause_s is None else min(pause_s, LONGEST_PAUSE_S)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._due_ns = now_ns + second_to_ns(pause_s)
        return pause_s

    def reset(self) -> None:
        """Note that it works: the next pause is the first again."""
        self._pause_s = FIRST_PAUSE_S
