"""How sure each decoding of the daemon is, from the calibration in the bundle.

See contracts/confidence.py for the features, and docs/decisions/0026-confidence.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from contracts.confidence import (
    ARRAYS,
    CHANCE,
    FEATURES_OF_VERSION,
    ConfidenceFile,
    ConfidenceModel,
    WindowFeatures,
)
from contracts.embedding import PatchEmbedding
from contracts.errors import ManifestError
from contracts.manifest import CONFIDENCE, CONFIDENCE_ARRAYS, Manifest
from contracts.population import Selection


class ConfidenceEstimator:
    """Says how sure the decoding of a window through one of the populations is."""

    def __init__(
        self, model: ConfidenceModel, manifest: Manifest, selections: Sequence[Selection]
    ) -> None:
        self._model = model
        self._mean, self._std = manifest.unit_mean, manifest.unit_std
        self._rows = {selection.name: _Rows.of(selection) for selection in selections}

    def of(self, embedding: PatchEmbedding) -> float | None:
        """Return the confidence, `CHANCE` to 1.

        None where no unit is sent, or the encoder gave numbers that are not finite. Called on the
        fast loop; takes 60 us for patches of 8 x 8 x 96 and 515 units, 180 us for 24 x 24 x 1024
        and 2,000 units, on one core of a server.
        """
        if embedding.is_unseen:
            return None
        rows, window = self._rows[embedding.population], embedding.window
        z = (window.counts.mean(axis=0, dtype=np.float32) - self._mean) / self._std
        mask = rows.mask
        if window.absent_units is not None:
            mask = np.where(window.absent_units[rows.order], np.float32(0), mask)
        with np.errstate(all="ignore"):  # what is not finite becomes NaN, and that None
            features = self._model.features.of(
                embedding.patches[np.newaxis], z[np.newaxis, rows.order], mask[np.newaxis]
            )
            confidence = float(self._model.probability(features)[0])
        return confidence if math.isfinite(confidence) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What each row of the encoder's input holds for one population."""

    order: NDArray[np.intp]  # the unit whose spikes it gets
    mask: NDArray[np.float32]

    @classmethod
    def of(cls, selection: Selection) -> _Rows:
        return cls(selection.order(), selection.mask.astype(np.float32))


def load_confidence_of(
    manifest: Manifest, selections: Sequence[Selection]
) -> Callable[[PatchEmbedding], float | None]:
    """Return what says how sure a decoding is: None always, for a bundle without calibration.

    Raises
    ------
    ManifestError
        As `load_confidence`.
    """
    model = load_confidence(manifest)
    if model is None:
        return lambda _: None
    return ConfidenceEstimator(model, manifest, selections).of


def load_confidence(manifest: Manifest) -> ConfidenceModel | None:
    """Read the bundle's calibration; None if it has none.

    Raises
    ------
    ManifestError
        If one of its two files is not what it should be, with every problem found.
    """
    path, arrays_path = manifest.file(CONFIDENCE), manifest.file(CONFIDENCE_ARRAYS)
    if path is None and arrays_path is None:
        return None
    folder = str(manifest.folder)
    if path is None or arrays_path is None:
        raise ManifestError(folder, f"{CONFIDENCE} and {CONFIDENCE_ARRAYS} belong together")
    try:
        file = ConfidenceFile.model_validate_json(path.read_bytes())
        tensors = load_file(arrays_path)
        arrays = {name: tensors[name] for name in ARRAYS}
    except (OSError, ValidationError, SafetensorError, KeyError, ValueError) as error:
        raise ManifestError(
            folder, f"{CONFIDENCE} or {CONFIDENCE_ARRAYS} cannot be read: {error}. Export again"
        ) from error
    problems = [*_file_problems(file), *_array_problems(arrays, manifest)]
    if problems:
        raise ManifestError(folder, *problems)
    arrays = {
        name: array if name == "place" else array.astype(np.float32)
        for name, array in arrays.items()
    }
    return ConfidenceModel(
        WindowFeatures(**arrays),
        centre=np.array(file.centre),
        spread=np.array(file.spread),
        weight=np.array(file.weight),
        offset=file.offset,
    )


def _file_problems(file: ConfidenceFile) -> list[str]:
    problems = []
    features = FEATURES_OF_VERSION.get(file.version)
    if features is None:
        known = " and ".join(map(str, FEATURES_OF_VERSION))
        return [f"{CONFIDENCE} is of version {file.version}, this build reads {known}"]
    if file.features != features or file.chance != CHANCE:
        problems.append(
            f"{CONFIDENCE} must have the features {', '.join(features)} and the chance {CHANCE}, "
            f"got {', '.join(file.features)} and {file.chance}"
        )
    lengths = {name: len(getattr(file, name)) for name in ("centre", "spread", "weight")}
    problems += [
        f"{CONFIDENCE}: {name} must have {len(features)} numbers, got {length}"
        for name, length in lengths.items()
        if length != len(features)
    ]
    if any(spread <= 0 for spread in file.spread):
        problems.append(f"{CONFIDENCE}: spread must be above 0, got {file.spread}")
    return problems


def _array_problems(arrays: Mapping[str, NDArray[np.generic]], manifest: Manifest) -> list[str]:
    grid, n_units = manifest.patch_grid, len(manifest.population)
    place, component = arrays["place"], arrays["component"]
    n_components = component.shape[-1] if component.ndim else 0
    shapes = {
        "place": (place.size,),
        "patch_mean": (place.size, grid.dim),
        "inverse_std": (grid.dim,),
        "component": (grid.dim, n_components),
        "response": (n_components, n_units),
        "inverse_noise": (n_units,),
    }
    problems = [
        f"{CONFIDENCE_ARRAYS}: {name} must be finite numbers of shape {shape}, got "
        f"{arrays[name].dtype} of shape {arrays[name].shape}"
        for name, shape in shapes.items()
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all()
    ]
    is_place = np.issubdtype(place.dtype, np.integer) and place.size > 0
    if not is_place or place.min() < 0 or place.max() >= grid.n_patches:
        problems.append(
            f"{CONFIDENCE_ARRAYS}: place must be one or more patches of {grid}, as whole numbers"
        )
    return problems
