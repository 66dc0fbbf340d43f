"""The training loop: windows through random populations, towards the patches of their frames.

All that changes lives in `_Run`, so that a checkpoint of it is a checkpoint of the training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above
from tqdm import tqdm

from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import MisuseError, UserError
from encoder_training.dataset import (
    Scaling,
    Split,
    TrainingSet,
    draw_validation_groups,
    measure_scaling,
    split,
)
from encoder_training.history import TrainingEpoch
from encoder_training.losses import (
    contrastive_loss,
    fold_target_scaling,
    measure_targets,
    patch_cosine,
    patch_loss,
)
from encoder_training.masking import PopulationMasks, masked_z
from encoder_training.model import EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training gives.

    Attributes
    ----------
    encoder : PatchEncoder
        With the weights of the best pass, on the CPU, in evaluation mode; gives raw patches.
    scaling : Scaling
        Of the counts it takes.
    history : tuple of TrainingEpoch
        One row for each pass.
    validation_groups : array, shape (n,), int64
        What was held out.
    """

    encoder: PatchEncoder
    scaling: Scaling
    history: tuple[TrainingEpoch, ...]
    validation_groups: NDArray[np.int64]


def train_encoder(
    spec: EncoderSpec,
    data: TrainingSet,
    options: TrainingOptions,
    on_epoch: Callable[[TrainingEpoch], None] | None = None,
    *,
    validation_groups: NDArray[np.int64] | None = None,
    parts: Split | None = None,
    clock: Clock | None = None,
) -> Trained:
    """Train an encoder.

    Parameters
    ----------
    spec : EncoderSpec
        Sizes, for the units and the patches of `data`.
    data : TrainingSet
        What to learn.
    options : TrainingOptions
        How.
    on_epoch : callable, optional
        Is given each row of the history as soon as it is known.
    validation_groups : array, shape (n,), int64, optional
        Groups to hold out; drawn at random if not given.
    parts : Split, optional
        The windows themselves; then no groups are drawn.
    clock : Clock, optional
        For `max_minutes` and the history.

    Returns
    -------
    Trained

    Raises
    ------
    MisuseError
        If spec, data and options do not fit each other.
    UserError
        If the windows cannot be split, or training runs away.
    """
    _check_fit(spec, data, options)
    if parts is None:
        if validation_groups is None:
            fraction = options.validation_fraction
            validation_groups = draw_validation_groups(data, fraction, seed=options.seed)
        parts = split(data, validation_groups)
    else:
        validation_groups = np.unique(data.group[parts.validation])
    device = torch.device(options.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        run = _Run(spec, data, parts, options, clock or HostClock())
        with tqdm(
            total=run.n_steps * options.batch_size,
            desc="training",
            unit="window",
            disable=None,
            file=sys.stderr,
        ) as bar:
            while not run.is_over:
                row = run.train_one_epoch(bar)
                bar.set_postfix(cosine=f"{row.validation_cosine:.3f}", skill=f"{row.skill:.3f}")
                if on_epoch is not None:
                    on_epoch(row)
        encoder = run.best_encoder()
    return Trained(encoder, run.scaling, tuple(run.history), validation_groups)


class _Run:
    """A training under way."""

    def __init__(
        self,
        spec: EncoderSpec,
        data: TrainingSet,
        parts: Split,
        options: TrainingOptions,
        clock: Clock,
    ) -> None:
        self.options, self.history = options, list[TrainingEpoch]()
        self.scaling = measure_scaling(data, parts.train)
        self._data, self._train = data, parts.train
        n_validation = min(len(parts.validation), options.max_validation_windows)
        thinned = np.linspace(0, len(parts.validation) - 1, n_validation).round()
        self._validation = parts.validation[thinned.astype(np.int64)]
        self._targets = measure_targets(data, parts.train, normalise=options.normalise)
        self._masks = PopulationMasks(data.population, options.masking)
        self._rng = np.random.default_rng(options.seed)
        self._device = torch.device(options.device)
        self._encoder = PatchEncoder(spec).to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._encoder.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        self._mean, self._std = self._to_device(self.scaling.mean, self.scaling.std)
        self._target_mean, self._target_std = self._to_device(self._targets.mean, self._targets.std)
        n_windows = min(options.windows_per_epoch or len(self._train), len(self._train))
        self._batch_size = min(options.batch_size, n_windows)
        self._steps_per_epoch = n_windows // self._batch_size
        self.n_steps = self._steps_per_epoch * options.training_epochs
        self._step, self._best_epoch, self._best_cosine = 0, 0, -np.inf
        self._best_state: dict[str, Tensor] = {}
        self._clock, self._started_ns = clock, clock.now_ns()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: no steps, no time, or no hope."""
        stale = len(self.history) - self._best_epoch >= self.options.patience
        return bool(self.history) and (stale or self._progress() >= 1)

    def train_one_epoch(self, bar: tqdm[None]) -> TrainingEpoch:
        """Go once over the training windows, or as far as time allows, and judge."""
        self._encoder.train()
        order = self._rng.permutation(self._train)
        losses: list[float] = []
        for first in range(0, self._steps_per_epoch * self._batch_size, self._batch_size):
            progress = self._progress()
            if progress >= 1 and losses:  # time is up
                break
            for group in self._optimizer.param_groups:
                group["lr"] = self.options.learning_rate_at(progress)
            losses.append(self._learn(order[first : first + self._batch_size]))
            self._step += 1
            bar.update(self._batch_size)
        row = self._judge(self._finite(float(np.mean(losses)), "training"))
        self._finite(row.validation_loss, "validation")
        self.history.append(row)
        if row.validation_cosine > self._best_cosine:
            self._best_cosine, self._best_epoch = row.validation_cosine, row.training_epoch
            self._best_state = {
                name: value.detach().cpu().clone()
                for name, value in self._encoder.state_dict().items()
            }
        return row

    def best_encoder(self) -> PatchEncoder:
        """Return the encoder of the best pass, which gives patches on their own scale."""
        encoder = PatchEncoder(self._encoder.spec)
        encoder.load_state_dict(self._best_state)
        fold_target_scaling(encoder, self._targets)
        return encoder.eval()

    def _finite(self, loss: float, which: str) -> float:
        if not np.isfinite(loss):
            raise UserError(
                f"the {which} loss must stay finite, it is {loss} after {self._step} steps. "
                f"Use a learning_rate below {self.options.learning_rate:g}, or look for targets "
                "that are not numbers."
            )
        return loss

    def _progress(self) -> float:
        """Return how much of the schedule is behind us, by steps or by the clock."""
        progress = self._step / self.n_steps
        if self.options.max_minutes is not None:
            progress = max(progress, self._elapsed_s() / (60 * self.options.max_minutes))
        return progress

    def _elapsed_s(self) -> float:
        return (self._clock.now_ns() - self._started_ns) / NS_PER_S

    def _learn(self, rows: NDArray[np.int64]) -> float:
        jitter = self.options.jitter_bins
        shift = self._rng.integers(-jitter, jitter + 1, size=len(rows))
        mask = self._masks.draw(len(rows), self._rng)
        predicted = self._predict(self._data.counts_of(rows, shift), mask)
        target = self._learned_targets(rows)
        loss = patch_loss(predicted, target)
        if self.options.contrastive:
            (frame,) = self._to_device(self._data.frame[rows])
            loss = loss + self.options.contrastive * contrastive_loss(predicted, target, frame)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._encoder.parameters(), self.options.clip)
        self._optimizer.step()
        return float(loss.detach())

    def _predict(self, counts: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Tensor:
        x, heard = self._to_device(counts, mask)
        z = masked_z(x.float(), self._mean, self._std, heard.float())
        is_half = self.options.precision == "bfloat16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_half):
            predicted: Tensor = self._encoder(z)
        return predicted.float()

    def _learned_targets(self, rows: NDArray[np.int64]) -> Tensor:
        (raw,) = self._to_device(self._data.targets_of(rows))
        return (raw - self._target_mean) / self._target_std

    @torch.no_grad()
    def _judge(self, train_loss: float) -> TrainingEpoch:
        """Compare with the held-out windows, all units heard."""
        self._encoder.eval()
        (patch_mean,) = self._to_device(self._targets.patch_mean)
        baseline = (patch_mean - self._target_mean) / self._target_std
        sums = np.zeros(5)
        for first in range(0, len(self._validation), self._batch_size):
            rows = self._validation[first : first + self._batch_size]
            everyone = np.ones((len(rows), self._data.n_units), dtype=np.bool_)
            predicted = self._predict(self._data.counts_of(rows), everyone)
            target = self._learned_targets(rows)
            raw = [each * self._target_std + self._target_mean for each in (predicted, target)]
            scores = (
                patch_loss(predicted, target),
                patch_cosine(predicted, target).mean(),
                patch_cosine(*raw).mean(),
                (predicted - target).square().mean(),
                (baseline - target).square().mean(),
            )
            sums += len(rows) * np.array([float(score) for score in scores])
        loss, cosine, raw_cosine, error, baseline_error = sums / len(self._validation)
        return TrainingEpoch(
            training_epoch=len(self.history) + 1,
            elapsed_s=self._elapsed_s(),
            n_windows=self._step * self._batch_size,
            learning_rate=self._optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            validation_loss=float(loss),
            validation_cosine=float(cosine),
            raw_cosine=float(raw_cosine),
            skill=float(1 - error / max(baseline_error, np.finfo(np.float64).tiny)),
        )

    def _to_device(self, *arrays: NDArray[np.generic]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self._device) for array in arrays]


def _check_fit(spec: EncoderSpec, data: TrainingSet, options: TrainingOptions) -> None:
    expected = (spec.grid.n_patches, spec.grid.dim)
    if data.n_units != spec.n_units or data.targets.shape[1:] != expected:
        raise MisuseError(
            f"the encoder takes {spec.n_units} units and gives patches of shape {expected}; the "
            f"data has {data.n_units} units and patches of shape {data.targets.shape[1:]}"
        )
    if options.jitter_bins > data.margin_bins:
        raise MisuseError(
            f"windows may be moved by {data.margin_bins} bins (margin_bins), jitter_bins is "
            f"{options.jitter_bins}. Align them with a wider margin."
        )
