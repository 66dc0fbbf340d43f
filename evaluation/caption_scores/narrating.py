"""Narrate windows through every population, and the true patches of the same frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.manifest import Manifest
from contracts.narration import Status, Utterance
from contracts.population import Selection
from contracts.progress import ProgressBar
from contracts.window import Window
from daemon.encoders.auto import load_encoder
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Narrator, narrate
from daemon.service.settings import NarratorSettings
from evaluation.caption_scores.inputs import CaptionedWindows

TRUE_PATCHES = "true patches"
"""The narrator that is given the patches of the frame itself: the ceiling."""


@dataclass(frozen=True, slots=True)
class NarratedCaptions:
    """The sentences of every narrator on the same windows; a failed one is empty."""

    texts: Mapping[str, Sequence[str]]  # `TRUE_PATCHES`, then the populations by name
    n_truncated: int  # Narrations cut at the limit of tokens, all narrators together


@dataclass(slots=True, eq=False)
class _Texts:
    """Narrations so far; equal patches are narrated once, as the many of ``silent``."""

    narrator: Narrator
    by_patches: dict[bytes, Utterance] = field(default_factory=dict)  # By sha256

    def of(self, embeddings: Sequence[PatchEmbedding]) -> list[Utterance]:
        keys = [sha256(embedding.patches.tobytes()).digest() for embedding in embeddings]
        new = {
            key: embedding
            for key, embedding in zip(keys, embeddings, strict=True)
            if key not in self.by_patches
        }
        if new:
            self.by_patches.update(zip(new, narrate(self.narrator, [*new.values()]), strict=True))
        return [self.by_patches[key] for key in keys]


def narrate_windows(
    windows: CaptionedWindows,
    selections: Sequence[Selection],
    manifest: Manifest,
    settings: NarratorSettings,
) -> NarratedCaptions:
    """Narrate each window through each selection, and the true patches of its frame.

    The encoder is the bundle's graph on the CPU, so that the scores are those of the reference.
    """
    encoder = load_encoder(manifest, selections, threads=settings.threads, device="cpu")
    narrator = load_narrator(settings, manifest)
    names = [TRUE_PATCHES, *(selection.name for selection in selections)]
    spoken: dict[str, list[Utterance]] = {name: [] for name in names}
    texts = _Texts(narrator)
    n_at_once = max(1, settings.max_rows // len(names))
    try:
        with ProgressBar(
            total=len(windows.rows) * len(names), desc="narrating", unit="sentence"
        ) as bar:
            for first in range(0, len(windows.rows), n_at_once):
                rows = windows.rows[first : first + n_at_once]
                some = _windows(windows, rows, manifest)
                frames = _true_patches(windows, rows, some, manifest.patch_grid)
                embeddings = [*frames, *encoder.encode(some)]
                for embedding, utterance in zip(embeddings, texts.of(embeddings), strict=True):
                    spoken[embedding.population].append(utterance)
                bar.update(len(embeddings))
    finally:
        narrator.close()
    return NarratedCaptions(
        {name: tuple(one.text for one in spoken[name]) for name in names},
        sum(one.status is Status.TRUNCATED for name in names for one in spoken[name]),
    )


def _windows(
    windows: CaptionedWindows, rows: NDArray[np.int64], manifest: Manifest
) -> list[Window]:
    """Cut windows; their first bin is a row of the data set's counts, which nothing here reads."""
    counts = windows.data.counts_of(rows).astype(np.uint16)
    first = windows.data.first_bin[rows].tolist()
    return [
        Window(manifest.window_spec, first_bin, of_window)
        for first_bin, of_window in zip(first, counts, strict=True)
    ]


def _true_patches(
    windows: CaptionedWindows, rows: NDArray[np.int64], some: Sequence[Window], grid: PatchGrid
) -> list[PatchEmbedding]:
    return [
        PatchEmbedding(window, TRUE_PATCHES, 0, grid, patches)
        for window, patches in zip(some, windows.data.targets_of(rows), strict=True)
    ]
