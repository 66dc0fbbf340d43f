"""What the features of an autoencoder are about: facts of the frames, and the frames themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.data_set.prepared import FrameTable
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.masked_encoder import batches
from evaluation.questions.answer import Row
from evaluation.questions.chance import Positions, correlation_tests, is_rejected
from evaluation.questions.image_patches import ImagePatches
from evaluation.questions.inputs import EvaluationInputs
from evaluation.sparse_autoencoder import SparseAutoencoder
from simulation.scenes.facts import KINDS, LIGHTS, Facts

N_TOP = 4
"""Frames of a feature."""

MOST_FRAMES = 1000
"""That say what features are about."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrames:
    """Frames of the whole data set, in order; for training or not, features mean the same."""

    rows: NDArray[np.int64]  # Of the table of frames
    positions: Positions
    facts: tuple[Facts, ...] | None

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> LabelledFrames:
        """Take at most `MOST_FRAMES`, evenly thinned.

        Raises
        ------
        UserError
            If ``--facts`` lacks one of them.
        """
        frames = inputs.windows.frames
        rows = np.lexsort((frames.number, frames.movie)).astype(np.int64)
        rows = thinned(rows, MOST_FRAMES)
        positions = Positions.of(frames.movie[rows], frames.number[rows])
        return cls(rows, positions, inputs.facts(rows))


@dataclass(frozen=True, slots=True, eq=False)
class FeatureLabels:
    """For each feature; without facts, names are empty and r and p are NaN."""

    names: tuple[str, ...]  # The fact that it follows most, if it does
    light: NDArray[np.bool_]  # (n_features,): whether that is the light
    r: NDArray[np.float64]  # (n_features,), with that fact
    p: NDArray[np.float64]  # Over shifts, times the number of facts
    mean: NDArray[np.float64]  # (n_features,): activation
    active: NDArray[np.float64]  # (n_features,): share of frames in which it is
    top: NDArray[np.int64]  # (n_features, N_TOP): frames, of different captions
    top_images: NDArray[np.int64] | None = None  # (n_features, N_TOP): of ``--images``

    def rows(
        self, frames: FrameTable, stability: NDArray[np.float64], images: ImagePatches | None
    ) -> list[Row]:
        """Return one row a feature."""
        names = () if images is None else images.files.names
        return [
            {
                "feature": feature,
                "about": self.names[feature],
                "fact_r": float(self.r[feature]),
                "fact_p": float(self.p[feature]),
                "mean": float(self.mean[feature]),
                "active_frames": float(self.active[feature]),
                "matched_cosine": float(stability[feature]),
                "top_frames": "; ".join(frames.label(row) for row in self.top[feature].tolist()),
                "top_caption": frames.captions[self.top[feature, 0]],
                **(
                    {}
                    if self.top_images is None
                    else {"top_images": "; ".join(names[at] for at in self.top_images[feature])}
                ),
            }
            for feature in range(len(self.names))
        ]


def label_features(
    inputs: EvaluationInputs, shown: LabelledFrames, model: SparseAutoencoder
) -> FeatureLabels:
    """Describe features by their activations in the true patches of frames."""
    targets = inputs.windows.data.targets
    values = np.concatenate(
        [model.mean_codes(targets[some]) for some in batches(shown.rows, targets.shape[1:])]
    )
    n = values.shape[1]
    captions = [inputs.windows.frames.captions[row] for row in shown.rows.tolist()]
    top = np.stack([_top(values[:, feature], captions) for feature in range(n)])
    names, r, p = ("",) * n, np.full(n, np.nan), np.full(n, np.nan)
    light = np.zeros(n, np.bool_)
    if shown.facts is not None:
        known, table = _table(shown.facts)
        best, r, p = _best(values, table, shown.positions, seed=inputs.request.seed)
        is_known = is_rejected(p) & (r > 0)
        names = tuple(known[at] if is_in else "" for at, is_in in zip(best, is_known, strict=True))
        light = is_known & np.isin(np.array(known)[best], LIGHTS)
    return FeatureLabels(
        names,
        light,
        r,
        p,
        values.mean(axis=0),
        (values > 0).mean(axis=0),
        shown.rows[top],
        None if inputs.images is None else _top_images(inputs.images, model),
    )


def _top_images(images: ImagePatches, model: SparseAutoencoder) -> NDArray[np.int64]:
    """Return the images in which each feature is most active, shape (n_features, N_TOP)."""
    rows, of_images = images.thinned(MOST_FRAMES), model.centred(images.mean)
    values = np.concatenate(
        [
            of_images.mean_codes(images.patches[some])
            for some in batches(rows, images.patches.shape[1:])
        ]
    )
    return rows[np.argsort(-values, axis=0, kind="stable")[:N_TOP].T]


def _table(facts: Sequence[Facts]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the facts that differ between frames, and where each is true: (n, n_facts)."""
    of_fact: dict[str, list[bool]] = {
        **{str(light): [one.light == light for one in facts] for light in LIGHTS},
        **{kind: [kind in one.kinds for one in facts] for kind in KINDS},
    }
    differing = {name: values for name, values in of_fact.items() if len(set(values)) > 1}
    return list(differing), np.array(list(differing.values()), np.float64).reshape(
        len(differing), len(facts)
    ).T


def _best(
    values: NDArray[np.float64], table: NDArray[np.float64], positions: Positions, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the fact that each feature follows most, with r and a corrected p."""
    n, n_facts = values.shape[1], table.shape[1]
    if not n_facts:
        return np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, np.nan)
    scaled = [one - one.mean(axis=0) for one in (values, table)]
    scaled = [one / np.maximum(np.linalg.norm(one, axis=0), 1e-12) for one in scaled]
    best = (scaled[0].T @ scaled[1]).argmax(axis=1)
    r, p = correlation_tests(values, table[:, best], positions, seed=seed)
    return best, r, np.minimum(1, p * n_facts)


def _top(values: NDArray[np.float64], captions: Sequence[str]) -> NDArray[np.int64]:
    """Return the positions of the largest values, of different captions as far as there are."""
    order = np.argsort(-values, kind="stable").tolist()
    of_caption: dict[str, int] = {}
    for position in order:
        of_caption.setdefault(captions[position], position)
    chosen = list(of_caption.values())[:N_TOP]
    rest = [position for position in order if position not in chosen]
    return np.array([*chosen, *rest[: N_TOP - len(chosen)]], np.int64)
