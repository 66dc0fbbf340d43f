"""A movie that planted units follow, and an encoder after a short training on it."""

from __future__ import annotations

from dataclasses import replace

from encoder_training.data_set.prepared import PreparedSet
from encoder_training.masking import MaskingOptions
from encoder_training.model import EncoderSpec
from encoder_training.options import TrainingOptions
from encoder_training.training import TrainingResult, train_encoder
from tests.support.prepared import GRID, prepared_set

LAG_NS = 100_000_000


def planted_scenes() -> PreparedSet:
    """Return a movie of 107 scenes that VISp and LGd follow, and CA1 does not.

    Captions name what the units follow.
    """
    return prepared_set(n_frames=320, n_repeats=4, rate_hz=20.0)


def train_briefly(prepared: PreparedSet, masking: MaskingOptions | None = None) -> TrainingResult:
    """Train six passes at `LAG_NS`."""
    data, parts = prepared.windows(LAG_NS)
    spec = replace(EncoderSpec.tiny(len(prepared.population), GRID), input_dropout=0.0)
    options = TrainingOptions(
        training_epochs=6,
        batch_size=32,
        learning_rate=3e-3,
        masking=masking or MaskingOptions(),
    )
    return train_encoder(spec, data, options, parts=parts)
