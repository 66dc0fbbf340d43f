"""What ``neurrate train`` is asked for, and whether the folder holds that run already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from contracts.errors import UserError
from contracts.manifest import WindowModel, sha256_of
from encoder_training.checkpoint import flat
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions
from encoder_training.released import load_released
from encoder_training.run_files import RUN_NAME, RunModel, load_run_model
from encoder_training.weights import SPEC_KEY, load_weights


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What was asked for.

    Attributes
    ----------
    dataset, folder : Path
        Of the data set and of the run.
    size : {"paper", "small", "tiny"}
        Of the encoder, where no weights are given.
    lags_ns : tuple of int
        To choose from, or the one.
    weights : Path or None
        Checkpoint to begin with.
    heads : int
        Attention heads of a released one.
    judges_only : bool
        Train nothing.
    concepts : tuple of str or None
        Words for the probes; chosen if None.
    test_windows : int or None
        That judge, at most; the usual number if None.
    options : TrainingOptions
        With a device that is there.
    command : str
        What is running, for the record.
    """

    dataset: Path
    folder: Path
    size: Literal["paper", "small", "tiny"]
    lags_ns: tuple[int, ...]
    weights: Path | None
    heads: int
    judges_only: bool
    options: TrainingOptions
    command: str
    concepts: tuple[str, ...] | None = None
    test_windows: int | None = None


def initial_encoder(request: TrainRequest, prepared: PreparedSet) -> PatchEncoder | None:
    """Return the encoder that training begins with, if one is named.

    Parameters
    ----------
    request : TrainRequest
    prepared : PreparedSet
        Whose units and patches it must fit.

    Raises
    ------
    UserError
        If it cannot be read or does not fit.
    """
    if request.weights is None:
        return None
    n_units = len(prepared.population)
    if not _is_ours(request.weights):
        return load_released(
            request.weights, n_units=n_units, grid=prepared.grid, n_heads=request.heads
        )
    encoder = load_weights(request.weights)
    spec = encoder.spec
    if not isinstance(encoder, PatchEncoder) or (spec.n_units, spec.grid) != (
        n_units,
        prepared.grid,
    ):
        raise UserError(
            f"{request.weights} must be of the variant patches, for the data set's {n_units} units "
            f"and {prepared.grid}; it is for {spec.n_units} units and {spec.grid}. "
            "Train without --weights."
        )
    return encoder


def _is_ours(path: Path) -> bool:
    """Whether a file is one that `save_weights` wrote, with its sizes in the header."""
    try:
        with safe_open(path, framework="pt") as file:
            return SPEC_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def wanted_run(
    request: TrainRequest, prepared: PreparedSet, initial: PatchEncoder | None
) -> RunModel:
    """Return the run that is asked for, its lag the first of the list.

    Parameters
    ----------
    request : TrainRequest
    prepared : PreparedSet
    initial : PatchEncoder or None
        What training begins with; its sizes count.
    """
    sizes = {"paper": EncoderSpec, "small": EncoderSpec.small, "tiny": EncoderSpec.tiny}
    spec = sizes[request.size](len(prepared.population), prepared.grid)
    window = prepared.window
    return RunModel(
        dataset=str(request.dataset),
        dataset_sha256=prepared.training_data.sha256,
        training_data=prepared.training_data,
        language_model=prepared.language_model,
        variant=request.options.variant,
        spec=initial.spec if initial is not None else spec,
        options=request.options,
        weights_sha256=sha256_of(request.weights) if request.weights is not None else "",
        judged_only=request.judges_only,
        concepts=request.concepts,
        test_windows=request.test_windows,
        lags_ns=request.lags_ns,
        window=WindowModel(
            bin_rate_num=window.rate.num,
            bin_rate_den=window.rate.den,
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=request.lags_ns[0],
        ),
        command=request.command,
    )


COMPARED = ("dataset_sha256", "variant", "spec", "options", "weights_sha256", "judged_only",
            "concepts", "test_windows", "lags_ns")  # fmt: skip
"""What makes two runs the same one."""


def run_there(folder: Path, wanted: RunModel, *, overwrite: bool) -> RunModel | None:
    """Return the run that is in the folder and goes on, or none if one begins.

    Parameters
    ----------
    folder : Path
    wanted : RunModel
        What must be there, lag and results aside.
    overwrite : bool
        Another run is no error, and no run goes on.

    Raises
    ------
    UserError
        If there is another run, with what differs, or something else.
    """
    if not (folder / RUN_NAME).exists():
        if folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir()):
            raise UserError(f"{folder} holds something that is no run. Choose a new folder.")
        return None
    if overwrite:
        return None
    found = load_run_model(folder)
    there, here = (flat(each.model_dump(include=set(COMPARED))) for each in (found, wanted))
    differ = [
        f"{name} ({there.get(name)} there, {here.get(name)} now)"
        for name in here
        if there.get(name) != here[name]
    ]
    if differ:
        raise UserError(
            f"{folder} holds another run; these differ: {', '.join(differ)}. Choose a new folder, "
            "go on with the same options, or start again with --overwrite."
        )
    return found
