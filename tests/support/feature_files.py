"""Files of sparse features, as ``neurrate evaluate`` writes them, of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from contracts.feature_file import FEATURES_VERSION, METADATA, FeatureFile
from contracts.manifest import Manifest, PatchGridModel
from evaluation.sparse_autoencoder import SparseAutoencoder

NAMES = ("night", "day", "car", "night", "dog", "tree")
UNIQUE_TO = ((), (), ("cell_type:PV",), ("area:VISp", "cell_type:VIP"), (), ("area:LGd",))
"""Of the features of `feature_arrays`."""

K, SCALE = 2, 1.5


def feature_arrays(manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of six features of a bundle's patches."""
    rng = np.random.default_rng(11)
    grid, n = manifest.patch_grid, len(NAMES)
    atoms = rng.normal(size=(n, grid.dim))
    arrays = {
        "mean": rng.normal(size=(grid.n_patches, grid.dim)) / 4,
        "encoder": atoms,
        "bias": rng.normal(size=n) / 4,
        "atoms": atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        "reference_mean": rng.uniform(0, 1, n),
        "reference_std": rng.uniform(0.1, 1, n),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def write_feature_file(
    path: Path,
    manifest: Manifest,
    *,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    **changes: object,
) -> Path:
    """Write a file for the patches of a bundle; `changes` are of its metadata."""
    grid = manifest.patch_grid
    facts: dict[str, object] = {
        "version": FEATURES_VERSION,
        "language_model": manifest.model.language_model,
        "patch_grid": PatchGridModel(rows=grid.rows, cols=grid.cols, dim=grid.dim),
        "k": K,
        "scale": SCALE,
        "names": list(NAMES),
        "unique_to": [list(names) for names in UNIQUE_TO],
        "n_reference": 100,
        "bundle": manifest.sha256,
        "data_set": "0" * 64,
        **changes,
    }
    file = FeatureFile.model_validate(facts)
    tensors = {**feature_arrays(manifest), **(arrays or {})}
    save_file(dict(tensors), path, metadata={METADATA: file.model_dump_json()})
    return path


def autoencoder_of(arrays: Mapping[str, NDArray[np.float32]], *, k: int = K) -> SparseAutoencoder:
    """Return the same features as `evaluation` has them."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return SparseAutoencoder(
        k, tensors["mean"], SCALE, tensors["bias"], tensors["encoder"], tensors["atoms"]
    )
