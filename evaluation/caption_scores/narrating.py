"""Narrate windows through every population, and the true patches of the same frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from contracts.narration import Status, Utterance
from contracts.narration_wire import rounded_confidence
from contracts.population import Selection
from contracts.progress import ProgressBar
from contracts.window import Window
from daemon.confidence import ConfidenceEstimator, load_confidence
from daemon.encoders.graph_check import cpu_graph
from daemon.encoders.window_encoder import WindowEncoder
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Narrator, narrate
from daemon.service.settings import NarratorSettings
from encoder_training.data_set.prepared import FrameTable
from encoder_training.data_set.training_set import TrainingSet, thinned
from encoder_training.evaluation.masked_encoder import batches
from evaluation.caption_scores.inputs import CaptionedWindows

TRUE_PATCHES = "true patches"
"""The narrator that is given the patches of the frame itself: the ceiling."""

MEAN_PATCHES = "mean patches"
"""The narrator that is given the mean patches of the frame's movie: it knows the movie alone."""

MOST_AVERAGED = 500
"""Frames of a movie whose patches are averaged, evenly thinned."""


@dataclass(frozen=True, slots=True)
class Narrated:
    """One sentence; a narration that failed is empty."""

    text: str
    is_truncated: bool = False  # Cut at the limit of tokens
    # Of the decoding, to the digits that are published; None of frames, and without calibration
    confidence: float | None = None


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


class WindowNarrator:
    """Narrates windows of a data set through any selections, and from the patches of frames.

    The encoder is the bundle's graph on the CPU, so that the scores are those of the reference.
    """

    def __init__(
        self, data: TrainingSet, frames: FrameTable, manifest: Manifest, settings: NarratorSettings
    ) -> None:
        self._data, self._frames, self._manifest = data, frames, manifest
        self._graph = cpu_graph(manifest, threads=settings.threads)
        self._narrator = load_narrator(settings, manifest)
        self._texts = _Texts(self._narrator)
        self._confidence = load_confidence(manifest)
        self._mean_patches: dict[int, NDArray[np.float32]] = {}

    def narrate(
        self,
        rows: NDArray[np.int64],
        selections: Sequence[Selection],
        *,
        from_frames: Sequence[str] = (),
    ) -> dict[str, list[Narrated]]:
        """Narrate windows, by the name of each selection.

        `from_frames` holds `TRUE_PATCHES`, `MEAN_PATCHES`, or both.
        """
        windows = _windows(self._data, rows, self._manifest)
        embeddings = [
            PatchEmbedding(window, name, 0, self._manifest.patch_grid, patches)
            for name in from_frames
            for window, patches in zip(windows, self._patches(name, rows), strict=True)
        ]
        if selections:
            embeddings += WindowEncoder(self._manifest, selections, self._graph).encode(windows)
        estimator = self._confidence and ConfidenceEstimator(
            self._confidence, self._manifest, selections
        )
        narrated: dict[str, list[Narrated]] = {
            name: [] for name in (*from_frames, *(selection.name for selection in selections))
        }
        for embedding, utterance in zip(embeddings, self._texts.of(embeddings), strict=True):
            is_decoded = embedding.population not in from_frames
            narrated[embedding.population].append(
                Narrated(
                    utterance.text,
                    utterance.status is Status.TRUNCATED,
                    rounded_confidence(
                        estimator.of(embedding) if estimator and is_decoded else None
                    ),
                )
            )
        return narrated

    def close(self) -> None:
        """Release the narrator."""
        self._narrator.close()

    def _patches(self, name: str, rows: NDArray[np.int64]) -> Sequence[NDArray[np.float32]]:
        if name == TRUE_PATCHES:
            return list(self._data.targets_of(rows))
        movies = self._frames.movie[self._data.frame[rows]].tolist()
        for movie in set(movies) - self._mean_patches.keys():
            some = thinned(np.flatnonzero(self._frames.movie == movie), MOST_AVERAGED)
            self._mean_patches[movie] = self._data.targets[some].mean(axis=0, dtype=np.float32)
        return [self._mean_patches[movie] for movie in movies]


def narrate_windows(
    windows: CaptionedWindows,
    selections: Sequence[Selection],
    manifest: Manifest,
    settings: NarratorSettings,
) -> NarratedCaptions:
    """Narrate each window through each selection, and the true patches of its frame."""
    narrator = WindowNarrator(windows.data, windows.frames, manifest, settings)
    names = [TRUE_PATCHES, *(selection.name for selection in selections)]
    narrated: dict[str, list[Narrated]] = {name: [] for name in names}
    n_at_once = max(1, settings.max_rows // len(names))
    try:
        with ProgressBar(
            total=len(windows.rows) * len(names), desc="narrating", unit="sentence"
        ) as bar:
            for first in range(0, len(windows.rows), n_at_once):
                rows = windows.rows[first : first + n_at_once]
                some = narrator.narrate(rows, selections, from_frames=[TRUE_PATCHES])
                for name, sentences in some.items():
                    narrated[name] += sentences
                bar.update(len(rows) * len(names))
    finally:
        narrator.close()
    return NarratedCaptions(
        {name: tuple(one.text for one in narrated[name]) for name in names},
        sum(one.is_truncated for name in names for one in narrated[name]),
    )


def decoded_patches(
    data: TrainingSet,
    rows: NDArray[np.int64],
    selections: Sequence[Selection],
    manifest: Manifest,
    *,
    threads: int = 1,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Decode windows without a language model, some at a time and in their order.

    Yields the name of each selection in turn with patches of shape (n, n_patches, dim).
    """
    encoder = WindowEncoder(manifest, selections, cpu_graph(manifest, threads=threads))
    for some in batches(
        rows, (len(selections), manifest.patch_grid.n_patches, manifest.patch_grid.dim)
    ):
        found = encoder.encode(_windows(data, some, manifest))
        for at, selection in enumerate(selections):
            yield selection.name, np.stack([one.patches for one in found[at :: len(selections)]])


def _windows(data: TrainingSet, rows: NDArray[np.int64], manifest: Manifest) -> list[Window]:
    """Cut windows; their first bin is a row of the data set's counts, which nothing here reads."""
    counts = data.counts_of(rows).astype(np.uint16)
    first = data.first_bin[rows].tolist()
    return [
        Window(manifest.window_spec, first_bin, of_window)
        for first_bin, of_window in zip(first, counts, strict=True)
    ]
