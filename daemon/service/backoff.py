"""Pauses between the starts of something that ends by itself, each twice as long as the last."""

from __future__ import annotations

from contracts.clock import Clock, second_to_ns

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Pauses double from the first to the longest: what cannot run must not spend a core on trying."""


class Backoff:
    """When something that ended is to be started again.

    Parameters
    ----------
    clock : Clock
    healthy_after_s : float
        What lived for longer has its pauses begin at the first again.
    """

    def __init__(self, clock: Clock, *, healthy_after_s: float) -> None:
        self._clock = clock
        self._healthy_after_ns = second_to_ns(healthy_after_s)
        self._pause_s = FIRST_PAUSE_S
        self._began_ns = 0
        self._due_ns = 0

    @property
    def is_over(self) -> bool:
        """Whether the pause is over."""
        return self._clock.now_ns() >= self._due_ns

    def begin(self) -> None:
        """Say that it has been started."""
        self._began_ns = self._clock.now_ns()

    def end(self) -> float:
        """Say that it has ended; return the pause that begins, in seconds."""
        now_ns = self._clock.now_ns()
        if now_ns - self._began_ns > self._healthy_after_ns:
            self._pause_s = FIRST_PAUSE_S
        pause_s = self._pause_s
        self._due_ns = now_ns + second_to_ns(pause_s)
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s
