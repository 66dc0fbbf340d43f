"""A calibration of confidence that a test can compute by hand, and its files in a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.confidence import ConfidenceModel, WindowFeatures
from contracts.manifest import (
    CONFIDENCE,
    CONFIDENCE_ARRAYS,
    Manifest,
    load_manifest,
    sha256_of,
    write_manifest,
)
from encoder_training.confidence.confidence_files import save_confidence
from encoder_training.confidence.results import FittedConfidence
from tests.support.tiny_bundle import TINY_GRID


def confidence_model(n_units: int = 12, *, seed: int = 0) -> ConfidenceModel:
    """Return a model of random arrays for `TINY_GRID`, in which longer grids are surer."""
    rng = np.random.default_rng(seed)
    n_components, dim = 3, TINY_GRID.dim
    place = np.arange(0, TINY_GRID.n_patches, 2)
    features = WindowFeatures(
        place=place,
        patch_mean=rng.normal(size=(len(place), dim)).astype(np.float16).astype(np.float32),
        inverse_std=rng.uniform(0.5, 2, dim).astype(np.float32),
        component=rng.normal(size=(dim, n_components)).astype(np.float32),
        response=rng.normal(size=(n_components, n_units)).astype(np.float32),
        inverse_noise=rng.uniform(0.5, 2, n_units).astype(np.float32),
    )
    return ConfidenceModel(
        features,
        centre=np.array([0.5, 1.0, -1.0, 0.0, 0.5, 1.0]),
        spread=np.array([0.5, 1.0, 2.0, 0.5, 1.0, 1.0]),
        weight=np.array([1.0, 0.2, 0.3, 0.2, 0.1, -0.2]),
        offset=0.1,
    )


def add_confidence(folder: Path, model: ConfidenceModel) -> Manifest:
    """Write the files of training into a bundle, and list them in its manifest."""
    save_confidence(FittedConfidence(model, "", 100, 10, 50), folder)
    manifest = load_manifest(folder, check_hashes=False)
    hashes = dict(manifest.model.sha256)
    hashes |= {name: sha256_of(folder / name) for name in (CONFIDENCE, CONFIDENCE_ARRAYS)}
    write_manifest(folder, manifest.model.model_copy(update={"sha256": hashes}))
    return load_manifest(folder)
