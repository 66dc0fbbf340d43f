"""Windows decoded through populations: their features, and whether the decoding was right.

A decoding is right if the frame that was shown is among the best tenth of the held-out frames, by
the cosine of whole centred grids, as `EvaluationSet` ranks them. Frames of validation and test are
the candidates of both, so that the question of the calibration is that of its test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - this module runs the encoder
from numpy.typing import NDArray

from contracts.confidence import CHANCE, WindowFeatures
from contracts.population import Selection
from contracts.progress import ProgressBar
from encoder_training.confidence.window_features import activity_of
from encoder_training.data_set.training_set import Scaling, TrainingSet
from encoder_training.evaluation.masked_encoder import MaskedEncoder, batches
from encoder_training.evaluation.metrics import share_among_best, similarities
from encoder_training.evaluation.scoring import EvaluationSet
from encoder_training.model import EncoderNetwork


@dataclass(frozen=True, slots=True, eq=False)
class DecodedWindows:
    """What a calibration is fitted to, and tested on."""

    rows: NDArray[np.int64]  # (n,): windows
    features: NDArray[np.float64]  # (n, n_features)
    right: NDArray[np.float64]  # (n,): 1 for a right decoding, 0 for a wrong one, shares for ties

    @classmethod
    def joined(cls, parts: list[DecodedWindows]) -> DecodedWindows:
        """Return all windows of several."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__)
        )


class WindowDecoder:
    """Decodes windows through masks, and compares the grids with the held-out frames."""

    def __init__(
        self,
        held_out: EvaluationSet,
        encoder: EncoderNetwork,
        scaling: Scaling,
        features: WindowFeatures,
        bar: ProgressBar,
    ) -> None:
        self._held_out = held_out
        self._data: TrainingSet = held_out.data
        self._encoder = encoder
        self._scaling = scaling
        self._features = features
        self._bar = bar

    def through(self, rows: NDArray[np.int64], selection: Selection) -> DecodedWindows:
        """Decode through one population, a control perhaps."""
        masks = np.broadcast_to(selection.mask, (len(rows), self._data.n_units))
        return self.through_masks(rows, masks, selection.order())

    def through_masks(
        self,
        rows: NDArray[np.int64],
        masks: NDArray[np.bool_],
        order: NDArray[np.intp] | None = None,
    ) -> DecodedWindows:
        """Decode each window through its own mask, shape (n, n_units).

        With `order` each row of the encoder's input gets the z-scores of another unit.
        """
        if order is None:
            order = np.arange(self._data.n_units)
        in_order = Scaling(self._scaling.mean[order], self._scaling.std[order])
        everyone = self._data.population.select("all")
        encoder = MaskedEncoder(self._encoder, in_order, everyone)
        features: list[NDArray[np.float64]] = []
        right: list[NDArray[np.float64]] = []
        done = 0
        for some in batches(rows, self._data.targets.shape[1:]):
            mask = masks[done : done + len(some)].astype(np.float32)
            counts = np.ascontiguousarray(self._data.counts_of(some)[:, :, order])
            patches = encoder.through(counts, torch.from_numpy(mask))
            features.append(self._features.of(patches, activity_of(counts, in_order), mask))
            right.append(self._right(patches, self._data.frame[some]))
            done += len(some)
            self._bar.update(len(some))
        return DecodedWindows(rows, np.concatenate(features), np.concatenate(right))

    def _right(self, patches: NDArray[np.float32], frame: NDArray[np.int64]) -> NDArray[np.float64]:
        space, candidates = self._held_out.space, self._held_out.candidates
        similarity = similarities(space.of(patches), space.coordinates[candidates])
        true = np.searchsorted(candidates, frame)
        return share_among_best(similarity, true, CHANCE * len(candidates))
