"""Training data of the baselines: the encoder's windows, as sums over parts of a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoder_training.data_set.training_set import Scaling, TrainingSet, part_edges, thinned
from encoder_training.evaluation.frame_space import FrameSpace

N_PARTS = (1, 2, 4)
"""Parts of a window whose counts are summed, to choose from on validation. One part is the window
as a whole; four parts of the paper's 20 bins are 42 ms each, about one frame of a movie."""

BLOCK_WINDOWS = 512
"""Windows that are cut at once: 20 MB of counts at 2,000 units and 20 bins."""

MAX_VALIDATION = 250
"""Validation windows that choose a baseline's settings, at most, evenly thinned. Each setting of
naive Bayes weighs every training frame for each of them: with 26,000 frames a tenth of a second."""

CHOOSING_COMPONENTS = 64
"""Of the frame space, on which settings are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class BaselineData:
    """Windows, units and frames."""

    data: TrainingSet
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    scaling: Scaling
    # (n_units,): true for a selected unit. A baseline is fitted on these units and on no others.
    units: NDArray[np.bool_]
    space: FrameSpace
    # (n_train_frames,): the frames that training shows, in order
    train_frames: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_frames", np.unique(self.data.frame[self.train]))

    @property
    def chosen_by(self) -> NDArray[np.int64]:
        """The validation windows that choose."""
        return thinned(self.validation, MAX_VALIDATION)

    def parts(self, n_parts: int) -> WindowParts:
        """Return the sums over so many parts of a window."""
        n_parts = min(n_parts, self.data.window.n_bins)
        edges = part_edges(self.data.window.n_bins, n_parts)
        length = np.repeat(np.diff(edges), int(self.units.sum())).astype(np.float32)
        mean = np.tile(self.scaling.mean[self.units], n_parts)
        std = np.tile(self.scaling.std[self.units], n_parts)
        return WindowParts(edges[:-1], self.units, length * mean, np.sqrt(length) * std)

    def blocks(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield the rows a block at a time, each with its counts."""
        for first in range(0, len(rows), BLOCK_WINDOWS):
            block = rows[first : first + BLOCK_WINDOWS]
            yield block, self.data.counts_of(block)

    def error(self, weights: NDArray[np.float32]) -> float:
        """Return the mean squared error of mixtures for the windows that choose.

        `weights` is float32 of shape (n_chosen_by, n_train_frames). The error is on the
        scale of the frame space, so that methods and settings compare.
        """
        return self.error_of(weights @ self.train_coordinates())

    def train_coordinates(self) -> NDArray[np.float32]:
        """Return the training frames in the frame space, shape (n_train_frames, n_components)."""
        coordinates: NDArray[np.float32] = self.space.coordinates[
            self.train_frames, :CHOOSING_COMPONENTS
        ]
        return coordinates

    def error_of(self, predicted: NDArray[np.float32]) -> float:
        """Return the mean squared error of places in the frame space.

        `predicted` is float32 of shape (n_chosen_by, n_components).
        """
        true = self.space.coordinates[self.data.frame[self.chosen_by], :CHOOSING_COMPONENTS]
        return float(np.square(predicted - true).sum(axis=1).mean())


@dataclass(frozen=True, slots=True, eq=False)
class WindowParts:
    """Sums of counts over the parts of a window."""

    starts: NDArray[np.int64]  # (n_parts,): first bin of each part
    units: NDArray[np.bool_]  # (n_units,): the selected ones
    # (n_parts * n_selected,), spikes per part: of the training windows, as if bins were independent
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def sums(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return sums of counts, shape (n, n_parts * n_selected), float32."""
        summed = np.add.reduceat(counts[:, :, self.units], self.starts, axis=1, dtype=np.float32)
        flat: NDArray[np.float32] = summed.reshape(len(counts), -1)
        return flat

    def z(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return z-scored sums, shape (n, n_parts * n_selected), float32."""
        scored: NDArray[np.float32] = (self.sums(counts) - self.mean) / self.std
        return scored

    def __str__(self) -> str:
        """Return a description for reports."""
        n_parts = len(self.starts)
        return "counts of the whole window" if n_parts == 1 else f"counts of {n_parts} parts"
