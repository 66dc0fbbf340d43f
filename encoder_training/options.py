"""How an encoder is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.errors import MisuseError
from encoder_training.masking import MaskingOptions

Variant = Literal["evidence", "patches", "retrieval"]
"""The evidence encoder, and two of the paper's."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The defaults are the paper's, but for warm-up, masking and normalised targets.

    Those of the evidence encoder are `TrainingOptions.evidence`.
    """

    training_epochs: int = 60  # Passes over the training windows, at most
    batch_size: int = 64  # Windows in one step
    learning_rate: float = 3e-4
    weight_decay: float = 1e-3
    clip: float = 1.0
    # Part of the schedule over which the learning rate rises, before its cosine falls to 0
    warm_up: float = 0.05
    patience: int = 12
    jitter_bins: int = 2  # Each window is moved by up to so many bins either way, at random
    # Windows in a pass, drawn anew each time; None takes them all. Neighbours are much alike.
    windows_per_epoch: int | None = None
    # Steps in a pass, at least: where windows are few, they are drawn again, with other masks
    fewest_steps: int = 1
    validation_fraction: float = 0.1
    max_validation_windows: int = 2048  # More are thinned out evenly
    contrastive: float = 0.0
    # Learn targets of mean 0 and standard deviation 1 in each dimension; the scale is folded into
    # the output layer at the end. False is the paper's way.
    normalise: bool = True
    # Of matrix products. On a CPU measure first: docs/decisions/0009.
    precision: Literal["float32", "bfloat16"] = "float32"
    # Training ends by then, with the learning rate at 0: the schedule follows the clock where that
    # is ahead of the steps. None is needed for the same weights every time.
    max_minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    variant: Variant = "patches"
    masking: MaskingOptions = field(default_factory=MaskingOptions)

    def __post_init__(self) -> None:
        at_least_one = {
            name: getattr(self, name)
            for name in ("training_epochs", "batch_size", "patience", "max_validation_windows")
        }
        too_small = {name: value for name, value in at_least_one.items() if value < 1}
        if too_small or self.jitter_bins < 0 or not 0 <= self.warm_up < 1:
            raise MisuseError(
                f"{', '.join(at_least_one)} must be 1 or more, jitter_bins 0 or more, warm_up "
                f"from 0 to below 1; got {too_small}, {self.jitter_bins}, {self.warm_up}"
            )
        if self.variant == "retrieval" and self.contrastive:
            raise MisuseError("the retrieval variant has no contrastive loss; leave it at 0")
        if self.variant == "evidence" and self.precision != "float32":
            raise MisuseError(
                "the evidence encoder is trained in float32: log likelihoods go into the "
                f"thousands, where {self.precision} knows every eighth number"
            )
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise MisuseError(f"max_minutes must be above 0, got {self.max_minutes}")

    @classmethod
    def evidence(cls, **changes: Any) -> TrainingOptions:
        """Return the defaults of the evidence encoder, with changes."""
        defaults: dict[str, Any] = {
            "variant": "evidence",
            "training_epochs": 20,
            "learning_rate": 1e-3,
            "fewest_steps": 24,
        }
        return cls(**{**defaults, **changes})

    def learning_rate_at(self, progress: float) -> float:
        """Return the learning rate after a part of the schedule, from 0 to 1.

        >>> options = TrainingOptions(learning_rate=1.0, warm_up=0.1)
        >>> [round(options.learning_rate_at(x), 3) for x in (0.05, 0.1, 0.55, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
        """
        if progress < self.warm_up:
            return self.learning_rate * progress / self.warm_up
        fall = (min(progress, 1.0) - self.warm_up) / (1 - self.warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * fall))
