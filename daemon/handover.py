"""The hand-over between the fast loop and the narrator: bounded, newest wins. No socket here.

At most one narration batch waits, all populations of one window. A newer one takes its place,
and the one that gave way is counted: the narrator is the slowest room, and an old window
narrated late helps nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.embedding import PatchEmbedding

NarrationBatch = Sequence[PatchEmbedding]
"""The embeddings of one window, one for each population."""


class Handover:
    """One place for one narration batch.

    Attributes
    ----------
    n_replaced : int
        Windows that gave way to newer ones.
    """

    def __init__(self) -> None:
        self.n_replaced = 0
        self._waiting: NarrationBatch | None = None

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Leave a batch for the narrator; called on the fast loop, never waits."""
        if self._waiting is not None:
            self.n_replaced += 1
        self._waiting = narration_batch

    def take(self) -> NarrationBatch | None:
        """Return what waits, and make room."""
        narration_batch, self._waiting = self._waiting, None
        return narration_batch

    @property
    def is_waiting(self) -> bool:
        """Whether a batch waits."""
        return self._waiting is not None
