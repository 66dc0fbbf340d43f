"""The Encoder protocol: finished windows in, patch embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from contracts.population import Selection
from contracts.window import Window


class Encoder(Protocol):
    """One compiled encoder, and the selections that it looks through.

    Attributes
    ----------
    manifest : Manifest
        The bundle that it was made from.
    selections : sequence of Selection
        The populations to narrate, in the order of the embeddings.
    device : str
        Where it runs, for people.
    """

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102 - described above
    @property
    def selections(self) -> Sequence[Selection]: ...  # noqa: D102 - described above
    @property
    def device(self) -> str: ...  # noqa: D102 - described above

    def encode(self, windows: Sequence[Window]) -> Sequence[PatchEmbedding]:
        """Encode each window through each selection, as one batch.

        Called on the fast loop.

        Returns
        -------
        embeddings : sequence of PatchEmbedding
            Window by window, selection by selection.
        """
        ...
