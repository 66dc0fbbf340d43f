"""A bundle of random weights: every road of the daemon, and narrations that are noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch  # noqa: TID253 - weights are drawn with torch
from numpy.typing import NDArray

from contracts.embedding import PatchGrid
from contracts.manifest import LanguageModel, Manifest, TrainingData
from contracts.population import Population
from contracts.window import WindowSpec
from encoder_export.bundle import BundleFacts, ReferenceFrame, write_bundle
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderSpec, PatchEncoder


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
    references: Sequence[ReferenceFrame] = (),
    overwrite: bool = False,
) -> Manifest:
    """Export an encoder that has learned nothing; its manifest says so (``trained`` is false).

    Parameters
    ----------
    out : Path
        The bundle's folder.
    population : Population
        The units that it takes.
    unit_mean, unit_std : array, shape (n_units,), float, spikes per bin
        Of the units' counts; `unit_std` above 0.
    window : WindowSpec
        How windows are cut.
    grid : PatchGrid
        Of the language model.
    language_model_id : str
        Hub id or folder of the language model, for people.
    recording_label : str
        Where population, mean and standard deviation come from.
    command : str
        What made it.
    size : {"tiny", "paper"}
        0.2 or about 12 million parameters.
    seed : int
        Of the weights; the same seed gives the same files.
    references : sequence of ReferenceFrame
        Training frames with captions, for evidence and retrieval.
    overwrite : bool
        Replace a bundle that is there.

    Returns
    -------
    Manifest
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
        language_model=LanguageModel(model_id=language_model_id),
        training_data=TrainingData(recording=recording_label),
        trained=False,
        command=command,
        scores={},
    )
    return write_bundle(out, encoder, facts, references=references, overwrite=overwrite)
