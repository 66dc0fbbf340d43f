"""Replay: bind a publisher, play one source to it, close both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import zmq

from contracts.allow_list import ServerKeys
from contracts.clock import Clock
from contracts.spikes import SpikeBatch
from stream_sources.player import PlayReport, play
from stream_sources.publisher import SpikePublisher
from stream_sources.source import SpikeSource, hello_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to publish a source.

    Attributes
    ----------
    speed : float or None
        Session seconds per second; None for as fast as the slowest subscriber takes it, lossless.
    wait_subscribers : int
        Begin once so many subscribe; 0 does not wait.
    """

    bind: str
    speed: float | None = 1.0
    wait_subscribers: int = 1
    is_insecure: bool = False
    keys: ServerKeys | None = None


def replay(
    source: SpikeSource,
    options: ReplayOptions,
    clock: Clock,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_bound: Callable[[str], None] = lambda _: None,
    on_batch: Callable[[SpikeBatch], None] = lambda _: None,
) -> PlayReport:
    """Publish a whole source and close it; return once subscribers have what was sent.

    Parameters
    ----------
    should_stop : callable
        Called before every batch and while one waits; after it has returned True, subscribers
        have `publisher.FLUSH_MS` to take what is queued.
    on_bound : callable
        Called with the address once it is bound, before anybody is waited for.
    """
    hello = hello_of(source)
    with ExitStack() as last, closing(source), zmq.Context() as context:
        publisher = SpikePublisher(
            context,
            options.bind,
            hello,
            clock,
            is_lossless=options.speed is None,
            is_insecure=options.is_insecure,
            keys=options.keys,
        )
        last.callback(publisher.wait)
        try:
            on_bound(publisher.endpoint)
            logger.info(
                "source listens",
                extra={
                    "address": publisher.endpoint,
                    "source": source.label,
                    "n_units": len(source.population),
                    "n_spikes": source.n_spikes,
                    "waits_for": options.wait_subscribers,
                },
            )
            return play(
                source,
                publisher,
                clock,
                speed=options.speed,
                wait_for_subscribers=options.wait_subscribers,
                should_stop=should_stop,
                on_batch=on_batch,
            )
        finally:
            publisher.close(is_urgent=should_stop())
