"""The losses of training, and the scale of the targets.

References
----------
NEURRATOR, arXiv 2606.18667, and its released code: half mean squared error, half one minus the
cosine of each patch; an optional symmetric InfoNCE on the mean patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - losses are torch code
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above
from torch.nn import Linear  # noqa: TID253 - as above
from torch.nn import functional as F  # noqa: TID253 - as above

from contracts.errors import MisuseError
from encoder_training.data_set.training_set import TrainingSet
from encoder_training.model import PatchEncoder

TEMPERATURE = 0.07
"""Of the InfoNCE (released code)."""

BLOCK_FRAMES = 256
"""Frames of targets that are read at once: 300 MB of float16 at the paper's 576 x 1024."""

SMALLEST_STD = 1e-6
"""A dimension of the targets that never changes is divided by this, and stays 0."""


@dataclass(frozen=True, slots=True)
class TargetScaling:
    """The scale on which patches are learned."""

    # (dim,): of the training targets, over frames and patches; 0 and 1 leave the patches as they
    # are
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    # (n_patches, dim): mean training target of each place: the prediction without spikes
    patch_mean: NDArray[np.float32]


def measure_targets(
    data: TrainingSet, rows: NDArray[np.int64], *, normalise: bool
) -> TargetScaling:
    """Measure the targets of some windows, each frame once.

    Without `normalise` mean is 0 and standard deviation 1: the patches are learned as they are.
    """
    frames = np.unique(data.frame[rows])
    _, n_patches, dim = data.targets.shape
    total = np.zeros((n_patches, dim))
    squares = np.zeros(dim)
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = data.targets[frames[first : first + BLOCK_FRAMES]].astype(np.float32)
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.square(block).sum(axis=(0, 1), dtype=np.float64)
    patch_mean = total / len(frames)
    mean = patch_mean.mean(axis=0)
    std = np.sqrt(np.maximum(squares / (len(frames) * n_patches) - mean**2, 0))
    if not normalise:
        mean, std = np.zeros(dim), np.ones(dim)
    return TargetScaling(
        mean.astype(np.float32),
        np.maximum(std, SMALLEST_STD).astype(np.float32),
        patch_mean.astype(np.float32),
    )


@torch.no_grad()
def fold_target_scaling(encoder: PatchEncoder, scaling: TargetScaling) -> None:
    """Change the output layer, in place, so that it gives patches on their own scale."""
    output, mean, std = _output_layer(encoder, scaling)
    output.weight.copy_(output.weight.double() * std[:, None])
    output.bias.copy_(output.bias.double() * std + mean)


@torch.no_grad()
def unfold_target_scaling(encoder: PatchEncoder, scaling: TargetScaling) -> None:
    """Do the opposite of `fold_target_scaling`: let an encoder of raw patches be trained on."""
    output, mean, std = _output_layer(encoder, scaling)
    output.weight.copy_(output.weight.double() / std[:, None])
    output.bias.copy_((output.bias.double() - mean) / std)


def _output_layer(encoder: PatchEncoder, scaling: TargetScaling) -> tuple[Linear, Tensor, Tensor]:
    output = encoder.out_proj[-1]
    if not isinstance(output, Linear) or output.out_features != len(scaling.mean):
        raise MisuseError(
            f"the encoder must end in a linear layer of {len(scaling.mean)} numbers, got {output}"
        )
    mean = torch.from_numpy(scaling.mean).to(output.weight.device, torch.float64)
    std = torch.from_numpy(scaling.std).to(output.weight.device, torch.float64)
    return output, mean, std


def patch_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the cosine of each patch.

    `predicted` and `target` are float32 of shape (n, n_patches, dim). Returns float32 of shape (n,
    n_patches).
    """
    return F.cosine_similarity(predicted, target, dim=-1)


def patch_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return half the mean squared error and half one minus the mean cosine, a scalar.

    `predicted` and `target` are float32 of shape (n, n_patches, dim).
    """
    error = F.mse_loss(predicted, target)
    return 0.5 * error + 0.5 * (1 - patch_cosine(predicted, target).mean())


def contrastive_loss(
    predicted: Tensor, target: Tensor, frame: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """Return the symmetric InfoNCE of mean patches, a scalar.

    Parameters
    ----------
    predicted, target : tensor, shape (n, n_patches, dim), float32
    frame : tensor, shape (n,), int64
        Which frame each is of; two windows of one frame are not treated as a negative pair.
    """
    left = F.normalize(predicted.mean(dim=1), dim=-1)
    right = F.normalize(target.mean(dim=1), dim=-1)
    # Under autocast the product alone would be in half precision, whose steps are as large as what
    # tells frames that look alike apart.
    with torch.autocast(left.device.type, enabled=False):
        logits = left @ right.T / temperature
    n = len(frame)
    is_same = (frame[:, None] == frame[None, :]) & ~torch.eye(
        n, dtype=torch.bool, device=frame.device
    )
    logits = logits.masked_fill(is_same, float("-inf"))
    own = torch.arange(n, device=frame.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
