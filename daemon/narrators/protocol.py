"""The Narrator protocol: patch embeddings in, words out, a step at a time.

A narrator is told of a window and then asked, again and again, what has come of it. So whoever
asks can look after other things between two words: take a newer window, give up an old one, end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError
from contracts.narration import Provenance, Utterance

WARM_UP_TOKENS = 2
"""Tokens that a back-end says about nothing before its first window: the first reads the prompt,
the second goes on from the cache, so that each way has been gone once."""


@dataclass(frozen=True, slots=True)
class PartialRow:
    """What a row has said so far.

    Attributes
    ----------
    batch_id : int
        Of the window, as given to `Narrator.begin`.
    row : int
        Which of its embeddings.
    text : str
        From the beginning, so that a lost one costs nothing.
    n_tokens : int
        Tokens said so far.
    """

    batch_id: int
    row: int
    text: str
    n_tokens: int


@dataclass(frozen=True, slots=True)
class EndedRow:
    """A row has said all that it will say.

    Attributes
    ----------
    batch_id : int
        Of the window, as given to `Narrator.begin`.
    row : int
        Which of its embeddings.
    utterance : Utterance
    """

    batch_id: int
    row: int
    utterance: Utterance


class Narrator(Protocol):
    """A back-end that says what the patches show; warm once it is made.

    It belongs to one thread, in the worker or, in the sequential mode, the fast loop's. A row is
    one embedding. An exception out of `begin` or `step` means that nothing under way can be
    relied on: the caller cancels it all and may begin anew.

    Attributes
    ----------
    provenance : Provenance
        Goes into every narration.
    n_rows : int
        Rows that are being said or wait for their turn.
    """

    @property
    def provenance(self) -> Provenance: ...  # noqa: D102 - described above
    @property
    def n_rows(self) -> int: ...  # noqa: D102 - described above

    def has_room(self, n: int) -> bool:
        """Return whether a window of n populations could begin now and wait for none before it."""
        ...

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """Take up a window; its rows join those that are being said.

        Parameters
        ----------
        batch_id : int
            The caller's number for it; not one that is under way.
        embeddings : sequence of PatchEmbedding
            Of the bundle's patch grid, one for each population.
        with_partials : bool
            Whether `step` shall return what is said before it is whole.
        """
        ...

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """Go on by one token for every row, or return what has come within some 20 ms.

        Returns
        -------
        events : sequence of PartialRow or EndedRow
            Every row ends once, in any order; one that fails ends with its reason.
        """
        ...

    def cancel(self, batch_id: int) -> None:
        """Drop a window's rows without a word; nothing if it is not under way."""
        ...

    def close(self) -> None:
        """Let go of what it holds; nothing is narrated after it."""
        ...


def narrate(narrator: Narrator, embeddings: Sequence[PatchEmbedding]) -> list[Utterance]:
    """Say one thing about each embedding, and return when all is said; may take seconds.

    Parameters
    ----------
    narrator : Narrator
        With nothing under way.
    embeddings : sequence of PatchEmbedding

    Returns
    -------
    utterances : list of Utterance
        In the order of `embeddings`, with host-clock stamps.

    Raises
    ------
    MisuseError
        If the narrator has nothing left to say and has forgotten some of them.
    """
    if not embeddings:
        return []
    narrator.begin(0, embeddings)
    said: dict[int, Utterance] = {}
    while narrator.n_rows:
        for event in narrator.step():
            if isinstance(event, EndedRow):
                said[event.row] = event.utterance
    if len(said) < len(embeddings):
        raise MisuseError(f"{len(said)} utterances for {len(embeddings)} populations")
    return [said[row] for row in range(len(embeddings))]
