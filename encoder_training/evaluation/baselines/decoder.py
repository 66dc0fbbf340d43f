"""The protocol of everything that is judged, and what all baselines have in common."""

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
        """What reports call it."""

    def patches(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict.

        Parameters
        ----------
        counts : array, shape (n, n_bins, n_units), uint8, spikes per bin
            Of all units; a decoder of some of them looks at its own.

        Returns
        -------
        patches : array, shape (n, n_patches, dim), float32
        """

    def frames(
        self, counts: NDArray[np.uint8], is_candidate: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """Decide which frame each window describes, if this is a decoder that does.

        Parameters
        ----------
        counts : array, shape (n, n_bins, n_units), uint8, spikes per bin
        is_candidate : array, shape (n, n_frames), bool
            Frames of the targets that each window may be of.

        Returns
        -------
        frame : array, shape (n,), int64, or None
            Row of the targets; -1 where none of the candidates was ever seen. None for a decoder
            that knows patches only.
        """


class FrameMixture(ABC):
    """A decoder whose patches are a mixture of training frames.

    Parameters
    ----------
    targets : array, shape (n_frames, n_patches, dim), float16
        True patches. May be a map of a file.
    known : array, shape (n_known,), int64
        Rows of the targets that training showed.
    """

    name: str
    chosen: str
    """What validation chose, in words."""
    decides = True
    """Whether the largest weight is an answer of the method's own."""

    def __init__(self, targets: NDArray[np.float16], known: NDArray[np.int64]) -> None:
        self.targets, self.known = targets, known

    @abstractmethod
    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return how much of each known frame each window holds.

        Parameters
        ----------
        counts : array, shape (n, n_bins, n_units), uint8, spikes per bin

        Returns
        -------
        weights : array, shape (n, n_known), float32
            Each row sums to 1; ridge may give weights below 0.
        """

    def patches(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict, as `BaselineDecoder` says."""
        return mixed(self.weights(counts), self.targets, self.known)

    def frames(
        self, counts: NDArray[np.uint8], is_candidate: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """Decide, as `BaselineDecoder` says."""
        if not self.decides:
            return None
        may_be = is_candidate[:, self.known]
        weights = np.where(may_be, self.weights(counts), -np.inf)
        return np.where(may_be.any(axis=1), self.known[weights.argmax(axis=1)], -1)


class MeanPatches(FrameMixture):
    """The control that hears nothing: every training frame alike."""

    name = MEAN_PATCHES
    chosen = ""
    decides = False

    def weights(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the same weight for every frame."""
        return np.full((len(counts), len(self.known)), 1 / len(self.known), dtype=np.float32)


def mixed(
    weights: NDArray[np.float32], targets: NDArray[np.float16], known: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Mix the true patches of frames, block by block.

    Parameters
    ----------
    weights : array, shape (n, n_known), float32
    targets : array, shape (n_frames, n_patches, dim), float16
    known : array, shape (n_known,), int64
        Rows of the targets.

    Returns
    -------
    patches : array, shape (n, n_patches, dim), float32
    """
    _, n_patches, dim = targets.shape
    patches = np.zeros((len(weights), n_patches * dim), dtype=np.float32)
    step = max(1, BLOCK_NUMBERS // (n_patches * dim))
    for first in range(0, len(known), step):
        true = targets[known[first : first + step]].astype(np.float32)
        patches += weights[:, first : first + step] @ true.reshape(len(true), -1)
    return patches.reshape(len(weights), n_patches, dim)
