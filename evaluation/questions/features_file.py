"""Writes the features that are shown, with their names, for a narrator to name live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from contracts.atomic_files import write_bytes
from contracts.feature_file import FEATURES_FILE, FEATURES_VERSION, METADATA, FeatureFile
from contracts.manifest import PatchGridModel
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.masked_encoder import batches
from evaluation.questions.feature_activations import TrainedFeatures
from evaluation.questions.feature_facts import MOST_FRAMES, FeatureLabels
from evaluation.questions.inputs import EvaluationInputs

if TYPE_CHECKING:
    from evaluation.questions.sparse_features import ComparedKind


def write_features(
    inputs: EvaluationInputs,
    trained: TrainedFeatures,
    labels: FeatureLabels,
    kinds: Sequence[ComparedKind],
) -> None:
    """Write the first autoencoder into the folder of results.

    The reference is of the frames of training windows, at most `MOST_FRAMES`.
    """
    model, manifest, frames = trained.models[0], inputs.manifest, inputs.windows.frames
    targets = inputs.windows.data.targets
    rows = thinned(inputs.windows.train_frames, MOST_FRAMES)
    values = np.concatenate(
        [model.mean_codes(targets[some]) for some in batches(rows, targets.shape[1:])]
    )
    unique: list[list[str]] = [[] for _ in range(model.n_features)]
    for one in kinds:
        for at, name in enumerate(one.names):
            for feature in one.features(at):
                if one.follows[at, feature]:  # others may be a bias, and high in every window
                    unique[feature].append(name)
    top = labels.top[:, 0].tolist()
    grid = manifest.patch_grid
    file = FeatureFile(
        version=FEATURES_VERSION,
        language_model=manifest.model.language_model,
        patch_grid=PatchGridModel(rows=grid.rows, cols=grid.cols, dim=grid.dim),
        k=model.k,
        scale=model.scale,
        names=[
            name or frames.captions[row] or frames.label(row)
            for name, row in zip(labels.names, top, strict=True)
        ],
        unique_to=unique,
        n_reference=len(rows),
        bundle=manifest.sha256,
        data_set=load_facts(inputs.request.dataset).data_sha256,
        command=inputs.request.command,
    )
    arrays = {
        "mean": model.mean.cpu().numpy(),
        "encoder": model.encoder.cpu().numpy(),
        "bias": model.bias.cpu().numpy(),
        "atoms": model.atoms.cpu().numpy(),
        "reference_mean": values.mean(axis=0).astype(np.float32),
        "reference_std": values.std(axis=0).astype(np.float32),
    }
    content = save(arrays, metadata={METADATA: file.model_dump_json()})
    write_bytes(inputs.request.out / FEATURES_FILE, content)
