"""A bundle and its data set with captions, small enough to narrate in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import torch

from contracts.manifest import LanguageModel, load_manifest, write_manifest
from encoder_export.bundle import BundleFacts, write_bundle
from encoder_export.export import reference_frames
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from encoder_training.data_set.training_set import measure_scaling
from encoder_training.model import EncoderSpec, PatchEncoder
from evaluation.narrations.sbert import word_salads
from tests.support.prepared import prepared_set
from tests.support.sentence_models import write_tiny_bert
from tests.support.tiny_bundle import TINY_GRID, shallow_encoders

LAG_NS = 100_000_000


def write_captioned_inputs(
    folder: Path, model: Path, *, n_frames: int = 240, held_out: str = "repeats"
) -> None:
    """Write a bundle, its data set and a sentence model: bundle, data, bert."""
    write_prepared(folder / "data", captioned_set(model, n_frames=n_frames, held_out=held_out))
    prepared = load_prepared(folder / "data")
    write_captioned_bundle(folder / "bundle", prepared)
    write_tiny_bert(folder / "bert", [*prepared.frames.captions, *word_salads(0)])


def captioned_set(model: Path, *, n_frames: int = 240, held_out: str = "repeats") -> PreparedSet:
    """Return three showings of frames, a multiple of three, with captions, for a tiny model."""
    small = prepared_set(n_frames=n_frames, n_repeats=3, held_out=held_out)
    shape = (n_frames // 3, TINY_GRID.n_patches, TINY_GRID.dim)
    of_scene = np.random.default_rng(0).normal(size=shape)
    return replace(
        small,
        grid=TINY_GRID,
        targets=of_scene.repeat(3, axis=0).astype(np.float16),
        language_model=LanguageModel(model_id=str(model)),
    )


@shallow_encoders()
def write_captioned_bundle(folder: Path, prepared: PreparedSet) -> None:
    """Write a bundle of random weights that names the data set."""
    data, parts = prepared.windows(LAG_NS)
    torch.manual_seed(0)
    write_bundle(
        folder,
        PatchEncoder(EncoderSpec.tiny(len(prepared.population), TINY_GRID)),
        BundleFacts(
            population=prepared.population,
            scaling=measure_scaling(data, parts.train),
            window=data.window,
            language_model=prepared.language_model,
            training_data=prepared.training_data,
            trained=True,
            command="tests",
            scores={},
        ),
        references=reference_frames(prepared, data, parts),
    )


def write_same_captions(inputs: Path, folder: Path, caption: str) -> None:
    """Write the bundle and data of `write_captioned_inputs` with one caption for every frame."""
    prepared = load_prepared(inputs / "data")
    same = replace(prepared.frames, captions=(caption,) * len(prepared.frames.captions))
    write_prepared(folder / "data", replace(prepared, frames=same))
    trained_on = load_prepared(folder / "data").training_data
    copy_bundle(inputs / "bundle", folder / "bundle", sha256=trained_on.sha256)


def copy_bundle(bundle: Path, folder: Path, *, sha256: str) -> None:
    """Write the same encoder as one that was trained on the data set of that sha256."""
    copytree(bundle, folder)
    model = load_manifest(folder).model
    training_data = model.training_data.model_copy(update={"sha256": sha256})
    write_manifest(folder, model.model_copy(update={"training_data": training_data}))
