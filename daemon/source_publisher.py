"""Publishes what the sources say beside their spikes: marks, and the tables of their units.

A display needs one socket only: the daemon's. Both are JSON like everything on it.
"""

from __future__ import annotations

import logging

from contracts.clock import Clock
from contracts.source_json import MAX_UNITS_BYTES, pack_mark, pack_units
from contracts.spikes import Hello, Mark
from daemon.publisher import Publisher
from daemon.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)


class SourcePublisher:
    """Publishes marks as they come, and a unit table for each run. Called on the fast loop."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher = publisher
        self._log = RateLimitedLog(logger, clock)

    def publish_mark(self, mark: Mark) -> None:
        """Publish a mark; never waits."""
        self._publisher.publish(pack_mark(mark))

    def publish_units(self, hello: Hello) -> None:
        """Publish the table of a run that has said hello, unless it is too large; never waits."""
        parts = pack_units(hello)
        if len(parts[1]) > MAX_UNITS_BYTES:
            fields = {"stream": hello.stream, "n_bytes": len(parts[1]), "limit": MAX_UNITS_BYTES}
            self._log.warning(f"units {hello.stream}", "unit table not published", extra=fields)
            return
        self._publisher.publish(parts)
