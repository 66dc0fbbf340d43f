"""The protocol of every method that is evaluated, and what all baselines have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder_training.evaluation.results import MEAN_PATCHES

BLOCK_NUMBERS = 2**25
"""Numbers of true patches that are mixed at once: 128 MB of float32."""


class BaselineDecoder(Protocol):
    """Windows of spike counts to patches."""

    @property
    def name(self) -> str:
        """Name in reports."""

    def patches(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict.

        `counts` is uint8 of shape (n, n_bins, n_units), of all units; a decoder of a
        population takes its own. Returns float32 of shape (n, n_patches, dim).
        """

    def frames(
        self, counts: NDArray[np.uint8], is_candidate: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """Decide which frame each window describes, if this is a decoder that does.

        Returns rows of the targets, int64 of shape (n,); -1 where no candidate is a
        training frame. None for a decoder that predicts patches only.

        Parameters
        ----------
        counts : array, shape (n, n_bins, n_units), uint8, spikes per bin
        is_candidate : array, shape (n, n_frames), bool
            Frames of the targets that each window may be of.
        """


class FrameMixture(ABC):
    """A decoder whose patches are a mixture of training frames.

    `targets` is float16 of shape (n_frames, n_patches, dim): True patches. May be a map of a file.
    """

    name: str
    chosen: str
    """What validation chose, in words."""
    decides = True
    """Whether the largest weight is an answer of the method's own."""

    def __init__(self, targets: NDArray[np.float16], train_frames: NDArray[np.int64]) -> None:
        self.targets, self.train_frames = targets, train_frames

    @abstractmethod
    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return how much of each training frame each window holds.

        `counts` is uint8 of shape (n, n_bins, n_units), spikes per bin. Returns float32 of shape
        (n, n_train_frames): each row sums to 1; ridge may give weights below 0.
        """

    def patches(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict; see `BaselineDecoder`."""
        return mixed(self.weights(counts), self.targets, self.train_frames)

    def frames(
        self, counts: NDArray[np.uint8], is_candidate: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """Decide; see `BaselineDecoder`."""
        if not self.decides:
            return None
        may_be = is_candidate[:, self.train_frames]
        weights = np.where(may_be, self.weights(counts), -np.inf)
        return np.where(may_be.any(axis=1), self.train_frames[weights.argmax(axis=1)], -1)


class MeanPatches(FrameMixture):
    """The control without spikes: every training frame weighs the same."""

    name = MEAN_PATCHES
    chosen = ""
    decides = False

    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the same weight for every frame."""
        return np.full(
            (len(counts), len(self.train_frames)), 1 / len(self.train_frames), dtype=np.float32
        )


def mixed(
    weights: NDArray[np.float32], targets: NDArray[np.float16], train_frames: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Mix the true patches of frames, block by block.

    Returns float32 of shape (n, n_patches, dim).

    Parameters
    ----------
    weights : array, shape (n, n_train_frames), float32
    targets : array, shape (n_frames, n_patches, dim), float16
    """
    _, n_patches, dim = targets.shape
    patches = np.zeros((len(weights), n_patches * dim), dtype=np.float32)
    step = max(1, BLOCK_NUMBERS // (n_patches * dim))
    for first in range(0, len(train_frames), step):
        true = targets[train_frames[first : first + step]].astype(np.float32)
        patches += weights[:, first : first + step] @ true.reshape(len(true), -1)
    return patches.reshape(len(weights), n_patches, dim)
