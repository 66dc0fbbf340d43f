"""Which units of the encoder no stream sends, and since when others are sent. No socket here.

Rigs lose units from one day to the next, and a sorter's live table may lack some that the encoder
was trained with. With ``ingest.missing_units = "mean"`` the encoder is given those at their mean,
as it was trained to be; a count of zero would mean that they are silent.

A unit whose stream comes later, or comes back with it, is used again from the first window that
lies wholly within that stream, its late spikes excepted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS
from contracts.spikes import SpikeBatch
from daemon.stream_registry import StreamRegistry

ALWAYS, NEVER = -MAX_SESSION_NS, MAX_SESSION_NS


class AbsentUnits:
    """Follows the streams' unit tables. Called on the fast loop."""

    def __init__(self, registry: StreamRegistry) -> None:
        self._registry = registry
        # Session time from which each unit is sent; shape (n_units,), int64, nanoseconds.
        self._since_ns = np.full(registry.n_units, NEVER, dtype=np.int64)
        # Streams that have said hello and sent nothing yet.
        self._beginning: set[str] = set()

    def begin_session(self) -> None:
        """Take every unit that is announced as present from the beginning on."""
        self._beginning.clear()
        self._since_ns[:] = np.where(self._registry.announced(), ALWAYS, NEVER)

    def take_hello(self, stream: str) -> None:
        """Note a stream's new table: units that no stream announces any more are absent at once."""
        self._since_ns[~self._registry.announced()] = NEVER
        self._beginning.add(stream)

    def take_batch(self, batch: SpikeBatch, complete_until_ns: int) -> None:
        """Note that a stream has begun to send; spikes below the ring's watermark are late."""
        if batch.stream in self._beginning:
            self._beginning.remove(batch.stream)
            rows = self._registry.announced(batch.stream)
            since_ns = max(batch.start_ns, complete_until_ns)
            self._since_ns[rows] = np.minimum(self._since_ns[rows], np.int64(since_ns))

    def at(self, start_ns: int) -> NDArray[np.bool_] | None:
        """Return the units that are absent in a window from `start_ns` on; None if none is.

        Returns
        -------
        absent : array, shape (n_units,), bool, or None
        """
        absent = self._since_ns > start_ns
        return absent if absent.any() else None
