"""A run folder: what ``neurrate train`` writes, and evaluation and export read.

``run.json`` holds the request and its outcome; ``encoder.safetensors`` holds the weights
of the pass that is kept, ``scaling.safetensors`` the mean and the standard deviation of each unit.
Those two exist as soon as training is over; ``run.json`` says ``finished`` once the run is
evaluated as well. The other files are tables and figures for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from contracts.atomic_files import write_text
from contracts.errors import MisuseError, UserError
from contracts.manifest import (
    CONFIDENCE,
    CONFIDENCE_ARRAYS,
    ENCODER_WEIGHTS,
    PROBES,
    PROBES_REPORT,
    LanguageModel,
    Sha256,
    TrainingData,
    WindowModel,
)
from encoder_training.data_set.training_set import Scaling
from encoder_training.files import write_tensors
from encoder_training.history import TrainingEpoch
from encoder_training.lag import LagChoice
from encoder_training.model import EncoderNetwork, EncoderSpec
from encoder_training.options import TrainingOptions, Variant
from encoder_training.weights import load_weights, save_weights

RUN_VERSION = 1
"""Of ``run.json``. Raised when a program of the version before would misread one."""

RUN_NAME = "run.json"
SCALING = "scaling.safetensors"
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.csv"
CURVES = "curves.png"
LAG_PICTURE = "lag.png"
RESULTS = "judged.json"
"""The results of the evaluation, under the name that runs have always used."""

BESIDE = (
    CHECKPOINT, ENCODER_WEIGHTS, SCALING, HISTORY, CURVES, LAG_PICTURE, RESULTS, PROBES,
    PROBES_REPORT, "report.md", "methods.png", "populations.png", "over_time.png", "decoded.png",
    "roc.png", "calibration.png", CONFIDENCE, CONFIDENCE_ARRAYS, "confidence.png",
)  # fmt: skip
"""All that a run writes beside ``run.json``."""

HISTORY_TAIL = 5
"""Passes that ``run.json`` repeats from ``history.csv``, for who reads nothing else."""


class RunModel(BaseModel):
    """The whole of ``run.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    format_version: int = RUN_VERSION
    """`RUN_VERSION` of the program that wrote it."""
    dataset: str
    """Folder of the data set, as it was typed."""
    dataset_sha256: str
    """Of the data set."""
    training_data: TrainingData
    """The recording, and again the data set's sha256, as a bundle states them."""
    language_model: LanguageModel
    """Whose vision tower made the targets."""
    variant: Variant
    spec: EncoderSpec
    options: TrainingOptions
    """With the device that "auto" came to; `seed` is among them."""
    weights_sha256: Sha256 | Literal[""] = ""
    """Of the checkpoint that training began with; empty for random weights."""
    zscore_sha256: Sha256 | Literal[""] = ""
    """Of the file whose z-score statistics the checkpoint came with; empty where they were measured
    on the training windows."""
    judged_only: bool = False
    """The weights are those of that checkpoint: nothing was trained."""
    concepts: tuple[str, ...] | None = None
    """Words of the probes; None where they are chosen from the captions."""
    test_windows: int | None = None
    """Most test windows to evaluate on; None where the default was taken."""
    lags_ns: tuple[int, ...] = Field(min_length=1)
    """The lags to choose from, or the one that was named."""
    window: WindowModel
    """Rate, bins, stride and the lag of the encoder."""
    lag_choice: LagChoice | None = None
    """How the lag was chosen; none where it was named."""
    n_passes: int = 0
    best_pass: int = 0
    """The pass whose weights are kept, from 1; 0 if nothing was trained. Of the paper's encoder it
    is the best by validation cosine, of the evidence encoder the last. Runs keep its first name."""
    history_tail: tuple[TrainingEpoch, ...] = ()
    """The last passes."""
    scores: dict[str, float] = {}
    """On the test windows; for the manifest of a bundle."""
    command: str
    """What made it."""
    finished: bool = False
    """Trained and evaluated."""

    @property
    def lag_ns(self) -> int:
        """A window that ends at t describes the frame shown at t - lag."""
        return self.window.lag_ns

    @property
    def seed(self) -> int:
        """The seed of everything in this run."""
        return self.options.seed


@dataclass(frozen=True, slots=True, eq=False)
class RunFolder:
    """A trained encoder and how it came to be."""

    model: RunModel
    encoder: EncoderNetwork  # In evaluation mode; gives raw patches. `encoder.spec` has its sizes.
    scaling: Scaling


def write_run(
    folder: Path,
    model: RunModel,
    *,
    encoder: EncoderNetwork | None = None,
    scaling: Scaling | None = None,
) -> None:
    """Write a run, each file whole or not at all, ``run.json`` last."""
    folder.mkdir(parents=True, exist_ok=True)
    if encoder is not None:
        save_weights(encoder, folder / ENCODER_WEIGHTS)
    if scaling is not None:
        arrays = {"unit_mean": scaling.mean, "unit_std": scaling.std}
        write_tensors(folder / SCALING, arrays)
    write_text(folder / RUN_NAME, model.model_dump_json(indent=1) + "\n")


def begin_run(folder: Path, model: RunModel) -> None:
    """Write ``run.json`` of a run that begins, and remove what a run before it left."""
    write_run(folder, model)  # first: the run before it is then never half there
    for name in BESIDE:
        (folder / name).unlink(missing_ok=True)


def load_run_model(folder: Path) -> RunModel:
    """Read ``run.json``.

    Raises
    ------
    UserError
        If it is not there, of another version, or not as it should be; with every problem.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} must be the folder of a run, with {RUN_NAME} in it. "
            "Make one with 'neurrate train DATASET RUN'."
        )
    try:
        model = RunModel.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or RUN_NAME}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise UserError(
            f"{path} is not as this build writes it: {'; '.join(problems)}. Train again."
        ) from error
    except MisuseError as error:
        raise UserError(f"{path} holds values that cannot be: {error}. Train again.") from error
    if model.format_version != RUN_VERSION:
        raise UserError(
            f"{path} has format_version {model.format_version}, this build reads {RUN_VERSION}. "
            "Train again, or use the version that wrote it."
        )
    return model


def load_run(folder: Path) -> RunFolder:
    """Read a run back.

    Raises
    ------
    UserError
        If it is no run, its training is not over, or its files do not fit each other.
    """
    model = load_run_model(folder)
    if not (folder / ENCODER_WEIGHTS).is_file() or not (folder / SCALING).is_file():
        raise UserError(
            f"the training in {folder} is not over: it has no {ENCODER_WEIGHTS} yet. "
            f"Go on with: {model.command}"
        )
    encoder = load_weights(folder / ENCODER_WEIGHTS)
    try:
        arrays = load_file(folder / SCALING)
        scaling = Scaling(arrays["unit_mean"], arrays["unit_std"])
    except (SafetensorError, KeyError) as error:
        raise UserError(
            f"{folder / SCALING} must hold unit_mean and unit_std: {error!r}. Train again."
        ) from error
    shape = (encoder.spec.n_units,)
    if (
        encoder.spec != model.spec
        or not scaling.mean.shape == scaling.std.shape == shape
        or not np.isfinite([scaling.mean, scaling.std]).all()
    ):
        raise UserError(
            f"the files of {folder} are of different runs: {RUN_NAME} says {model.spec}, the "
            f"weights are of {encoder.spec}, the scaling is of {scaling.mean.shape} units. "
            "Train again."
        )
    return RunFolder(model, encoder, scaling)
