"""Hellos: their unit tables are read off the fast loop, and not too many of them.

Theory of operation
-------------------
A hello may hold a table of thousands of units, which takes tens of milliseconds to read. A small
one is read at once; a larger one by a thread, while the socket that it came from is left unread, so
that nothing overtakes it and nothing is lost.

Whoever sends may say hello under a new run as often as it likes, and each one would have to be
read. Each connection has a budget of bytes for hellos, which grows again with time; a hello beyond
it is dropped, and a sound source repeats its own a second later.

A run whose units the encoder does not know stays refused: its later hellos are not read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from contracts.clock import NS_PER_S, Clock
from contracts.errors import WireError
from contracts.spikes import Hello
from contracts.wire import unpack
from contracts.wire_header import Part

SMALL_HELLO_BYTES = 8 << 10
"""About 150 units, read in a millisecond: sooner than a thread could be asked."""

MAX_HELLO_UNITS = 4096
"""Units in one hello, or four times the encoder's if that is more: the largest probes have
hundreds. Bounds the memory of 64 streams to about 100 MB."""

MAX_HELLO_BYTES = 2 << 20
"""Bytes in one hello: 4096 units take about 200 kB."""

BYTES_PER_S = 128 << 10
"""Of hellos from one connection, beyond one of the largest size or 64 probes at once."""

HELLO_COST_BYTES = 4 << 10
"""What every hello costs beside its bytes."""

MAX_REFUSED = 64
"""Refused runs that are remembered for each connection."""


@dataclass(slots=True)
class HelloBudget:
    """What one connection may still say, and what is being read for it."""

    spent_bytes: int = 0
    since_host_ns: int = 0
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
        now_ns = self._clock.now_ns()
        earned_bytes = (now_ns - budget.since_host_ns) * BYTES_PER_S // NS_PER_S
        spent_bytes = max(0, budget.spent_bytes - earned_bytes)
        budget.spent_bytes, budget.since_host_ns = spent_bytes, now_ns
        cost_bytes = size_bytes + HELLO_COST_BYTES
        if spent_bytes + cost_bytes > self._max_bytes + HELLO_COST_BYTES:
            raise WireError("rate", "hellos of new runs come faster than they can be read")
        budget.spent_bytes += cost_bytes

    def _unpack(self, parts: Sequence[Part]) -> Hello:
        message = unpack(parts, max_units=self.max_units)
        if not isinstance(message, Hello):  # its topic says so
            raise WireError("topic", "a hello must have the topic of one")
        return message
