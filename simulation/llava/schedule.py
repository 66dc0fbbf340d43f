"""How long a part of the recipe runs, and its learning rate over that time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

WARM_UP = 0.03
"""Share of the training in which the learning rate rises."""

LOWEST = 0.01
"""Learning rate at the end, as a share of the highest."""


@dataclass(frozen=True, slots=True)
class StepBudget:
    """Counts the steps of a training."""

    steps: int
    start_s: float = field(default_factory=time.monotonic)

    def fraction(self, step: int) -> float:
        """Return how much of the training is done before a step; 1 at the end."""
        return step / self.steps

    def minutes(self) -> float:
        """Return the minutes since the start, for the log."""
        return (time.monotonic() - self.start_s) / 60


def cosine_rate(done: float, peak: float) -> float:
    """Return the learning rate: a short rise, then half a cosine."""
    if done < WARM_UP:
        return peak * max(done, 1e-4) / WARM_UP
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))
    return peak * (LOWEST + (1 - LOWEST) * fall)
