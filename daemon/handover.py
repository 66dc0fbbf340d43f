"""The hand-over from the fast loop to the narrator: bounded, every drop counted. No socket here.

Theory of operation
-------------------
What is handed over is one window with all its populations. It is taken or it gives way as a
whole, so every population hears of the same windows and none is left behind. Two policies:

* ``newest``, for live narration: one place; a newer window takes it from the one that waits. The
  narrator is the slowest room, and an old window narrated late helps nobody.
* ``all``, for replays: nothing gives way. When its places are taken the hand-over is full, the
  fast loop stops reading, and a source that loses nothing is slowed.

Invariants (``tests/daemon/test_handover.py``):

1. offered = taken + replaced + waiting, in order    ``test_offered_is_taken_replaced_or_waiting``
2. under ``all`` nothing is replaced                 ``test_all_keeps_everything``
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

from contracts.embedding import PatchEmbedding

NarrationBatch = Sequence[PatchEmbedding]
"""The embeddings of one window, one for each population."""

Policy = Literal["newest", "all"]


class Handover:
    """Places for windows that wait for the narrator.

    Parameters
    ----------
    policy : {"newest", "all"}
    capacity : int
        Windows after which it says that it is full; ``newest`` has one place whatever this says.

    Attributes
    ----------
    n_replaced : int
        Windows that gave way to newer ones.
    """

    def __init__(self, policy: Policy = "newest", capacity: int = 1) -> None:
        self.n_replaced = 0
        self._keeps_all = policy == "all"
        self._capacity = capacity
        self._waiting: deque[NarrationBatch] = deque()

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Leave a window for the narrator; called on the fast loop, never waits."""
        if self._waiting and not self._keeps_all:
            self._waiting.clear()
            self.n_replaced += 1
        self._waiting.append(narration_batch)

    def take(self) -> NarrationBatch | None:
        """Return the window that has waited longest, and make room."""
        return self._waiting.popleft() if self._waiting else None

    def __len__(self) -> int:
        """Windows that wait."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether whoever fills it should stop; never under ``newest``.

        Windows already on their way are still taken: those that one message completes.
        """
        return self._keeps_all and len(self._waiting) >= self._capacity
