"""The worker's loop: orders in, one step of the narrator, replies out. No socket here.

Theory of operation
-------------------
The loop takes every order that has arrived, lets the narrator make one step (about one token), and
returns what came of it. So an order is taken between two tokens: a window can be cancelled, or join
those that are being narrated, without waiting for a sentence to end.

The daemon sends a window only after the worker has sent `ReadyForNext`: one for each `Narrate`, as
soon as another window of the same size could begin without waiting.

A narrator that raises has an unknown state. Everything under way is cancelled and reported as
failed, and the next window begins afresh.

Invariants (``tests/daemon/worker/test_loop.py``):

1. Every row of a window ends once, or the window is reported as failed:
   ``test_error_fails_every_window_under_way_and_the_next_is_begun``,
   ``test_rows_that_are_forgotten_fail``
2. One `ReadyForNext` for each order: ``test_rows_are_sent_as_they_end_and_room_is_offered_once``
3. A window that was cancelled before it began is not begun:
   ``test_window_that_is_cancelled_before_it_began_is_not_begun``
"""

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
    """Orders in, replies out; remembers which rows have not ended."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._pending_rows: dict[int, set[int]] = {}
        # Populations of the newest window, until `ReadyForNext` has answered it; else 0.
        self._owes_room_for = 0

    @property
    def is_busy(self) -> bool:
        """Whether something is being narrated."""
        return bool(self._pending_rows)

    def work(self, orders: Sequence[Order]) -> Iterator[Reply]:
        """Take the orders that have arrived, make one step, and yield the replies."""
        # Cancels first: after a stop, a window and its cancel wait in the socket together, and
        # reading the prompt of a window that nobody waits for would delay the newest one.
        cancelled = {order.batch_id for order in orders if isinstance(order, Cancel)}
        for batch_id in cancelled:
            self._narrator.cancel(batch_id)
            self._pending_rows.pop(batch_id, None)
        try:
            for order in orders:
                if isinstance(order, Narrate):
                    # Also for a cancelled one: it used up the room that was offered.
                    self._owes_room_for = len(order.embeddings)
                    if order.batch_id not in cancelled:
                        self._begin(order)
            if self.is_busy:
                yield from self._step()
        except Exception as error:  # the top of the narrator's loop: whatever a model may raise
            logger.exception("narration failed")
            yield from self._give_up(f"{type(error).__name__}: {error}")
        if self._owes_room_for and self._narrator.has_room(self._owes_room_for):
            self._owes_room_for = 0
            yield ReadyForNext()

    def _begin(self, order: Narrate) -> None:
        self._pending_rows[order.batch_id] = set(range(len(order.embeddings)))
        self._narrator.begin(order.batch_id, order.embeddings, with_partials=order.with_partials)

    def _step(self) -> Iterator[Reply]:
        events = self._narrator.step()
        ended = tuple(event for event in events if isinstance(event, EndedRow))
        if events:
            partials = tuple(event for event in events if isinstance(event, PartialRow))
            yield NarratorOutput(partials, ended)
        for event in ended:
            rows = self._pending_rows[event.batch_id]
            rows.remove(event.row)
            if not rows:
                del self._pending_rows[event.batch_id]
        # A narrator with nothing left will never end the rows that it owes; nobody waits for them.
        if self._pending_rows and not self._narrator.n_rows:
            n_pending = sum(map(len, self._pending_rows.values()))
            yield from self._give_up(f"the narrator forgot {n_pending} populations")

    def _give_up(self, reason: str) -> Iterator[Failed]:
        pending_rows, self._pending_rows = self._pending_rows, {}
        for batch_id in pending_rows:
            self._narrator.cancel(batch_id)
            yield Failed(batch_id, reason)
