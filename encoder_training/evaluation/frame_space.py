"""True patches of all frames in few numbers, for ranking frames and for choosing a baseline.

Whole grids of 576 x 1024 numbers do not fit memory by the thousand. Their principal components do,
and keep almost all that tells frames of one movie apart. Patches are centred at the training mean
of their place and divided by the standard deviation of their dimension: the scale that is learned.

Memory at 3,600 frames of 576 x 1024: 600 MB for the components, 4 MB for the coordinates and one
block of patches of at most `BLOCK_BYTES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from encoder_training.data_set.training_set import thinned
from encoder_training.losses import SMALLEST_STD, TargetScaling

MAX_COMPONENTS = 256
"""Components that are kept, at most: 600 MB at the paper's 576 x 1024 patches."""

MAX_FITTED = 1024
"""Frames whose components are found, at most, evenly thinned: neighbours are much alike."""

BLOCK_BYTES = 128 * 2**20
"""Float32 patches that are read at once."""

SMALLEST_SHARE = 1e-6
"""Of the largest eigenvalue: below it, a component is rounding of float16 and float32."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameSpace:
    """Principal components of the true patches, and the frames in them."""

    patch_mean: NDArray[np.float32]  # (n_patches, dim): mean training patches; the origin
    # (dim,): of each dimension; infinite where it never changes, so that it counts for nothing
    std: NDArray[np.float32]
    # (n_patches * dim, n_components): orthonormal columns, most variance first
    basis: NDArray[np.float32]
    coordinates: NDArray[np.float32]  # (n_frames, n_components): of every frame of the targets

    def of(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coordinates of patches.

        `patches` is float32 of shape (n, n_patches, dim). Returns float32 of shape (n,
        n_components).
        """
        z = (patches - self.patch_mean) / self.std
        return (z.reshape(len(patches), -1) @ self.basis).astype(np.float32, copy=False)


def fit_frame_space(
    targets: NDArray[np.float16],
    scaling: TargetScaling,
    frames: NDArray[np.int64] | None = None,
) -> FrameSpace:
    """Find the components of some frames, or of all; no spikes are looked at.

    `targets`, float16 of shape (n_frames, n_patches, dim), may be a map of a file: it is read
    twice, a few patches of all frames at a time.
    """
    n_frames, n_patches, dim = targets.shape
    std = np.where(scaling.std <= SMALLEST_STD, np.inf, scaling.std).astype(np.float32)
    fitted = thinned(np.arange(n_frames) if frames is None else frames, MAX_FITTED)
    step = max(1, BLOCK_BYTES // (4 * n_frames * dim))

    def read(rows: NDArray[np.int64], first: int) -> NDArray[np.float32]:
        block = targets[rows, first : first + step].astype(np.float32)
        centred: NDArray[np.float32] = (block - scaling.patch_mean[first : first + step]) / std
        return centred.reshape(len(rows), -1)

    gram = np.zeros((len(fitted), len(fitted)), dtype=np.float32)
    for first in range(0, n_patches, step):
        block = read(fitted, first)
        gram += block @ block.T
    share, vectors = eigh(gram)
    kept = np.flatnonzero(share > SMALLEST_SHARE * max(share[-1], np.finfo(float).tiny))
    kept = kept[::-1][:MAX_COMPONENTS]
    combine = (vectors[:, kept] / np.sqrt(share[kept])).astype(np.float32)

    basis = np.empty((n_patches * dim, len(kept)), dtype=np.float32)
    coordinates = np.zeros((n_frames, len(kept)), dtype=np.float32)
    every_frame = np.arange(n_frames)
    for first in range(0, n_patches, step):
        block = read(every_frame, first)
        part = block[fitted].T @ combine
        basis[first * dim : first * dim + len(part)] = part
        coordinates += block @ part
    return FrameSpace(scaling.patch_mean, std, basis, coordinates)
