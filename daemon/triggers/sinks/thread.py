"""A sink's own thread: a bounded queue between the fast loop and whatever may be slow.

Theory of operation
-------------------
::

    offer (fast loop) ──► queue ──► thread ──► outlet: HTTP, a program, ...

The fast loop queues a trigger and goes on. The thread takes them one by one and calls the outlet,
which may block for as long as its settings allow; between triggers it calls `Outlet.tend`.

Every trigger that is offered is counted once: ``n_sent``, ``n_failed``, ``n_stale`` (it had waited
for longer than ``max_age_s``: a late trigger misleads) or ``n_dropped`` (the queue was full, the
thread had ended, or it was still queued at the end). Each counter is written by one thread only,
so none needs a lock. A failed delivery is not repeated here; an outlet may have retries of its own.

At the end ``finish`` puts a None behind the last trigger, so that all sinks can finish at once, and
``close`` waits for each. Past the deadline the queue is emptied and the thread left behind: it is a
daemon thread, and the process does not wait for it.
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
"""Seconds between two calls of `Outlet.tend` while nothing is to be delivered."""

KILL_S = 0.2
"""Seconds before the deadline that an outlet keeps, to end by force what does not end by itself."""

FAILED_IN_A_ROW = 5
"""Failures in a row from which on the sink has a problem."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A trigger, and its JSON as it was published."""

    trigger: Trigger
    payload: bytes


class DeliveryError(Exception):
    """A trigger did not arrive."""


class Outlet(Protocol):
    """Delivers triggers out of the daemon. All methods are called on the sink's thread."""

    def open(self) -> None:
        """Prepare, so that the first delivery does not wait for it."""
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
        """Keep alive what must be; called several times a second."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Release everything."""
        ...


class SinkThread:
    """One sink; its own thread writes all counters but ``n_dropped``, which the caller's writes."""

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
        # Unbounded, and bounded by `offer`: a SimpleQueue's put never waits for a lock that the
        # sink's thread holds.
        self._queue: SimpleQueue[Delivery | None] = SimpleQueue()
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
        """Queue a trigger; called on the fast loop, never waits."""
        # The one producer asks for the size: it can only have shrunk when the trigger is put.
        if self._queue.qsize() >= self._queue_size or not self._thread.is_alive():
            self.n_dropped += 1
        else:
            self._queue.put(delivery)

    def finish(self, *, deadline_s: float) -> None:
        """Start to end: what is queued is delivered, until the deadline; never waits."""
        self._stop_ns = self._clock.now_ns() + second_to_ns(deadline_s)
        self._queue.put(None)

    def close(self, *, deadline_s: float) -> None:
        """Deliver what is queued, until the deadline, and end."""
        # Again, since `finish` may not have been called; a second None in the queue does no harm.
        self.finish(deadline_s=deadline_s)
        self._thread.join(deadline_s)
        # What the thread has not begun by now would come too late; emptied, so that it ends after
        # the delivery it is in.
        n_left = self._empty_queue()
        self.n_dropped += n_left
        if self._thread.is_alive():
            self._queue.put(None)  # the one of `finish` was taken out with the triggers
            logger.warning("sink left behind", extra={"sink": self.name, "undelivered": n_left})

    def _empty_queue(self) -> int:
        """Empty the queue; return how many triggers were in it."""
        n_left = 0
        while True:
            try:
                n_left += self._queue.get_nowait() is not None
            except Empty:
                return n_left

    def _run(self) -> None:
        try:
            self._outlet.open()
            while (delivery := self._next()) is not None:
                self._deliver(delivery)
            remaining_s = ns_to_second(self._stop_ns - self._clock.now_ns())
            # Less than is left, so that a program can still be killed before `close` gives up.
            self._outlet.close(deadline_s=max(0.0, remaining_s - KILL_S))
        except Exception:  # the top of a thread; `offer` drops from now on
            logger.exception("sink ended", extra={"sink": self.name})
        self._log.flush()

    def _next(self) -> Delivery | None:
        while True:
            # Also before a delivery: a program that has ended is noticed, and started again.
            self._outlet.tend()
            try:
                return self._queue.get(timeout=TEND_S)
            except Empty:
                continue

    def _deliver(self, delivery: Delivery) -> None:
        # Asked here and not in `offer`: what ages a trigger is the delivery of those before it.
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
