"""Sinks for tests, and what they deliver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.clock import HostClock
from contracts.trigger import pack_trigger
from daemon.triggers.sinks.thread import Delivery, Outlet, SinkThread
from tests.support.triggers import trigger

CLOCK = HostClock()


def delivery_of(seq: int = 0) -> Delivery:
    """Return a trigger that has just been published."""
    said = trigger(seq=seq, published_ns=CLOCK.now_ns())
    return Delivery(said, pack_trigger(said)[1])


@contextmanager
def running(outlet: Outlet, *, queue: int = 10, max_age_s: float = 5.0) -> Iterator[SinkThread]:
    """Run a sink, and close it."""
    sink = SinkThread("sink", outlet, queue=queue, max_age_s=max_age_s, clock=CLOCK)
    try:
        yield sink
    finally:
        sink.close(deadline_s=5)
