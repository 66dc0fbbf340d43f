"""The state of a training in one file, to resume it exactly.

Tensors (weights, the moments of the optimizer, the best weights, the state of torch's generators)
are tensors of a safetensors file, the rest is JSON in its header. There is no pickle. The file is
whole or not there (`contracts.atomic_files`): a process that is killed at any moment leaves the
last whole checkpoint.

The fingerprint holds what a training depends on. A checkpoint of another one is refused, with what
differs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn  # noqa: TID253 - tensors are what is kept

from contracts.errors import UserError
from encoder_training.data_set.training_set import Scaling, Split, TrainingSet
from encoder_training.files import tensor_file

CHECKPOINT_VERSION = 1
STATE_KEY = "training_state"
"""Entry of the file's metadata that holds everything but the tensors, as JSON."""

N_SAMPLED = 4096
"""Rows of the counts, and patches, whose content is part of the fingerprint: gigabytes are not read
for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state between two passes."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def fingerprint(
    data: TrainingSet,
    parts: Split,
    settings: dict[str, Any],
    initial: nn.Module | None,
    scaling: Scaling | None = None,
) -> dict[str, Any]:
    """Return what a training depends on.

    `settings` are options and sizes, as JSON can hold them; `scaling` is None where it is measured
    on the data. The result is flat: dotted names and plain values. Windows, frames, groups and
    parts are hashed whole, counts and patches in a sample.
    """
    rows = np.unique(np.linspace(0, len(data.counts) - 1, N_SAMPLED).astype(np.int64))
    rows_of_patches = data.targets.reshape(-1, data.targets.shape[-1])
    patches = np.unique(np.linspace(0, len(rows_of_patches) - 1, N_SAMPLED).astype(np.int64))
    facts = {
        "data.units": data.population.fingerprint,
        "data.window": json.dumps(asdict(data.window)),
        "data.windows": _digest(data.first_bin, data.frame, data.group),
        "data.parts": _digest(parts.train, parts.validation),
        "data.counts": _digest(np.array(data.counts.shape), data.counts[rows]),
        "data.patches": _digest(np.array(data.targets.shape), rows_of_patches[patches]),
        "initial_weights": "none",
    }
    if initial is not None:
        state = initial.state_dict()
        facts["initial_weights"] = _digest(*(state[name].cpu().numpy() for name in sorted(state)))
    if scaling is not None:
        facts["scaling"] = _digest(scaling.mean, scaling.std)
    return {**facts, **flat(settings)}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    state = {"checkpoint_version": CHECKPOINT_VERSION, **checkpoint.state}
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    with tensor_file(path) as partial:
        save_file(tensors, partial, metadata={STATE_KEY: json.dumps(state)})


def read_checkpoint(path: Path, expected: dict[str, Any]) -> Checkpoint:
    """Read a checkpoint of one training.

    `expected` is the `fingerprint` of the training to resume.

    Raises
    ------
    UserError
        If it cannot be read, or is of another training.
    """
    advice = "Remove it to begin anew."
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[STATE_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        version, saved = state["checkpoint_version"], state["fingerprint"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} must be the checkpoint of a training, it cannot be read: {error!r}. {advice}"
        ) from error
    if version != CHECKPOINT_VERSION:
        raise UserError(
            f"{path} has checkpoint_version {version}, this build reads {CHECKPOINT_VERSION}. "
            f"{advice}"
        )
    expected = json.loads(json.dumps(expected))  # tuples are lists in the file
    differ = [
        f"{name} ({saved.get(name)} there, {expected.get(name)} here)"
        for name in sorted({*saved, *expected})
        if saved.get(name) != expected.get(name)
    ]
    if differ:
        raise UserError(
            f"{path} is of another training; these differ: {', '.join(differ)}. Train as before "
            f"to go on, or remove it to begin anew."
        )
    return Checkpoint(tensors, state)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of settings as one level, so that two can be compared by name."""
    level: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            level |= flat(value, f"{prefix}{name}.")
        else:
            level[prefix + name] = value
    return level


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
