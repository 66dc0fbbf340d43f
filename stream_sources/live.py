"""Live: publish what a rig's source gives, as soon as it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol

import zmq

from contracts.allow_list import ServerKeys
from contracts.clock import NS_PER_S, Clock
from contracts.spikes import Mark, SpikeBatch
from stream_sources.publisher import SpikePublisher
from stream_sources.source import SpikeSource, hello_of

logger = logging.getLogger(__name__)

MAX_HOLE_S = 0.9
"""Longer gaps begin a new run: below the second that the daemon bridges within one
(docs/wire-format.md)."""

WAIT_MS = 100
"""How often it is checked for a request to stop while subscribers are waited for."""


class LiveSource(SpikeSource, Protocol):
    """A source that follows a rig: its run changes when the acquisition begins again."""

    def messages(self) -> Iterator[SpikeBatch | Mark | None]:
        """Yield batches and marks as they come; None at least ten times a second meanwhile."""
        ...


@dataclass(slots=True)
class LiveTotals:
    """What was published, over all runs; `run` is the newest."""

    run: str = ""
    n_runs: int = 0
    n_batches: int = 0
    n_spikes: int = 0
    n_marks: int = 0
    duration_s: float = 0.0


def publish_live(
    source: LiveSource,
    bind: str,
    clock: Clock,
    *,
    is_insecure: bool = False,
    keys: ServerKeys | None = None,
    is_lossless: bool = False,
    wait_for_subscribers: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    on_bound: Callable[[str], None] = lambda _: None,
) -> LiveTotals:
    """Publish a source until it ends or is asked to stop, and close it.

    Never waits for a subscriber, so that one that is too slow loses messages; unless the source is
    a recording that can wait, and `is_lossless`.

    Parameters
    ----------
    wait_for_subscribers : int
        Do not begin before so many subscribe.
    """
    totals = LiveTotals()
    started_ns = clock.now_ns()
    with ExitStack() as last, closing(source), zmq.Context() as context:
        publisher = SpikePublisher(
            context,
            bind,
            hello_of(source),
            clock,
            is_lossless=is_lossless,
            is_insecure=is_insecure,
            keys=keys,
        )
        last.callback(publisher.wait)
        try:
            on_bound(publisher.endpoint)
            fields = {"address": publisher.endpoint, "source": source.label}
            logger.info("source listens", extra=fields)
            while publisher.n_subscribers < wait_for_subscribers and not should_stop():
                publisher.serve(wait_ms=WAIT_MS)
            for message in source.messages():
                if should_stop():
                    break
                publisher.serve()
                if message is not None:
                    _send(publisher, message, totals, should_stop)
            publisher.send_end(should_give_up=should_stop)
        finally:
            publisher.close(is_urgent=not is_lossless or should_stop())
    totals.duration_s = (clock.now_ns() - started_ns) / NS_PER_S
    return totals


def _send(
    publisher: SpikePublisher,
    message: SpikeBatch | Mark,
    totals: LiveTotals,
    should_stop: Callable[[], bool],
) -> None:
    if message.run != totals.run:
        publisher.begin_run(message.run)
        totals.run = message.run
        totals.n_runs += 1
    if not publisher.send(message, should_give_up=should_stop):
        return
    if isinstance(message, SpikeBatch):
        totals.n_batches += 1
        totals.n_spikes += message.n_spikes
    else:
        totals.n_marks += 1
