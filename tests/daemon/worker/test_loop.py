"""The worker's loop: nothing is forgotten, and nothing begun that was cancelled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.embedding import PatchEmbedding
from contracts.narration import Status, Utterance
from daemon.narrators.protocol import EndedRow, PartialRow
from daemon.worker.loop import WorkerLoop
from daemon.worker.messages import (
    Cancel,
    Failed,
    Narrate,
    NarratorOutput,
    Order,
    ReadyForNext,
    Reply,
)
from tests.support.daemon_components import PROVENANCE
from tests.support.narrator_clients import windows

ENDED = Utterance("a", Status.OK)


class SlowNarrator:
    """Ends the rows of the oldest window one at a time, and fails as the test says."""

    provenance = PROVENANCE

    def __init__(self, *, n_places: int = 2) -> None:
        self.n_places = n_places
        self.rows: list[tuple[int, int]] = []
        self.cancelled: list[int] = []
        self.wants_partials: list[bool] = []
        self.forgets = False
        self.error: Exception | None = None

    @property
    def n_rows(self) -> int:
        """Rows that have not ended."""
        return len(self.rows)

    def has_room(self, n: int) -> bool:
        """Whether there are places for n more."""
        return len(self.rows) + n <= self.n_places

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """Take a window."""
        self.rows += [(batch_id, row) for row in range(len(embeddings))]
        self.wants_partials.append(with_partials)

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """End the first row, with a partial of the next; or fail, or forget."""
        if self.error:
            raise self.error
        ended = [EndedRow(*self.rows.pop(0), ENDED)]
        if self.forgets:
            self.rows.clear()
        return [*(PartialRow(*row, "a", 1) for row in self.rows[:1]), *ended]

    def cancel(self, batch_id: int) -> None:
        """Drop a window."""
        self.cancelled.append(batch_id)
        self.rows = [row for row in self.rows if row[0] != batch_id]

    def close(self) -> None:
        """Do nothing."""


def orders(n: int, *, with_partials: bool = False) -> list[Order]:
    return [
        Narrate(batch_id, tuple(batch), with_partials) for batch_id, batch in enumerate(windows(n))
    ]


def work(loop: WorkerLoop, *given: Order) -> list[Reply]:
    return list(loop.work(given))


def test_rows_are_sent_as_they_end_and_room_is_offered_once():
    """A row a step; room after the last, and not again until the next window."""
    loop = WorkerLoop(SlowNarrator())
    (order,) = orders(1, with_partials=True)
    assert work(loop, order) == [
        NarratorOutput((PartialRow(0, 1, "a", 1),), (EndedRow(0, 0, ENDED),))
    ]
    assert work(loop) == [NarratorOutput((), (EndedRow(0, 1, ENDED),)), ReadyForNext()]
    assert not loop.is_busy
    assert work(loop) == []


def test_no_room_before_another_window_fits():
    """With places for one window alone it is offered after the last row."""
    loop = WorkerLoop(SlowNarrator(n_places=2))
    assert ReadyForNext() not in work(loop, *orders(1))
    assert ReadyForNext() in work(loop)


def test_room_comes_early_where_there_is_some():
    """With places for two the second window may come while the first is being narrated."""
    loop = WorkerLoop(SlowNarrator(n_places=4))
    first, second = orders(2)
    assert ReadyForNext() in work(loop, first)
    assert ReadyForNext() in work(loop, second)  # the first has ended: two rows are left


def test_window_that_is_cancelled_before_it_began_is_not_begun():
    """Both orders waited in the socket: the worker had been stopped."""
    narrator = SlowNarrator()
    loop = WorkerLoop(narrator)
    assert work(loop, *orders(1), Cancel(0)) == [ReadyForNext()]
    assert (narrator.rows, loop.is_busy) == ([], False)


def test_window_that_is_cancelled_halfway_sends_no_more():
    """Its rows leave, and there is room."""
    narrator = SlowNarrator()
    loop = WorkerLoop(narrator)
    work(loop, *orders(1))
    assert work(loop, Cancel(0)) == [ReadyForNext()]
    assert (narrator.rows, narrator.cancelled) == ([], [0])


def test_unknown_window_is_cancelled_without_a_reply():
    """A window that ended while its cancel was on the way."""
    loop = WorkerLoop(SlowNarrator())
    work(loop, *orders(1))
    work(loop)
    assert work(loop, Cancel(0)) == []


def test_error_fails_every_window_under_way_and_the_next_is_begun():
    """What was under way cannot be relied on; the narrator is asked to drop it."""
    narrator = SlowNarrator(n_places=4)
    loop = WorkerLoop(narrator)
    first, second = orders(2)
    work(loop, first)
    narrator.error = MemoryError("no room")
    replies = work(loop, second)
    assert replies == [
        Failed(0, "MemoryError: no room"),
        Failed(1, "MemoryError: no room"),
        ReadyForNext(),
    ]
    assert narrator.cancelled == [0, 1]
    narrator.error = None
    assert isinstance(work(loop, first)[0], NarratorOutput)


def test_rows_that_are_forgotten_fail():
    """A narrator that has nothing left and has not ended every row is not waited for."""
    narrator = SlowNarrator()
    narrator.forgets = True
    replies = work(WorkerLoop(narrator), *orders(1))
    assert replies == [
        NarratorOutput((), (EndedRow(0, 0, ENDED),)),
        Failed(0, "the narrator forgot 1 populations"),
        ReadyForNext(),
    ]


@pytest.mark.parametrize("with_partials", [True, False])
def test_narrator_is_told_whether_partials_are_wanted(with_partials: bool):
    """The order says so for each window."""
    narrator = SlowNarrator()
    work(WorkerLoop(narrator), *orders(1, with_partials=with_partials))
    assert narrator.wants_partials == [with_partials]
