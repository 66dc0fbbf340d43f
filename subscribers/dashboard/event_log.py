"""The last hour of events, numbered, in bounded memory. No socket.

Every page reads the same log at a place of its own, so that a page takes no memory here, and one
that does not read falls behind alone: what it has not read in time is gone for it, and it is told.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

HISTORY_S = 3_600.0
MAX_BYTES = 64 << 20
"""An hour of eight populations narrated twice a second takes some 30 MB."""

LIVE_ONLY_S = 30.0
"""Events that are drawn when they come, and kept elsewhere: rates. A page that was away for less
gets them again."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event: its number, its place on the axis, and its JSON."""

    number: int
    kind: str
    x: float
    data: bytes


class EventLog:
    """Appends, drops what is too old or too much, and reads from any place.

    `live_only` are the kinds that are kept for `LIVE_ONLY_S`.
    """

    def __init__(
        self,
        *,
        live_only: frozenset[str] = frozenset(),
        history_s: float = HISTORY_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._live_only = live_only
        self._history_s = history_s
        self._max_bytes = max_bytes
        self._kept: deque[LoggedEvent] = deque()
        self._live: deque[LoggedEvent] = deque()
        self._last_dropped = 0
        self.next_number = 1
        self.n_bytes = 0

    def append(self, kind: str, x: float, data: bytes) -> None:
        """Add an event, and drop the oldest beyond the limits."""
        event = LoggedEvent(self.next_number, kind, x, data)
        self.next_number += 1
        events = self._live if kind in self._live_only else self._kept
        events.append(event)
        self.n_bytes += len(data)
        self._drop_old(self._live, x - LIVE_ONLY_S)
        self._drop_old(self._kept, x - self._history_s)
        while self.n_bytes > self._max_bytes and (self._kept or self._live):
            self._drop_first(self._kept or self._live)

    def since(self, number: int, *, limit: int) -> list[LoggedEvent]:
        """Return the events from a number on, oldest first, at most so many."""
        kept = _from(self._kept, number, limit)
        live = _from(self._live, number, limit)
        return sorted((*kept, *live), key=lambda event: event.number)[:limit]

    def has_all_since(self, number: int) -> bool:
        """Whether no event from a number on has been dropped, but for what is live only."""
        return self._last_dropped < number <= self.next_number

    def between(self, start_x: float, stop_x: float) -> Iterator[LoggedEvent]:
        """Yield what is kept of an interval of the axis, ``[start_x, stop_x)``, oldest first."""
        return (event for event in self._kept if start_x <= event.x < stop_x)

    @property
    def oldest_x(self) -> float | None:
        """Where the history begins; None while there is none."""
        return min((event.x for event in islice(self._kept, 100)), default=None)

    def _drop_old(self, events: deque[LoggedEvent], before_x: float) -> None:
        while events and events[0].x < before_x:
            self._drop_first(events)

    def _drop_first(self, events: deque[LoggedEvent]) -> None:
        event = events.popleft()
        self.n_bytes -= len(event.data)
        if events is self._kept:
            self._last_dropped = event.number


def _from(events: deque[LoggedEvent], number: int, limit: int) -> list[LoggedEvent]:
    # Readers are nearly always at the end: a few steps back from there, not many from the front.
    if not events or events[-1].number < number:
        return []
    newest: list[LoggedEvent] = []
    for event in reversed(events):
        if event.number < number:
            break
        newest.append(event)
        if len(newest) > 4 * limit:  # far behind
            start = bisect_left(events, number, key=lambda one: one.number)
            return list(islice(events, start, start + limit))
    newest.reverse()
    return newest[:limit]
