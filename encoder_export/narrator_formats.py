"""Whether the language model may be narrower on a CPU: it speaks of real patches, both ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from contracts.window import Window
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import narrate
from daemon.service.settings import NarratorSettings
from encoder_export.parity import Formats, FormatTrial

NARRATED_AT_ONCE = 8
"""Grids in one batch of the language model."""

TRIED: tuple[Literal["bfloat16", "int8"], ...] = ("bfloat16", "int8")


class Speaker:
    """The bundle's language model, called with grids.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle, or of what is to become it.
    dtype : {"auto", "float32", "bfloat16", "int8"}

    Attributes
    ----------
    first_heard : array, shape (n, n_patches, dim), float32
        What it was first asked about: in a gate, the network's own patches.
    took_s : float
        Seconds that it has spoken.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
        device: str = "auto",
    ) -> None:
        self._manifest = manifest
        self._narrator = load_narrator(NarratorSettings(dtype=dtype, device=device), manifest)
        self.first_heard: NDArray[np.float32] | None = None
        self.took_s = 0.0

    def __call__(self, grids: NDArray[np.float32]) -> Sequence[str]:
        """Say a sentence about each grid."""
        if self.first_heard is None:
            self.first_heard = grids
        spec = self._manifest.window_spec
        window = Window(spec, 0, np.empty((spec.n_bins, 0), np.uint16))
        n_units = len(self._manifest.population)
        texts: list[str] = []
        firsts = range(0, len(grids), NARRATED_AT_ONCE)
        started_s = time.monotonic()
        for first in tqdm(firsts, "narrating", unit="batch", disable=None, leave=False):
            embeddings = [
                PatchEmbedding(window, "all", n_units, self._manifest.patch_grid, grid)
                for grid in grids[first : first + NARRATED_AT_ONCE]
            ]
            texts += [each.text for each in narrate(self._narrator, embeddings)]
        self.took_s += time.monotonic() - started_s
        return texts


def try_formats(
    manifest: Manifest,
    grids: NDArray[np.float32],
    *,
    speaker: Callable[..., Speaker] = Speaker,
) -> Formats:
    """Let the model speak on the CPU in float32 and in what is narrower.

    Parameters
    ----------
    manifest : Manifest
    grids : array, shape (n, n_patches, dim), float32
        Patches that an encoder made of real windows.
    speaker : callable
        Makes a `Speaker`.

    Returns
    -------
    Formats
    """
    expected = speaker(manifest, dtype="float32", device="cpu")
    texts = expected(grids)
    trials = []
    for number_format in TRIED:
        tried = speaker(manifest, dtype=number_format, device="cpu")
        n_equal = sum(one == two for one, two in zip(texts, tried(grids), strict=True))
        speedup = expected.took_s / max(tried.took_s, 1e-9)
        trials.append(FormatTrial(number_format, len(grids), n_equal, round(speedup, 2)))
    return Formats(manifest.model.language_model.model_id, tuple(trials))
