"""Sparse autoencoders of the frames' patches, and what they find in decoded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.population import Selection
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.masked_encoder import batches
from evaluation.caption_scores.narrating import TRUE_PATCHES, decoded_patches
from evaluation.progress import report
from evaluation.questions.answer import Row
from evaluation.questions.image_patches import ImagePatches, mean_patches
from evaluation.questions.inputs import EvaluationInputs
from evaluation.sparse_autoencoder import SparseAutoencoder, matched_cosines, train

FEATURES_PER_DIMENSION, MOST_FEATURES = 2, 2048
K = 8
"""Features of a patch."""

N_STEPS = 2000
N_SEEDS = 3
MOST_PATCHES = 100_000
"""For training: 400 MB at 1,024 numbers each."""

PATCHES_STREAM = 19


@dataclass(frozen=True, slots=True, eq=False)
class TrainedFeatures:
    """Autoencoders of several seeds on the same patches; the first is the one that is shown.

    Their mean is that of training frames, whose patches they encode. What an image shows is told
    from the mean of images instead: a stimulus whose places are otherwise than those of photographs
    has no features of that.
    """

    models: tuple[SparseAutoencoder, ...]
    patches: NDArray[np.float32]  # (n, dim): less the mean of their place
    n_pictures: int  # That these are of
    is_held_out: bool  # Whether no scored frame was among them

    def stability(self) -> NDArray[np.float64]:
        """Return the cosine of each atom with its partner in the others, their mean."""
        first, *others = (model.atoms.cpu().numpy() for model in self.models)
        cosines: NDArray[np.float64] = np.mean(
            [matched_cosines(first, other) for other in others], axis=0
        )
        return cosines

    def stability_by_chance(self, *, seed: int) -> float:
        """Return the same for as many random patches in place of an autoencoder's atoms."""
        first = self.models[0]
        rng = np.random.default_rng([seed, PATCHES_STREAM, 1])
        random = self.patches[rng.choice(len(self.patches), first.n_features)]
        random = random / np.maximum(np.linalg.norm(random, axis=1, keepdims=True), 1e-12)
        return float(matched_cosines(first.atoms.cpu().numpy(), random).mean())


def n_features(dim: int) -> int:
    """Return how many features patches of so many numbers have."""
    return min(FEATURES_PER_DIMENSION * dim, MOST_FEATURES)


def train_features(inputs: EvaluationInputs) -> TrainedFeatures:
    """Train on random patches of the frames of training windows, or of ``--images``."""
    frames, targets = inputs.windows.train_frames, inputs.windows.data.targets
    mean, images = mean_patches(targets, frames), inputs.images
    if images is None:
        patches = _some_patches(targets, frames, mean, seed=inputs.request.seed)
    else:
        of = images.patches
        patches = _some_patches(of, images.train, images.mean, seed=inputs.request.seed)
    dim = targets.shape[2]
    models = []
    for number in range(N_SEEDS):
        report(f"sparse-features: training an autoencoder, {number + 1} of {N_SEEDS}")
        models.append(
            train(
                patches,
                mean,
                n_features=n_features(dim),
                k=min(K, dim),
                n_steps=N_STEPS,
                seed=N_SEEDS * inputs.request.seed + number,
                device=inputs.request.local_device,
            )
        )
    scored = inputs.windows.data.frame[inputs.windows.rows]
    is_held_out = images is not None or not np.isin(scored, frames).any()
    n_pictures = len(frames if images is None else images.train)
    return TrainedFeatures(tuple(models), patches, n_pictures, is_held_out)


