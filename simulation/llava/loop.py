"""The training loop of both parts of the recipe, with a row of the log at intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - this module trains
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID253

from simulation.llava.schedule import StepBudget, cosine_rate

CLIP = 1.0
"""Largest norm of a gradient."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Batch size in pictures, AdamW's rates, and the steps between two rows of the log."""

    batch: int
    peak_rate: float
    weight_decay: float
    every: int


def take_steps(
    weights: Sequence[nn.Parameter],
    n_pictures: int,
    loss_of: Callable[[NDArray[np.int64]], Tensor],
    note: Callable[[int, float], None],
    *,
    clock: StepBudget,
    pace: LoopOptions,
    seed: int,
) -> None:
    """Train weights in place until the clock runs out; the learning rate follows it.

    Parameters
    ----------
    loss_of : callable
        Is given the rows of a batch.
    note : callable
        Is given the step and the mean loss since the last note, at the start and the end too.
    """
    optimizer = torch.optim.AdamW(weights, weight_decay=pace.weight_decay, fused=True)
    losses: list[float] = []
    for step, rows in enumerate(batches(n_pictures, pace.batch, seed)):
        done = clock.fraction(step)
        if step % pace.every == 0 or done >= 1:
            note(step, float(np.mean(losses or [np.nan])))
            losses.clear()
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(done, pace.peak_rate)
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        losses.append(loss.item())


def batches(n: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield rows in a random order, epoch after epoch, without end; of few rows all at once."""
    rng, size = np.random.default_rng(seed), min(size, n)
    while True:
        order = rng.permutation(n)
        for first in range(0, n - size + 1, size):
            yield order[first : first + size]
