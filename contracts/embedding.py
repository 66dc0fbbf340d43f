"""Patch embeddings: what the language model sees in place of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from contracts.window import Window


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Shape of the patch embeddings: ``rows x cols`` image tokens of ``dim`` numbers.

    LLaVA-1.5 takes 24 x 24 x 1024, the penultimate layer of CLIP ViT-L/14 at 336 pixels.
    """

    rows: int
    cols: int
    dim: int

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.dim) < 1:
            raise MisuseError(f"a patch grid needs rows, cols and dim of 1 or more, got {self}")

    def __str__(self) -> str:
        """Return it in words: ``24 x 24 patches of 1024 numbers``."""
        return f"{self.rows} x {self.cols} patches of {self.dim} numbers"

    @property
    def n_patches(self) -> int:
        """Image tokens."""
        return self.rows * self.cols


@dataclass(frozen=True, slots=True, eq=False)
class PatchEmbedding:
    """One window, seen through one selection of units.

    Attributes
    ----------
    n_absent : int
        Of its units, those that no stream sends and that were held at their mean.
    patches : array, shape (n_patches, dim), float32
        Row-major over the grid.
    """

    window: Window
    population: str
    n_units: int
    grid: PatchGrid
    patches: NDArray[np.float32]
    encoded_host_ns: int = 0
    n_absent: int = 0

    @property
    def is_unseen(self) -> bool:
        """Whether it has units, and none of them is sent: the patches say nothing."""
        return 0 < self.n_units == self.n_absent

    def __post_init__(self) -> None:
        expected = (self.grid.n_patches, self.grid.dim)
        if self.patches.shape != expected:
            raise MisuseError(f"patches must have shape {expected}, got {self.patches.shape}")


def patch_cosines(
    actual: NDArray[np.floating], expected: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the cosine of each patch with its counterpart; (n, n_patches, dim) to (n, n_patches).

    It is -1 if a patch is not finite or has no length.
    """
    one, other = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines = np.einsum("npd,npd->np", one, other) / lengths
    return np.where(np.isfinite(cosines), cosines, -1.0)
