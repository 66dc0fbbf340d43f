"""The page's axis: session time, made to never run backwards. No socket.

A display of the last hour needs one axis. Session time is not one: a recording that is played
again begins at its beginning. So session time is divided into *spans*, each with an offset, and the
page draws ``x = session time + offset``, which only grows. In the usual case there is one span, and
``x`` is session time. A daemon that is restarted beside a source that runs on stays within it.
"""

from __future__ import annotations

from dataclasses import dataclass

BACK_S = 2.0
"""Session time that is so much earlier is another span: windows may be late by less."""

AHEAD_S = 600.0
"""And so much later than time itself has passed: another recording, or another part of one."""

APART_S = 1.0
"""On the axis, between two spans at least."""


@dataclass(frozen=True, slots=True)
class SessionSpan:
    """From `x` on, session time is ``x - offset_s``. `number` counts spans from 0."""

    number: int
    x: float
    offset_s: float


class SessionAxis:
    """Turns session time into the axis; host times are those of this machine, seconds."""

    def __init__(self) -> None:
        self.spans: list[SessionSpan] = []
        self.head = 0.0
        """The largest ``x`` so far."""
        self._head_host_s = 0.0

    def advance(self, session_s: float, host_s: float) -> bool:
        """Note that the session has come to a time; return whether a new span begins there."""
        if not self.spans:
            self._begin(session_s, 0.0)
            self.head, self._head_host_s = session_s, host_s
            return True
        span = self.spans[-1]
        x = session_s + span.offset_s
        elapsed_s = host_s - self._head_host_s
        is_new = x < self.head - BACK_S or x > self.head + elapsed_s + AHEAD_S
        if is_new:
            x = self.head + max(APART_S, elapsed_s)
            self._begin(x, x - session_s)
        if is_new or x > self.head:
            self.head, self._head_host_s = x, host_s
        return is_new

    def x_of(self, session_s: float) -> float:
        """Return the place of a time of the newest span."""
        return session_s + (self.spans[-1].offset_s if self.spans else 0.0)

    def _begin(self, x: float, offset_s: float) -> None:
        self.spans.append(SessionSpan(len(self.spans), x, offset_s))
        del self.spans[:-100]
