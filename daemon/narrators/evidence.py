"""The training frame whose patches are nearest to those decoded from the neurons.

Its caption is published beside a narration as evidence, and is the baseline that any narration must
beat (`retrieval`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from contracts.embedding import PatchEmbedding
from contracts.errors import ManifestError
from contracts.manifest import CAPTIONS, EVIDENCE, MEAN_PATCHES, Manifest
from contracts.narration import Evidence


class EvidenceFinder:
    """The captioned training frames of a bundle, by the mean of their patches.

    Parameters
    ----------
    mean_patches : array, shape (n_frames, dim), float
        Mean of each frame's true patches.
    """

    def __init__(
        self, frames: Sequence[str], captions: Sequence[str], mean_patches: NDArray[np.floating]
    ) -> None:
        self._frames = tuple(frames)
        self._captions = tuple(captions)
        self._directions = _directions(mean_patches.astype(np.float32))

    @classmethod
    def from_bundle(cls, manifest: Manifest) -> EvidenceFinder | None:
        """Read the bundle's frames; None if it has no captioned ones.

        Raises
        ------
        ManifestError
            If one of its two files cannot be read, or they do not match.
        """
        captions_path, evidence_path = manifest.file(CAPTIONS), manifest.file(EVIDENCE)
        if captions_path is None and evidence_path is None:
            return None
        folder = str(manifest.folder)
        if captions_path is None or evidence_path is None:
            raise ManifestError(folder, f"{CAPTIONS} and {EVIDENCE} belong together; one is gone")
        try:
            frames, captions = _read_captions(captions_path)
            mean_patches = load_file(evidence_path)[MEAN_PATCHES]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ManifestError(
                folder, f"{CAPTIONS} or {EVIDENCE} cannot be read: {error!r}"
            ) from error
        expected = (len(frames), manifest.patch_grid.dim)
        if mean_patches.shape != expected or not frames:
            raise ManifestError(
                folder,
                f"{EVIDENCE} must hold {MEAN_PATCHES} of shape (lines of {CAPTIONS}, dim) = "
                f"{expected} with one line or more, got {mean_patches.shape}",
            )
        return cls(frames, captions, mean_patches)

    def nearest(self, embeddings: Sequence[PatchEmbedding]) -> list[Evidence]:
        """Return the frame with the largest cosine of the mean patches, for each embedding."""
        if not embeddings:
            return []
        means = np.stack([embedding.patches.mean(axis=0) for embedding in embeddings])
        cosines = _directions(means) @ self._directions.T
        return [
            Evidence(
                frame=self._frames[best],
                caption=self._captions[best],
                cosine=float(np.clip(row[best], -1, 1)),
            )
            for row, best in zip(cosines, cosines.argmax(axis=1), strict=True)
        ]


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length one; a row of zeros stays as it is, at cosine 0 to everything."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.zeros_like(vectors)
    np.divide(vectors, lengths, out=directions, where=lengths > 0)
    return directions


def _read_captions(path: Path) -> tuple[list[str], list[str]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [str(line["frame"]) for line in lines], [str(line["caption"]) for line in lines]
