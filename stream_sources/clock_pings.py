"""The pings of subscribers, which ask what a source's clock says (`peer_guard.clock_ping`)."""

from __future__ import annotations

from threading import Lock

from contracts.clock import Clock
from contracts.spikes import ClockEcho
from peer_guard.clock_ping import ping_number


class ClockPings:
    """Holds the newest ping of each subscriber until it is answered, in turn.

    `add` is called by the guard's thread, `take` by whoever sends. There are no more of them than
    subscribers, and one is answered with each batch, however many come.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._waiting: dict[int, ClockEcho] = {}

    def add(self, subscriber: int, topic: bytes) -> None:
        """Note that a ping has come now; what is none is passed over."""
        number = ping_number(topic)
        if number is None:
            return
        echo = ClockEcho(number, self._clock.now_ns())
        with self._lock:
            self._waiting[subscriber] = echo

    def take(self) -> ClockEcho | None:
        """Return what answers the one that has waited longest; None if there is none."""
        if not self._waiting:
            return None
        with self._lock:
            return self._waiting.pop(next(iter(self._waiting)))
