"""An encoder restricted to one population by masking, as in the daemon."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray

from contracts.population import Population, Selection
from contracts.selection_text import named
from encoder_training.data_set.training_set import Scaling
from encoder_training.masking import masked_z
from encoder_training.model import EncoderNetwork

BATCH_NUMBERS = 2**25
"""Numbers of predicted patches in a batch: 128 MB, 56 windows of 576 x 1024."""

MOST_WINDOWS = 512
"""In a batch: 20 MB of counts at 2,000 units."""

MOST_ENCODED = 64
"""Windows that the encoder takes at once; more does not make it faster."""


class MaskedEncoder:
    """A `BaselineDecoder` of a trained encoder and a selection of units.

    Parameters
    ----------
    encoder : EncoderNetwork
        Gives patches on their own scale. Put in evaluation mode; stays on its device.
    selection : Selection
        The selected units, or a control. In the control ``shuffled`` each row of the input gets
        another unit's z-scores, as the daemon does it: counts on the scale of another unit would
        be unlike anything in training, and no control.
    """

    def __init__(
        self, encoder: EncoderNetwork, scaling: Scaling, selection: Selection, name: str = "encoder"
    ) -> None:
        self.name = name
        self._encoder = encoder.eval()
        self._device = next(encoder.parameters()).device
        self._order = selection.order()
        self._mean, self._std, self._mask = (
            torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self._device)
            for array in (scaling.mean[self._order], scaling.std[self._order], selection.mask)
        )

    @torch.no_grad()
    def patches(self, counts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict; see `BaselineDecoder`."""
        ordered = np.ascontiguousarray(counts[:, :, self._order])
        mask = self._mask.expand(len(counts), -1)
        return self.through(ordered, mask)

    @torch.no_grad()
    def through(self, counts: NDArray[np.uint8], mask: torch.Tensor) -> NDArray[np.float32]:
        """Predict from counts in the order of the input's rows.

        Each window through its own mask of rows, shape (n, n_units), float32.
        """
        predicted: list[NDArray[np.float32]] = []
        for first in range(0, len(counts), MOST_ENCODED):
            some = slice(first, first + MOST_ENCODED)
            x = torch.from_numpy(counts[some]).to(self._device).float()
            selected = mask[some].to(self._device)
            z = masked_z(x, self._mean, self._std, selected)
            predicted.append(self._encoder(z, selected).float().cpu().numpy())
        return np.concatenate(predicted)

    def frames(
        self, counts: NDArray[np.uint8], is_candidate: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """Return None: an encoder of patches decides no frames."""
        del counts, is_candidate
        return None


def batches(rows: NDArray[np.int64], grid: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into batches whose patches, of shape (n_patches, dim), fit memory."""
    size = min(MOST_WINDOWS, max(1, BATCH_NUMBERS // math.prod(grid)))
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def populations(population: Population, *, fewest: int = 3) -> dict[str, Selection]:
    """Return all units, each area and each cell type with enough units.

    The keys are the expressions that select them: ``all``, ``area:VISp``, ``cell_type:PV``.
    """
    labels = {
        "area": sorted({unit.area for unit in population.units if unit.area}),
        "cell_type": sorted({unit.cell_type for unit in population.units if unit.cell_type}),
    }
    wanted = ["all", *(f"{kind}:{named(name)}" for kind, names in labels.items() for name in names)]
    selections = {expression: population.select(expression) for expression in wanted}
    return {
        expression: one
        for expression, one in selections.items()
        if one.n_units >= fewest or expression == "all"
    }
