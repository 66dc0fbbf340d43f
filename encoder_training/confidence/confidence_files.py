"""The calibration of confidence as files of a run, which an export copies into the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.atomic_files import write_json
from contracts.confidence import ARRAYS, CHANCE, CONFIDENCE_VERSION, FEATURES, ConfidenceFile
from contracts.manifest import CONFIDENCE, CONFIDENCE_ARRAYS, ENCODER_WEIGHTS, sha256_of
from encoder_training.confidence.results import FittedConfidence
from encoder_training.files import write_tensors

IN_HALF = ("patch_mean",)
"""Stored as float16, which it was rounded to when it was learned."""


def save_confidence(fitted: FittedConfidence, folder: Path) -> None:
    """Write ``confidence.json`` and ``confidence.safetensors``; nothing without a calibration.

    Files of an earlier calibration are removed, so that none is taken for that of other weights.
    """
    for name in (CONFIDENCE, CONFIDENCE_ARRAYS):
        (folder / name).unlink(missing_ok=True)
    model = fitted.model
    if model is None:
        return
    tensors = {name: np.ascontiguousarray(getattr(model.features, name)) for name in ARRAYS}
    for name in IN_HALF:
        tensors[name] = tensors[name].astype(np.float16)
    write_tensors(folder / CONFIDENCE_ARRAYS, tensors)
    weights = folder / ENCODER_WEIGHTS
    file = ConfidenceFile(
        version=CONFIDENCE_VERSION,
        chance=CHANCE,
        features=FEATURES,
        centre=tuple(model.centre.tolist()),
        spread=tuple(model.spread.tolist()),
        weight=tuple(model.weight.tolist()),
        offset=model.offset,
        n_windows=fitted.n_windows,
        n_groups=fitted.n_groups,
        weights_sha256=sha256_of(weights) if weights.is_file() else "",
        tested=fitted.to_json(),
    )
    write_json(folder / CONFIDENCE, file.model_dump())
