"""The Encoder protocol: finished windows in, patch embeddings out; and the graph inside one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from contracts.population import Selection
from contracts.window import Window


class Encoder(Protocol):
    """A compiled encoder, and the populations that it encodes.

    The order of the selections is that of the embeddings; `device` is for display.
    """

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102 - described above
    @property
    def selections(self) -> Sequence[Selection]: ...  # noqa: D102 - described above
    @property
    def device(self) -> str: ...  # noqa: D102 - described above

    def encode(self, windows: Sequence[Window]) -> Sequence[PatchEmbedding]:
        """Encode each window through each selection, as one batch, in that order.

        Called on the fast loop.
        """
        ...

    def time_window(self, budget_s: float) -> float:
        """Measure how long one window takes through every selection, in seconds."""
        ...


class Graph(Protocol):
    """A bundle's graph, compiled for one device, which `device` names for display."""

    @property
    def device(self) -> str: ...  # noqa: D102 - described above

    def run(self, counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode one batch.

        Parameters
        ----------
        counts : array, shape (n, n_bins, n_units), float32, spikes per bin
            For n of 1 to `MAX_ENCODER_BATCH`.
        mask : array, shape (n, n_units), float32
            1 for a selected unit, 0 for one held at its mean.

        Returns
        -------
        grids : array, shape (n, n_patches, dim), float32
            A new array for each call.
        """
        ...
