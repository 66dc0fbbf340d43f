"""Hellos: their unit tables are read off the fast loop, and not too many of them.

Theory of operation
-------------------
A hello may hold a table of thousands of units, which takes tens of milliseconds to read. A small
one is read at once; a larger one by a thread, while the socket that it came from is left unread, so
that nothing overtakes it and nothing is lost.

A peer may send hellos of new runs as often as it likes, and each would have to be read. So each
connection has a budget of bytes for hellos, which is refilled with time. A hello beyond it is
dropped; a correct source repeats its own a second later.

A run with units that the encoder does not know stays refused: its later hellos are not read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from contracts.clock import Clock, ns_to_second
from contracts.errors import WireError
from contracts.spikes import Hello
from contracts.wire import unpack
from contracts.wire_header import Part
from peer_guard.bucket import TokenBucket

SMALL_HELLO_BYTES = 8 << 10
"""About 150 units, read in a millisecond: sooner than a thread could be asked."""

MAX_HELLO_UNITS = 4096
"""Units in one hello, or four times the encoder's if that is more: the largest probes have
hundreds. Bounds the memory of 64 streams to about 100 MB."""

MAX_HELLO_BYTES = 2 << 20
"""Bytes in one hello: 4096 units take about 200 kB."""

BYTES_PER_S = 128 << 10
"""Of hellos from one connection, after one of the largest size, or 64 probes, at once."""

HELLO_COST_BYTES = 4 << 10
"""Charged for every hello in addition to its bytes."""

MAX_REFUSED = 64
"""Refused runs that are remembered for each connection."""


@dataclass(slots=True)
class HelloBudget:
    """What may still be read of one connection, and what is being read."""

    bucket: TokenBucket
    pending: Future[Hello] | None = None
    refused_runs: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_REFUSED))


class HelloReader:
    """Reads the hellos of all connections, one large one at a time.

    `n_units` are those of the encoder.
    """

    def __init__(self, clock: Clock, n_units: int) -> None:
        self.max_units = max(MAX_HELLO_UNITS, 4 * n_units)
        self._max_bytes = max(MAX_HELLO_BYTES, n_units * 4 * MAX_HELLO_BYTES // MAX_HELLO_UNITS)
        self._clock = clock
        self._executor: ThreadPoolExecutor | None = None

    def new_budget(self) -> HelloBudget:
        """Return the budget of a new connection."""
        return HelloBudget(TokenBucket(BYTES_PER_S, self._max_bytes + HELLO_COST_BYTES))

    def read(self, parts: Sequence[Part], budget: HelloBudget) -> Hello | None:
        """Read a hello; None if a thread reads it, see `HelloBudget.pending`.

        Raises
        ------
        WireError
            If it does not follow the format, is too large, or comes too often (``rate``).
        """
        size_bytes = len(parts[1])
        if size_bytes > self._max_bytes:
            raise WireError(
                "size", f"a hello may have {self._max_bytes:,} bytes here, got {size_bytes:,}"
            )
        self._spend(budget, size_bytes)
        if size_bytes <= SMALL_HELLO_BYTES:
            return self._unpack(parts)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="hello")
        budget.pending = self._executor.submit(self._unpack, parts)
        return None

    def close(self) -> None:
        """Wait for the hello that is being read, and end the thread."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def _spend(self, budget: HelloBudget, size_bytes: int) -> None:
        cost_bytes = size_bytes + HELLO_COST_BYTES
        if cost_bytes > budget.bucket.available(ns_to_second(self._clock.now_ns())):
            raise WireError("rate", "hellos of new runs come faster than they can be read")
        budget.bucket.spend(cost_bytes)

    def _unpack(self, parts: Sequence[Part]) -> Hello:
        message = unpack(parts, max_units=self.max_units)
        if not isinstance(message, Hello):  # its topic says so
            raise WireError("topic", "a hello must have the topic of one")
        return message
