"""The baseline without a language model: say the caption of the nearest training frame."""

from __future__ import annotations

import time
from collections.abc import Sequence

from contracts.embedding import PatchEmbedding
from contracts.errors import UserError
from contracts.manifest import CAPTIONS, Manifest
from contracts.narration import Provenance, Status, Utterance
from daemon.narrators.evidence import EvidenceFinder


class RetrievalNarrator:
    """Narrate by looking up.

    Parameters
    ----------
    manifest : Manifest
        Of a bundle with captioned frames.

    Raises
    ------
    UserError
        If it has none.

    References
    ----------
    The retrieval variant of NEURRATOR, arXiv 2606.18667, which hands the nearest training image
    to the language model; here its caption is said as it stands.
    """

    def __init__(self, manifest: Manifest) -> None:
        finder = EvidenceFinder.from_bundle(manifest)
        if finder is None:
            raise UserError(
                f"the retrieval narrator says captions of training frames, and the bundle "
                f"{manifest.folder} has no {CAPTIONS}. Export it with captions, or use llava."
            )
        self._finder = finder
        self._provenance = Provenance(
            bundle=manifest.sha256, backend="retrieval", model="", prompt=""
        )

    @property
    def provenance(self) -> Provenance:
        """What goes into every narration."""
        return self._provenance

    def narrate(self, embeddings: Sequence[PatchEmbedding]) -> Sequence[Utterance]:
        """Say the nearest frame's caption.

        Parameters
        ----------
        embeddings : sequence of PatchEmbedding

        Returns
        -------
        utterances : sequence of Utterance
            Without tokens; first and last word leave together.
        """
        start_host_ns = time.monotonic_ns()
        found = self._finder.nearest(embeddings)
        done_host_ns = time.monotonic_ns()
        return [
            Utterance(
                text=evidence.caption,
                status=Status.OK,
                evidence=evidence,
                start_host_ns=start_host_ns,
                first_token_host_ns=done_host_ns,
                last_token_host_ns=done_host_ns,
            )
            for evidence in found
        ]
