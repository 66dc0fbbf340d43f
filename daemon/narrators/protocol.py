"""The Narrator protocol: patch embeddings in, words out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.embedding import PatchEmbedding
from contracts.narration import Provenance, Utterance


class Narrator(Protocol):
    """A back-end that says what the patches show; warm once it is made.

    Attributes
    ----------
    provenance : Provenance
        Goes into every narration.
    """

    @property
    def provenance(self) -> Provenance: ...  # noqa: D102 - described above

    def narrate(self, embeddings: Sequence[PatchEmbedding]) -> Sequence[Utterance]:
        """Say one thing about each embedding, as one batch.

        May take seconds; called in the worker, never on the fast loop.

        Returns
        -------
        utterances : sequence of Utterance
            In the order of `embeddings`, with host-clock stamps.
        """
        ...
