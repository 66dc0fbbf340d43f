"""The baseline without a language model: the caption of the nearest training frame."""

from __future__ import annotations

import time
from collections.abc import Sequence

from contracts.embedding import PatchEmbedding
from contracts.errors import UserError
from contracts.manifest import CAPTIONS, Manifest
from contracts.narration import Provenance, Status, Utterance
from daemon.narrators.evidence import EvidenceFinder
from daemon.narrators.protocol import EndedRow


class RetrievalNarrator:
    """Narrate with captions of training frames.

    Raises
    ------
    UserError
        If the bundle has no captioned frames.

    References
    ----------
    The retrieval variant of NEURRATOR, arXiv 2606.18667, which hands the nearest training image
    to the language model; here its caption is the narration.
    """

    def __init__(self, manifest: Manifest) -> None:
        finder = EvidenceFinder.from_bundle(manifest)
        if finder is None:
            raise UserError(
                f"the retrieval narrator needs captions of training frames, and the bundle "
                f"{manifest.folder} has no {CAPTIONS}. Export it with captions, or use llava."
            )
        self._finder = finder
        self._waiting: list[tuple[int, Sequence[PatchEmbedding], int]] = []
        self.provenance = Provenance(
            bundle=manifest.sha256, backend="retrieval", model="", prompt=""
        )

    @property
    def n_rows(self) -> int:
        """Rows of windows that have begun."""
        return sum(len(embeddings) for _, embeddings, _ in self._waiting)

    def has_room(self, n: int) -> bool:
        """Return whether no window waits."""
        return not self._waiting

    def begin(
        self,
        batch_id: int,
        embeddings: Sequence[PatchEmbedding],
        *,
        with_partials: bool = False,
    ) -> None:
        """Begin a window."""
        self._waiting.append((batch_id, embeddings, time.monotonic_ns()))

    def step(self) -> Sequence[EndedRow]:
        """Return the captions of the frames nearest to one window's rows."""
        if not self._waiting:
            return []
        batch_id, embeddings, start_host_ns = self._waiting.pop(0)
        nearest = self._finder.nearest(embeddings)
        done_host_ns = time.monotonic_ns()
        return [
            EndedRow(
                batch_id,
                row,
                Utterance(
                    text=evidence.caption,
                    status=Status.OK,
                    evidence=evidence,
                    start_host_ns=start_host_ns,
                    first_token_host_ns=done_host_ns,
                    last_token_host_ns=done_host_ns,
                ),
            )
            for row, evidence in enumerate(nearest)
        ]

    def cancel(self, batch_id: int) -> None:
        """Drop a window."""
        self._waiting = [window for window in self._waiting if window[0] != batch_id]

    def close(self) -> None:
        """Nothing to release."""
