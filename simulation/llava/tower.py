"""First part of the recipe: a CLIP vision tower trained on labels of patches.

CLIP's contrastive training needs far more pictures than a laptop can draw. Here each patch has a
label for what stands on it, and each picture has its facts. Linear heads, discarded afterwards,
read both from the layer that LLaVA uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - this module trains
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from simulation.llava.loop import LoopOptions, take_steps
from simulation.llava.pictures import HEADINGS, IGNORED, FactLabels, Pictures, fact_labels
from simulation.llava.schedule import StepBudget
from simulation.llava.sizes import VISION_WIDTH
from simulation.scenes.facts import DISTANCES, KINDS, LIGHTS, MAX_COUNT
from simulation.tiny_llava import CLIP_MEAN, CLIP_STD

PACE = LoopOptions(batch=128, peak_rate=1.5e-3, weight_decay=0.05, every=100)
PIXEL_NOISE = 6.0
"""Grey values, standard deviation: so that no single pixel is trusted."""

PATCH_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class TowerRow:
    """One row of the log: losses since the last, and accuracies on the validation pictures."""

    step: int
    minutes: float
    loss: float
    subject: float
    count: float
    heading: float
    distance: float
    light: float


class FactHeads(nn.Module):
    """Linear classifiers on the patches, used only while the tower is trained."""

    def __init__(self, width: int = VISION_WIDTH) -> None:
        super().__init__()
        self.patch_kind = nn.Linear(width, len(KINDS) + 1)
        self.patch_heading = nn.Linear(width, len(HEADINGS))
        self.patch_distance = nn.Linear(width, len(DISTANCES))
        self.kinds = nn.Linear(width, len(KINDS))
        self.subject = nn.Linear(width, len(KINDS))
        self.count = nn.Linear(width, MAX_COUNT)
        self.heading = nn.Linear(width, len(HEADINGS))
        self.distance = nn.Linear(width, len(DISTANCES))
        self.light = nn.Linear(width, len(LIGHTS))


def pixel_values(pixels: NDArray[np.uint8]) -> Tensor:
    """Normalise grey pictures as CLIP's processor does: shape (n, 3, side, side), float32."""
    grey = torch.from_numpy(pixels).float()[:, None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (grey - mean) / std


def patches_of(tower: nn.Module, values: Tensor) -> Tensor:
    """Return what LLaVA reads: the layer before the last, without the class token.

    Shape (n_pictures, n_patches, dim), float32.
    """
    hidden = tower(values, output_hidden_states=True).hidden_states
    patches: Tensor = hidden[-2][:, 1:]
    return patches


def train_tower(
    tower: nn.Module,
    training: Pictures,
    validation: Pictures,
    clock: StepBudget,
    *,
    seed: int,
    on_row: Callable[[TowerRow], None],
) -> None:
    """Train the tower in place until the clock runs out; the learning rate follows it."""
    torch.manual_seed(seed)
    heads = FactHeads()
    weights = [*tower.parameters(), *heads.parameters()]
    labels, wanted = fact_labels(training.facts), fact_labels(validation.facts)

    def loss_of(rows: NDArray[np.int64]) -> Tensor:
        values = pixel_values(training.pixels[rows])
        noise = torch.randn(len(rows), 1, *values.shape[2:]) * (PIXEL_NOISE / 255 / 0.27)
        return _loss(heads, patches_of(tower, values + noise), training, labels, rows)

    def note(step: int, loss: float) -> None:
        accuracies = _accuracies(tower, heads, validation, wanted)
        on_row(TowerRow(step, clock.minutes(), loss, *accuracies))

    tower.train()
    take_steps(weights, len(training), loss_of, note, clock=clock, pace=PACE, seed=seed)
    tower.eval()


def _loss(
    heads: FactHeads,
    patches: Tensor,
    pictures: Pictures,
    labels: FactLabels,
    rows: NDArray[np.int64],
) -> Tensor:
    loss = torch.zeros(())
    for name in ("patch_kind", "patch_heading", "patch_distance"):
        wanted = torch.from_numpy(getattr(pictures, name)[rows])
        logits = getattr(heads, name)(patches)
        loss = loss + PATCH_WEIGHT * F.cross_entropy(
            logits.transpose(1, 2), wanted, ignore_index=IGNORED
        )
    whole = patches.mean(dim=1)
    present = torch.from_numpy(labels.kinds[rows])
    loss = loss + F.binary_cross_entropy_with_logits(heads.kinds(whole), present)
    for name in ("subject", "count", "heading", "distance", "light"):
        wanted = torch.from_numpy(getattr(labels, name)[rows])
        loss = loss + F.cross_entropy(getattr(heads, name)(whole), wanted)
    return loss


@torch.inference_mode()
def _accuracies(
    tower: nn.Module, heads: FactHeads, pictures: Pictures, labels: FactLabels
) -> list[float]:
    tower.eval()
    whole = torch.cat(
        [
            patches_of(tower, pixel_values(pictures.pixels[first : first + PACE.batch])).mean(dim=1)
            for first in range(0, len(pictures), PACE.batch)
        ]
    )
    tower.train()
    return [
        float((getattr(heads, name)(whole).argmax(1).numpy() == getattr(labels, name)).mean())
        for name in ("subject", "count", "heading", "distance", "light")
    ]
