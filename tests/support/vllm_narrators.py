"""Settings and patches for narrators on vLLM servers with the tiny LLaVA that ships."""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.embedding import PatchEmbedding, PatchGrid
from daemon.service.settings import NarratorSettings, VllmSettings
from tests.support.tiny_bundle import tiny_windows
from tests.support.vllm_server import NAME

GRID = PatchGrid(rows=8, cols=8, dim=96)
"""Of the tiny LLaVA."""


def narrator_settings(**changed: Any) -> NarratorSettings:
    """Return settings for the tiny LLaVA."""
    given: dict[str, Any] = {
        "backend": "vllm", "dtype": "float32", "device": "cpu", "max_new_tokens": 24,
    }  # fmt: skip
    return NarratorSettings(**given | changed)


def vllm_settings(*urls: str, **changed: Any) -> VllmSettings:
    """Return settings for the servers in tests."""
    return VllmSettings(urls=urls, **{"model": NAME} | changed)


def embeddings_of(n: int, *, seed: int = 1, scale: float = 2.0) -> list[PatchEmbedding]:
    """Return grids of random patches."""
    rng = np.random.default_rng(seed)
    return [
        PatchEmbedding(
            window, "all", 12, GRID,
            (scale * rng.normal(size=(GRID.n_patches, GRID.dim))).astype(np.float32),
        )
        for window in tiny_windows(n)
    ]  # fmt: skip
