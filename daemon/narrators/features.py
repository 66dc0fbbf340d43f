"""Names the sparse features that stand out in what was decoded, beside each narration.

The file is written by ``neurrate evaluate sparse-features``; see contracts/feature_file.py and
docs/decisions/0049-live-features.md. torch is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from contracts.embedding import PatchEmbedding
from contracts.errors import UserError
from contracts.feature_file import (
    ARRAYS,
    FEATURES_FILE,
    FEATURES_VERSION,
    METADATA,
    FeatureEncoder,
    FeatureFile,
)
from contracts.manifest import LanguageModel, Manifest
from contracts.narration import MAX_FEATURES, NamedFeature, Provenance
from daemon.narrators.protocol import EndedRow, Narrator, PartialRow

FeatureSet = Literal["unique", "all"]

LEAST_Z = 0.5
"""Standard deviations above the mean of the training frames. Lower, units in wrong places name some
at every moment (docs/decisions/0049-live-features.md)."""

SMALLEST_STD = 1e-9
"""A feature that varies less over the training frames is dead."""


class FeatureNamer:
    """Finds the features that are most above their mean over the training frames."""

    def __init__(
        self,
        file: FeatureFile,
        arrays: Mapping[str, NDArray[np.float32]],
        feature_set: FeatureSet,
    ) -> None:
        is_shown = np.array([feature_set == "all" or bool(names) for names in file.unique_to])
        self._shown = np.flatnonzero(is_shown & (arrays["reference_std"] > SMALLEST_STD))
        self._names = file.names
        self._encoder = FeatureEncoder(
            file.k, file.scale, arrays["mean"], arrays["encoder"], arrays["bias"]
        )
        self._mean = arrays["reference_mean"][self._shown]
        self._std = arrays["reference_std"][self._shown]

    def of(self, embedding: PatchEmbedding) -> tuple[NamedFeature, ...]:
        """Return at most `MAX_FEATURES` that stand out, of different names, the largest first."""
        with np.errstate(all="ignore"):  # what is not finite is above nothing
            codes = self._encoder.mean_codes(embedding.patches)
            z = (codes[self._shown] - self._mean) / self._std
        z = np.where(np.isfinite(z), z, 0)
        of_name: dict[str, NamedFeature] = {}
        for at in np.argsort(-z, kind="stable").tolist():
            if z[at] < LEAST_Z or len(of_name) == MAX_FEATURES:
                break
            feature = int(self._shown[at])
            name = self._names[feature]
            of_name.setdefault(name, NamedFeature(feature, name, float(z[at])))
        return tuple(of_name.values())


class FeatureNarrator:
    """A narrator whose utterances have the features of their embeddings."""

    def __init__(self, narrator: Narrator, namer: FeatureNamer) -> None:
        self._narrator, self._namer = narrator, namer
        self._pending: dict[int, dict[int, PatchEmbedding]] = {}  # by window, then by row

    @property
    def provenance(self) -> Provenance:
        """What makes the narrations."""
        return self._narrator.provenance

    @property
    def n_rows(self) -> int:
        """Rows that are active, or wait for their turn."""
        return self._narrator.n_rows

    def has_room(self, n: int) -> bool:
        """See `Narrator.has_room`."""
        return self._narrator.has_room(n)

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """See `Narrator.begin`."""
        self._pending[batch_id] = dict(enumerate(embeddings))
        self._narrator.begin(batch_id, embeddings, with_partials=with_partials)

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """See `Narrator.step`. Features come after the last word, so that none waits for them."""
        return [
            self._with_features(event) if isinstance(event, EndedRow) else event
            for event in self._narrator.step()
        ]

    def cancel(self, batch_id: int) -> None:
        """See `Narrator.cancel`."""
        self._pending.pop(batch_id, None)
        self._narrator.cancel(batch_id)

    def close(self) -> None:
        """See `Narrator.close`."""
        self._narrator.close()

    def _with_features(self, ended: EndedRow) -> EndedRow:
        rows = self._pending[ended.batch_id]
        features = self._namer.of(rows.pop(ended.row))
        if not rows:
            del self._pending[ended.batch_id]
        return replace(ended, utterance=replace(ended.utterance, features=features))


def load_features(path: Path, manifest: Manifest, feature_set: FeatureSet) -> FeatureNamer:
    """Read a file of features for the patches of a bundle.

    Raises
    ------
    UserError
        If it cannot be read, or is not of these patches, with every problem found.
    """
    try:
        with safe_open(path, framework="np") as opened:
            file = FeatureFile.model_validate_json((opened.metadata() or {}).get(METADATA, ""))
            arrays = {name: opened.get_tensor(name) for name in ARRAYS}
    except (OSError, TypeError, ValidationError, SafetensorError) as error:  # TypeError: bfloat16
        raise UserError(
            f"narrator.features must be the {FEATURES_FILE} that 'neurrate evaluate "
            f"sparse-features' writes into its folder of results, and {path} cannot be read as "
            f"one: {error}. Make it again."
        ) from error
    problems = _problems(file, arrays, manifest, feature_set)
    if problems:
        raise UserError(f"narrator.features, {path}: " + "; ".join(problems))
    return FeatureNamer(file, arrays, feature_set)


def _problems(
    file: FeatureFile,
    arrays: Mapping[str, NDArray[np.generic]],
    manifest: Manifest,
    feature_set: FeatureSet,
) -> list[str]:
    if file.version != FEATURES_VERSION:
        return [f"its version is {file.version}, this build reads {FEATURES_VERSION}"]
    ours, theirs = manifest.model.language_model, file.language_model
    problems = []
    # Folders may lie elsewhere on another computer, and a hub's id ends in the model's name.
    if _tower(ours) != _tower(theirs):
        problems.append(
            f"its features are of the patches of {theirs.model_id} (layer {theirs.feature_layer}, "
            f"{theirs.select_strategy}), and the bundle's are those of {ours.model_id} (layer "
            f"{ours.feature_layer}, {ours.select_strategy}). Evaluate this bundle, or one of the "
            "same language model"
        )
    grid, n = manifest.patch_grid, len(file.names)
    of_file = file.patch_grid
    if (of_file.rows, of_file.cols, of_file.dim) != (grid.rows, grid.cols, grid.dim):
        return [
            *problems,
            f"its patches are {of_file.rows} x {of_file.cols} of {of_file.dim} numbers, and the "
            f"bundle's {grid.rows} x {grid.cols} of {grid.dim}",
        ]
    shapes = {name: (n, grid.dim) if name in {"encoder", "atoms"} else (n,) for name in ARRAYS}
    shapes["mean"] = (grid.n_patches, grid.dim)
    problems += [
        f"{name} must be finite float32 of shape {shape}, got {arrays[name].dtype} of shape "
        f"{arrays[name].shape}"
        for name, shape in shapes.items()
        if arrays[name].shape != shape
        or arrays[name].dtype != np.float32
        or not np.isfinite(arrays[name]).all()
    ]
    if len(file.unique_to) != n or not 1 <= file.k <= n:
        problems.append(f"k and unique_to must be of its {n} features")
    elif feature_set == "unique" and not any(file.unique_to):
        problems.append(
            "none of its features is unique to a population. Set narrator.feature_set to all"
        )
    return problems


def _tower(model: LanguageModel) -> tuple[str, int | tuple[int, ...], str]:
    return Path(model.model_id).name, model.feature_layer, model.select_strategy