def _some_patches(
    targets: NDArray[np.floating],
    rows: NDArray[np.int64],
    mean: NDArray[np.float64],
    *,
    seed: int,
) -> NDArray[np.float32]:
    """Draw as many patches of each picture, less the mean of their place, shape (n, dim)."""
    rng = np.random.default_rng([seed, PATCHES_STREAM])
    n_places, rows = len(mean), thinned(rows, MOST_PATCHES)
    n_each = min(n_places, -(-MOST_PATCHES // len(rows)))
    places = [rng.permutation(n_places)[:n_each] for _ in rows]
    return np.concatenate(
        [
            (targets[row][at] - mean[at]).astype(np.float32)
            for row, at in zip(rows.tolist(), places, strict=True)
        ]
    )


def activations(
    inputs: EvaluationInputs,
    models: Sequence[SparseAutoencoder],
    selections: Sequence[Selection],
) -> list[dict[str, NDArray[np.float64]]]:
    """Encode decoded and true patches; for each model, the mean over patches by name.

    Each of shape (n_windows, n_features); the true patches are under `TRUE_PATCHES`.
    """
    data, rows = inputs.windows.data, inputs.windows.rows
    found: list[dict[str, list[NDArray[np.float64]]]] = [{} for _ in models]

    def add(name: str, patches: NDArray[np.float32]) -> None:
        for model, of in zip(models, found, strict=True):
            of.setdefault(name, []).append(model.mean_codes(patches))

    threads = inputs.request.local_workers
    for name, patches in decoded_patches(data, rows, selections, inputs.manifest, threads=threads):
        add(name, patches)
    for some in batches(rows, data.targets.shape[1:]):
        add(TRUE_PATCHES, data.targets_of(some))
    return [{name: np.concatenate(of) for name, of in one.items()} for one in found]


def autoencoder_rows(
    inputs: EvaluationInputs,
    trained: TrainedFeatures,
    found: Sequence[Mapping[str, NDArray[np.float64]]],
) -> list[Row]:
    """Return one row an autoencoder: how well it reconstructs, and what is dead."""
    frames = inputs.windows.rows[inputs.positions.first_window]
    data = inputs.windows.data
    shown = list(batches(frames, data.targets.shape[1:]))
    by_chance = trained.stability_by_chance(seed=inputs.request.seed)
    images = inputs.images
    atoms = [model.atoms.cpu().numpy() for model in trained.models]
    rows: list[Row] = []
    for number, (model, of) in enumerate(zip(trained.models, found, strict=True)):
        others = [matched_cosines(atoms[number], a).mean() for a in atoms if a is not atoms[number]]
        rows.append(
            {
                "autoencoder": number,
                "features": model.n_features,
                "of_a_patch": model.k,
                "training_patches": len(trained.patches),
                "learned_from": "training frames" if images is None else "images",
                "training_pictures": trained.n_pictures,
                "r2_held_out_images": _r2_of_images(images, model),
                "r2_scored_frames": model.explained(data.targets_of(some) for some in shown),
                "dead": int((of[TRUE_PATCHES].max(axis=0) <= 0).sum()),
                "matched_cosine": float(np.mean(others)),
                "matched_with_random_patches": by_chance,
            }
        )
    return rows


def autoencoder_finding(row: Row, trained: TrainedFeatures) -> str:
    """Say what an autoencoder learned, of its row."""
    where = "frames it was not trained on" if trained.is_held_out else "frames it was trained on"
    learned, r2 = "", f"{row['r2_scored_frames']:.2f} on {where}"
    if row["learned_from"] == "images":
        learned = f" of {trained.n_pictures:,} images"
        r2 = (
            f"{row['r2_held_out_images']:.2f} on images it was not trained on and "
            f"{row['r2_scored_frames']:.2f} on the scored frames"
        )
    return (
        f"{row['features']} features{learned}, {row['of_a_patch']} of each patch: R2 = {r2}, "
        f"{row['dead']} dead; atoms of other seeds match with a mean cosine of "
        f"{row['matched_cosine']:.2f} (random patches: {row['matched_with_random_patches']:.2f})"
    )


def _r2_of_images(images: ImagePatches | None, model: SparseAutoencoder) -> float:
    """Return R2 on the images that nothing was trained on; NaN without images."""
    if images is None:
        return float("nan")
    held_out = batches(np.flatnonzero(images.is_held_out), images.patches.shape[1:])
    of_images = model.centred(images.mean)
    return of_images.explained(images.patches[some] for some in held_out)
