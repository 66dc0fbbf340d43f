"""The hand-over from the fast loop to the narrator: bounded, every drop counted. No socket here.

Theory of operation
-------------------
The narrator is the slowest stage by orders of magnitude, so windows must be dropped or the source
slowed before it. What is handed over is one window with all its populations, and it is taken or
replaced as a whole: every population is narrated over the same windows, which is what a comparison
of areas needs. Two policies:

* ``newest``, for live narration: one place; a newer window replaces the one that waits. An old
  window narrated late helps nobody, and the length of a queue would add permanently to the latency.
  A window that waits is not encoded yet: most of them are replaced where the narrator is busy.
* ``all``, for replays: nothing is replaced. When every place is taken the hand-over is full, the
  fast loop reads no further message, the system's queues fill, and a lossless source waits.

Invariants (``tests/daemon/test_handover.py``):

1. offered = taken + replaced + waiting, in order: ``test_offered_is_taken_replaced_or_waiting``
2. Under ``all`` nothing is replaced: ``test_all_keeps_everything``
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from contracts.embedding import PatchEmbedding

NarrationBatch = Sequence[PatchEmbedding]
"""The embeddings of one window, one for each population."""

EncodeWindow = Callable[[], NarrationBatch]
"""Encodes a window that waits, on the fast loop; the batch may be empty, if it turns out unseen."""

Policy = Literal["newest", "all"]


class Handover:
    """Places for windows that wait for the narrator.

    Under ``all`` it is full from `capacity` windows on; ``newest`` has one place.
    """

    def __init__(self, policy: Policy = "newest", capacity: int = 1) -> None:
        self.n_replaced = 0
        self._keeps_all = policy == "all"
        self._capacity = capacity
        # Not a deque of that length: its oldest would be lost without being counted, and `all` must
        # take the windows that one message completes even when it is full.
        self._waiting: deque[EncodeWindow] = deque()

    def offer(self, encode: EncodeWindow) -> None:
        """Leave a window for the narrator; called on the fast loop, never waits."""
        if self._waiting and not self._keeps_all:
            # There is at most one: each offer replaces the one before it.
            self._waiting.clear()
            self.n_replaced += 1
        self._waiting.append(encode)

    def take(self) -> EncodeWindow | None:
        """Return the window that has waited longest, and make room."""
        return self._waiting.popleft() if self._waiting else None

    def __len__(self) -> int:
        """Windows that wait."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether whoever fills it should stop; never under ``newest``."""
        # A limit for whoever reads messages, not for `offer`: see above.
        return self._keeps_all and len(self._waiting) >= self._capacity
