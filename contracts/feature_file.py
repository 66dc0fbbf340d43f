"""The file of sparse features: what ``neurrate evaluate`` writes and a narrator names live.

One safetensors file: the tensors of `ARRAYS`, and one entry of metadata, `METADATA`, whose JSON is
a `FeatureFile`. Features belong to a language model's patches, not to a bundle: every bundle whose
encoder predicts the same patches can use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from contracts.manifest import LanguageModel, PatchGridModel, Sha256

FEATURES_FILE = "sparse-features.safetensors"
"""In the folder of results."""

FEATURES_VERSION = 1
"""Raised when a name or a meaning in the file changes."""

METADATA = "sparse_features"

ARRAYS = ("mean", "encoder", "bias", "atoms", "reference_mean", "reference_std")
"""Names of the tensors, float32: ``mean``, shape (n_patches, dim), of each place of frames;
``encoder`` and ``atoms``, shape (n_features, dim); the others, shape (n_features,)."""


class FeatureFile(BaseModel):
    """What stands beside the tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: int
    language_model: LanguageModel
    """Whose vision tower made the patches."""
    patch_grid: PatchGridModel
    k: int = Field(ge=1)
    """Features that each patch keeps: the largest, if positive."""
    scale: Annotated[float, Field(gt=0)]
    """What patches less their mean are divided by."""
    names: list[str]
    """Of each feature: the fact that it follows, or else the caption of its top frame."""
    unique_to: list[list[str]]
    """Of each feature, the populations that it is unique to and in which it follows the frames."""
    n_reference: int = Field(ge=1)
    """Training frames that the reference is of: mean and standard deviation of the activation."""
    bundle: Sha256
    """Manifest of the bundle that was evaluated."""
    data_set: str
    """sha256 of the data set."""
    command: str = ""
    """What made it."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureEncoder:
    """Encodes patches as `evaluation.sparse_autoencoder` does, without torch."""

    k: int
    scale: float
    mean: NDArray[np.float32]  # (n_patches, dim)
    encoder: NDArray[np.float32]  # (n_features, dim)
    bias: NDArray[np.float32]  # (n_features,)

    def mean_codes(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode one grid, shape (n_patches, dim); the mean code of each feature.

        One matrix product: 1.2 billion terms at 24 x 24 x 1024 with 2,048 features.
        """
        codes = (patches - self.mean) / np.float32(self.scale) @ self.encoder.T + self.bias
        least = np.partition(codes, -self.k, axis=1)[:, [-self.k]]
        kept = np.where(codes >= least, np.maximum(codes, 0), 0)
        mean: NDArray[np.float32] = kept.mean(axis=0, dtype=np.float32)
        return mean
