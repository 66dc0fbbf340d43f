"""A training in a process of its own: ``python -m ... CHECKPOINT WEIGHTS VARIANT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from encoder_training.model import EncoderSpec
from encoder_training.options import TrainingOptions
from encoder_training.training import train_encoder
from encoder_training.weights import save_weights
from tests.encoder_training.support import GRID, planted, population

SPEC = EncoderSpec(
    len(population()), GRID, width=16, n_heads=2, feed_forward=32, conv_channels=8, dropout=0.2
)


def main(checkpoint: Path, weights: Path, variant: str) -> None:
    """Train six passes, say each one, and write the weights."""
    torch.set_num_threads(1)
    options = TrainingOptions(
        training_epochs=6,
        batch_size=32,
        learning_rate=3e-3,
        seed=4,
        variant="retrieval" if variant == "retrieval" else "patches",
    )
    trained = train_encoder(
        SPEC,
        planted(n_scenes=60),
        options,
        lambda row: say(f"pass {row.training_epoch}"),
        checkpoint=checkpoint,
        on_resume=lambda history: say(f"going on after {len(history)}"),
    )
    save_weights(trained.encoder, weights)


def say(text: str) -> None:
    """Tell the test."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
