"""The history of a training, as a table and as a figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from contracts.atomic_files import whole_file
from encoder_training.pictures import report_figure


@dataclass(frozen=True, slots=True)
class TrainingEpoch:
    """One pass over the training windows, and the validation after it."""

    training_epoch: int  # From 1
    elapsed_s: float  # Since training began, validation included
    n_windows: int  # Training windows seen since training began
    learning_rate: float
    train_loss: float  # Mean over the pass, through random populations
    validation_loss: float
    # Mean cosine of a patch on the scale that is learned. Decides which weights are kept.
    validation_cosine: float
    # The same on the scale of the vision tower, where the mean alone may come close to 1
    raw_cosine: float
    # Share of the squared error of the mean training patches that is explained: 0 for an encoder
    # that always predicts their mean, 1 for a perfect one
    skill: float


def write_history(history: Sequence[TrainingEpoch], path: Path) -> None:
    """Write one line for each pass, as comma-separated values with a heading."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(TrainingEpoch)])
        writer.writeheader()
        for row in history:
            values = asdict(row)
            writer.writerow(
                {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in values.items()}
            )


def read_history(path: Path) -> list[TrainingEpoch]:
    """Read what `write_history` wrote, to its six digits."""
    whole = {"training_epoch", "n_windows"}
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [
            {name: int(text) if name in whole else float(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]
    return [TrainingEpoch(**row) for row in rows]


def plot_history(history: Sequence[TrainingEpoch], path: Path) -> None:
    """Draw loss, and cosine and skill, over the passes.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    panels = {
        "loss": ("train_loss", "validation_loss"),
        "on held-out groups": ("validation_cosine", "raw_cosine", "skill"),
    }
    passes = [row.training_epoch for row in history]
    with report_figure(path, (8, 3.2)) as figure:
        for axes, (label, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            for name in names:
                axes.plot(
                    passes, [getattr(row, name) for row in history], label=name.replace("_", " ")
                )
            axes.set(xlabel="pass over the training windows", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(frameon=False)
