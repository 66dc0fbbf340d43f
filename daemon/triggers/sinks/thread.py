"""A sink's own thread: a bounded queue between the fast loop and whatever may be slow.

The fast loop leaves a trigger and goes on. What finds the queue full, or has waited for too long,
is dropped and counted; a delivery that fails is counted and not tried again, unless the sink was
told to.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

from contracts.clock import NS_PER_S, Clock, ns_to_second, second_to_ns
from contracts.trigger import Trigger
from daemon.rate_limited_log import RateLimitedLog

TEND_S = 0.1
"""How often an outlet is looked after while nothing is to be delivered."""

KILL_S = 0.2
"""Of the time to the deadline, what is left to end by force what does not end by itself."""

FAILED_IN_A_ROW = 5
"""So many deliveries that failed, one after the other, are a problem of the sink."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A trigger, and the JSON that was published."""

    trigger: Trigger
    payload: bytes


class DeliveryError(Exception):
    """A trigger did not arrive."""


class Outlet(Protocol):
    """One way out of the daemon. All methods are called on the sink's thread."""

    def open(self) -> None:
        """Make ready, so that the first delivery does not wait for it."""
        ...

    def deliver(self, delivery: Delivery) -> None:
        """Hand a trigger over; may wait for as long as the sink's settings say.

        Raises
        ------
        DeliveryError
            With the reason. Anything else that is raised is a failure as well.
        """
        ...

    def tend(self) -> None:
        """Look after what must be kept alive; called several times a second."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Let go of everything."""
        ...


class SinkThread:
    """One sink.

    Parameters
    ----------
    name : str
        Of the sink, as the rules know it.
    outlet : Outlet
    queue : int
        Triggers that may wait.
    max_age_s : float
        A trigger that was published longer ago is dropped.
    clock : Clock

    Attributes
    ----------
    name : str
    n_sent, n_failed : int
        Deliveries that arrived, and that did not. Written by the sink's thread.
    n_dropped : int
        Triggers that found the queue full or the thread ended, or were left in the queue at the
        end. Written by the caller's.
    n_stale : int
        Triggers that had waited for too long. Written by the sink's thread.
    n_failed_in_a_row : int
        Deliveries that failed since the last one that arrived. Written by the sink's thread.
    """

    def __init__(
        self, name: str, outlet: Outlet, *, queue: int, max_age_s: float, clock: Clock
    ) -> None:
        self.name = name
        self.n_sent = self.n_failed = self.n_dropped = self.n_stale = 0
        self.n_failed_in_a_row = 0
        self._outlet = outlet
        self._queue_size = queue
        self._max_age_ns = round(max_age_s * NS_PER_S)
        self._clock = clock
        self._log = RateLimitedLog(logger, clock)
        self._waiting: SimpleQueue[Delivery | None] = SimpleQueue()
        self._stop_ns = 0
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    @property
    def n_lost(self) -> int:
        """Triggers that were never tried: the queue was full, or they had waited for too long."""
        return self.n_dropped + self.n_stale

    @property
    def problem(self) -> str:
        """Why triggers do not arrive now; empty if the last ones did, or none was tried."""
        if self.n_failed_in_a_row < FAILED_IN_A_ROW:
            return ""
        return (
            f"the last {self.n_failed_in_a_row} deliveries to the sink {self.name} failed; the "
            "log says why"
        )

    def offer(self, delivery: Delivery) -> None:
        """Leave a trigger; called on the fast loop, never waits."""
        if self._waiting.qsize() >= self._queue_size or not self._thread.is_alive():
            self.n_dropped += 1
        else:
            self._waiting.put(delivery)

    def finish(self, *, deadline_s: float) -> None:
        """Begin to end: what waits is delivered, until the deadline; never waits."""
        self._stop_ns = self._clock.now_ns() + second_to_ns(deadline_s)
        self._waiting.put(None)

    def close(self, *, deadline_s: float) -> None:
        """Deliver what waits, until the deadline, and end."""
        self.finish(deadline_s=deadline_s)
        self._thread.join(deadline_s)
        n_left = self._take_back()
        self.n_dropped += n_left
        if self._thread.is_alive():  # in the middle of a delivery; the process does not wait for it
            self._waiting.put(None)
            logger.warning("sink left behind", extra={"sink": self.name, "undelivered": n_left})

    def _take_back(self) -> int:
        """Empty the queue; return how many triggers waited in it."""
        n_left = 0
        while True:
            try:
                n_left += self._waiting.get_nowait() is not None
            except Empty:
                return n_left

    def _run(self) -> None:
        try:
            self._outlet.open()
            while (delivery := self._next()) is not None:
                self._deliver(delivery)
            remaining_s = ns_to_second(self._stop_ns - self._clock.now_ns())
            self._outlet.close(deadline_s=max(0.0, remaining_s - KILL_S))
        except Exception:  # the top of a thread
            logger.exception("sink ended", extra={"sink": self.name})
        self._log.flush()

    def _next(self) -> Delivery | None:
        while True:
            self._outlet.tend()
            try:
                return self._waiting.get(timeout=TEND_S)
            except Empty:
                continue

    def _deliver(self, delivery: Delivery) -> None:
        age_ns = self._clock.now_ns() - delivery.trigger.stamps.published
        if age_ns > self._max_age_ns:
            self.n_stale += 1
            self._warn("trigger too old for its sink", delivery, waited_s=ns_to_second(age_ns))
            return
        try:
            self._outlet.deliver(delivery)
        except Exception as error:  # the top of a loop: the next one may arrive
            self.n_failed_in_a_row += 1
            self.n_failed += 1
            reason = str(error) if isinstance(error, DeliveryError) else repr(error)
            self._warn("trigger not delivered", delivery, reason=reason)
        else:
            self.n_failed_in_a_row = 0
            self.n_sent += 1

    def _warn(self, event: str, delivery: Delivery, **fields: object) -> None:
        extra = {"sink": self.name, "trigger": delivery.trigger.id, **fields}
        self._log.warning(event, event, extra=extra)
