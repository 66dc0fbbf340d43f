"""Between the orders of a daemon and its narrator: values in, values out. No socket here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from daemon.narrators.protocol import EndedRow, Narrator, PartialRow
from daemon.worker.messages import (
    Cancel,
    Failed,
    Narrate,
    NarratorOutput,
    Order,
    ReadyForNext,
    Reply,
)

logger = logging.getLogger(__name__)


class WorkerLoop:
    """Orders in, replies out; remembers which rows have not ended.

    Parameters
    ----------
    narrator : Narrator
    """

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._unsaid: dict[int, set[int]] = {}
        self._owes_room_for = 0

    @property
    def is_busy(self) -> bool:
        """Whether something is being narrated."""
        return bool(self._unsaid)

    def work(self, orders: Sequence[Order]) -> Iterator[Reply]:
        """Take orders, go on by one step, and yield what there is to say.

        Parameters
        ----------
        orders : sequence of Narrate or Cancel
            Those that have come since; a window that one of them cancels is not begun.

        Yields
        ------
        NarratorOutput, Failed or ReadyForNext
        """
        cancelled = {order.batch_id for order in orders if isinstance(order, Cancel)}
        for batch_id in cancelled:
            self._narrator.cancel(batch_id)
            self._unsaid.pop(batch_id, None)
        try:
            for order in orders:
                if isinstance(order, Narrate):
                    self._owes_room_for = len(order.embeddings)
                    if order.batch_id not in cancelled:
                        self._begin(order)
            if self.is_busy:
                yield from self._step()
        except Exception as error:  # the top of a narrator's loop
            logger.exception("narration failed")
            yield from self._give_up(f"{type(error).__name__}: {error}")
        if self._owes_room_for and self._narrator.has_room(self._owes_room_for):
            self._owes_room_for = 0
            yield ReadyForNext()

    def _begin(self, order: Narrate) -> None:
        self._unsaid[order.batch_id] = set(range(len(order.embeddings)))
        self._narrator.begin(order.batch_id, order.embeddings, with_partials=order.with_partials)

    def _step(self) -> Iterator[Reply]:
        events = self._narrator.step()
        ended = tuple(event for event in events if isinstance(event, EndedRow))
        if events:
            partials = tuple(event for event in events if isinstance(event, PartialRow))
            yield NarratorOutput(partials, ended)
        for event in ended:
            rows = self._unsaid[event.batch_id]
            rows.remove(event.row)
            if not rows:
                del self._unsaid[event.batch_id]
        if self._unsaid and not self._narrator.n_rows:
            n_unsaid = sum(map(len, self._unsaid.values()))
            yield from self._give_up(f"the narrator forgot {n_unsaid} populations")

    def _give_up(self, reason: str) -> Iterator[Failed]:
        unsaid, self._unsaid = self._unsaid, {}
        for batch_id in unsaid:
            self._narrator.cancel(batch_id)
            yield Failed(batch_id, reason)
