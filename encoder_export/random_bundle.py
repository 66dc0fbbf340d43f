"""A bundle of random weights: the whole pipeline of the daemon, and narrations that are noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch  # noqa: TID253 - weights are drawn with torch
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.errors import UserError
from contracts.manifest import LanguageModel, Manifest, TrainingData
from contracts.population import Population
from contracts.spikes import SpikeBatch
from contracts.window import WindowSpec
from daemon.narrators.fit import image_tokens
from encoder_export.bundle import BundleFacts, ReferenceFrame, check_target, write_bundle
from encoder_training.data_set.training_set import Scaling
from encoder_training.frames.hub import check_folder
from encoder_training.frames.tower_files import load_config
from encoder_training.model import EncoderSpec, PatchEncoder

PAPER_WINDOW = WindowSpec(BinRate(120), n_bins=20, stride_bins=20)
"""167 ms of 120 Hz bins, as in NEURRATOR (arXiv 2606.18667); a new one every 167 ms."""

GRIDS = {"tiny": PatchGrid(8, 8, 64), "paper": PatchGrid(24, 24, 1024)}
"""Of the small LLaVA of 'neurrate simulate llava', and of LLaVA-1.5."""


def make_random_bundle(
    out: Path,
    *,
    population: Population,
    unit_mean: NDArray[np.floating],
    unit_std: NDArray[np.floating],
    window: WindowSpec,
    grid: PatchGrid,
    language_model_id: str,
    recording_label: str,
    command: str,
    size: Literal["tiny", "paper"] = "tiny",
    seed: int = 0,
    feature_layer: int | tuple[int, ...] = -2,
    select_strategy: str = "default",
    references: Sequence[ReferenceFrame] = (),
    overwrite: bool = False,
) -> Manifest:
    """Export an encoder of random weights; in its manifest ``trained`` is false.

    Parameters
    ----------
    unit_mean, unit_std : array, shape (n_units,), float, spikes per bin
        Of the units' counts; `unit_std` above 0.
    language_model_id : str
        Hub id or folder of the language model.
    recording_label : str
        The source of population, mean and standard deviation.
    size : {"tiny", "paper"}
        0.2 or about 12 million parameters.
    seed : int
        Of the weights; the same seed gives the same files.
    feature_layer, select_strategy
        Of the language model's vision tower, as its config has them.
    references : sequence of ReferenceFrame
        Training frames with captions, for evidence and retrieval.
    """
    n_units = len(population)
    spec = EncoderSpec.tiny(n_units, grid) if size == "tiny" else EncoderSpec(n_units, grid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PatchEncoder(spec)
    facts = BundleFacts(
        population=population,
        scaling=Scaling(unit_mean.astype(np.float32), unit_std.astype(np.float32)),
        window=window,
        language_model=LanguageModel(
            model_id=language_model_id,
            feature_layer=feature_layer,
            select_strategy=select_strategy,
        ),
        training_data=TrainingData(recording=recording_label),
        trained=False,
        command=command,
        scores={},
    )
    return write_bundle(out, encoder, facts, references=references, overwrite=overwrite)


def write_random_bundle(
    out: Path,
    *,
    population: Population,
    batches: Iterable[SpikeBatch],
    recording_label: str,
    model: str,
    size: Literal["tiny", "paper"] | None = None,
    window: WindowSpec = PAPER_WINDOW,
    seed: int = 0,
    command: str,
    overwrite: bool = False,
) -> Manifest:
    """Write a bundle with random weights for the units of a recording.

    The batches are the whole recording, for the units' rates; they are read only if `out` may be
    written. The patch grid is the one that the model takes. Without a size of the encoder that
    follows from the grid; with one the model may be unknown here, and the grid follows from the
    size.

    Raises
    ------
    UserError
        If the model cannot be read, or is no LLaVA.
    """
    check_target(out, overwrite=overwrite)
    tokens: dict[str, Any] = {}
    if size is None or Path(model).is_dir():
        grid, tokens = _tokens_of(model)
        size = size or ("paper" if grid.dim >= GRIDS["paper"].dim else "tiny")
    else:
        grid = GRIDS[size]
    unit_mean, unit_std = poisson_statistics(batches, len(population), window.rate)
    return make_random_bundle(
        out,
        population=population,
        unit_mean=unit_mean,
        unit_std=unit_std,
        window=window,
        grid=grid,
        language_model_id=model,
        recording_label=recording_label,
        size=size,
        seed=seed,
        command=command,
        overwrite=overwrite,
        **tokens,
    )


def _tokens_of(model: str) -> tuple[PatchGrid, dict[str, Any]]:
    """Return the patch grid that a LLaVA takes, and layer and strategy of its vision tower.

    Raises
    ------
    UserError
        If the model cannot be read, or is no LLaVA.
    """
    check_folder(model)
    config = load_config(model, "")
    if config.model_type != "llava":
        raise UserError(
            f"the language model must be a LLaVA, {model!r} is a {config.model_type}. Give the "
            "LLaVA that looks through it."
        )
    tokens = image_tokens(config)
    side = math.isqrt(tokens.n)
    # With the token of the class, which "full" keeps, they are no square: one row.
    n_rows = side if side * side == tokens.n else 1
    return PatchGrid(n_rows, tokens.n // n_rows, tokens.dim), {
        "feature_layer": tokens.feature_layer,
        "select_strategy": tokens.select_strategy,
    }


def poisson_statistics(
    batches: Iterable[SpikeBatch], n_units: int, rate: BinRate
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each unit's mean spikes per bin, and the standard deviation of a Poisson unit.

    Good enough for random weights; training measures both.

    Returns
    -------
    unit_mean, unit_std : array, shape (n_units,), float64, spikes per bin
        A unit without spikes counts as having had half of one.
    """
    n_spikes = np.zeros(n_units, dtype=np.int64)
    start_ns = stop_ns = 0
    for batch in batches:
        start_ns = batch.start_ns if batch.seq == 0 else start_ns
        stop_ns = batch.stop_ns
        n_spikes += np.bincount(batch.unit_index, minlength=n_units)
    n_bins = max(1, rate.bin_of(stop_ns) - rate.bin_of(start_ns))
    unit_mean = np.maximum(n_spikes, 0.5) / n_bins
    return unit_mean, np.sqrt(unit_mean)
