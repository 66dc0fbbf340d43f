"""The Narrator protocol: patch embeddings in, text out, a step at a time.

A window begins, and then steps follow until each of its rows has ended. A step is short, so that
the caller can do other things between two: take a newer window, cancel an old one, end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError
from contracts.narration import Provenance, Utterance

WARM_UP_TOKENS = 2
"""Tokens that a back-end generates about an empty grid before its first window: the first runs the
prompt's code path, the second that of the cache."""


@dataclass(frozen=True, slots=True)
class PartialRow:
    """The text of a row so far."""

    batch_id: int  # of the window, as given to `Narrator.begin`
    row: int  # which of its embeddings
    text: str  # from the beginning, so that nothing is missing where one of them is lost
    n_tokens: int


@dataclass(frozen=True, slots=True)
class EndedRow:
    """The text of a row that has ended."""

    batch_id: int  # of the window, as given to `Narrator.begin`
    row: int  # which of its embeddings
    utterance: Utterance


class Narrator(Protocol):
    """A back-end that describes patches; warm once it is made.

    It is used by one thread, in the worker or, in the sequential mode, that of the fast loop. A row
    is one embedding. After an exception from `begin` or `step` the state of its rows is unknown:
    the caller cancels all windows and may begin new ones.
    """

    @property
    def provenance(self) -> Provenance: ...  # noqa: D102 - goes into every narration
    @property
    def n_rows(self) -> int: ...  # noqa: D102 - active, or waiting for their turn

    def has_room(self, n: int) -> bool:
        """Return whether a window of n populations could begin now without waiting."""
        ...

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """Begin a window; its rows join those that are active.

        `batch_id` is not that of a window which has not ended. The embeddings are of the bundle's
        patch grid, one for each population. With `with_partials`, `step` returns text before it is
        complete.
        """
        ...

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """Advance every row by one token, or return what has arrived within some 20 ms.

        Every row ends once, in any order; one that fails ends with its reason.
        """
        ...

    def cancel(self, batch_id: int) -> None:
        """Drop a window's rows; does nothing if it has ended or is unknown."""
        ...

    def close(self) -> None:
        """Release resources; nothing is narrated after it."""
        ...


def narrate(narrator: Narrator, embeddings: Sequence[PatchEmbedding]) -> list[Utterance]:
    """Narrate each embedding, and return when all have ended; may take seconds.

    The narrator must be idle. The order is that of `embeddings`, of one window or several.

    Raises
    ------
    MisuseError
        If the narrator is idle again and some of them have no text.
    """
    if not embeddings:
        return []
    narrator.begin(0, embeddings)
    utterances: dict[int, Utterance] = {}
    while narrator.n_rows:
        for event in narrator.step():
            if isinstance(event, EndedRow):
                utterances[event.row] = event.utterance
    if len(utterances) < len(embeddings):
        raise MisuseError(f"{len(utterances)} utterances for {len(embeddings)} populations")
    return [utterances[row] for row in range(len(embeddings))]
