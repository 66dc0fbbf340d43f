"""The training loop: windows through random populations, towards the patches of their frames.

All state that changes is in `TrainingRun`. After each pass it may go to a checkpoint; a training
that was killed and is resumed gives the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID253 - as above

from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import MisuseError, UserError
from contracts.progress import ProgressBar
from encoder_training.checkpoint import (
    Checkpoint,
    fingerprint,
    read_checkpoint,
    write_checkpoint,
)
from encoder_training.data_set.training_set import (
    Scaling,
    Split,
    TrainingSet,
    draw_validation_groups,
    measure_scaling,
    split,
    thinned,
)
from encoder_training.devices import repeatable, resolve_device
from encoder_training.history import TrainingEpoch
from encoder_training.losses import measure_targets, patch_cosine, patch_loss
from encoder_training.masking import PopulationMasks, masked_z
from encoder_training.model import EncoderNetwork, EncoderSpec, PatchEncoder
from encoder_training.objectives import Objective, Targets, make_objective
from encoder_training.options import TrainingOptions


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What training gives."""

    encoder: EncoderNetwork
    scaling: Scaling
    history: tuple[TrainingEpoch, ...]
    validation_groups: NDArray[np.int64]  # (n,): what was held out
    kept_pass: int = 0  # Whose weights these are, from 1; 0 if nothing was trained


def train_encoder(
    spec: EncoderSpec,
    data: TrainingSet,
    options: TrainingOptions,
    on_epoch: Callable[[TrainingEpoch], None] | None = None,
    *,
    validation_groups: NDArray[np.int64] | None = None,
    parts: Split | None = None,
    clock: Clock | None = None,
    initial: PatchEncoder | None = None,
    scaling: Scaling | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[tuple[TrainingEpoch, ...]], None] | None = None,
    make: Callable[..., Objective] = make_objective,
) -> TrainingResult:
    """Train an encoder.

    Without `parts` the groups `validation_groups` are held out, or groups that are drawn. `initial`
    gives raw patches; its weights are those to begin with. Counts are scaled by `scaling`, or as
    measured on the training windows. `checkpoint` is written after each pass. If it exists,
    training resumes from it; its time counts for `max_minutes`, up to the last whole pass. `make`
    makes the objective, as `make_objective` does.

    Raises
    ------
    MisuseError
        If spec, data and options do not fit each other.
    UserError
        If windows cannot be split, training diverges, or the checkpoint is of another training.

    Notes
    -----
    On a GPU, torch is set to be deterministic; products of matrices are so only if
    ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` stands in the environment when the process starts
    (docs.nvidia.com, cuBLAS, "Results reproducibility"). ``neurrate train`` sets it.
    """
    options = replace(options, device=resolve_device(options.device))
    _check_fit(spec, data, options, initial)
    if parts is not None:
        validation_groups = np.unique(data.group[parts.validation])
    elif validation_groups is None:
        fraction = options.validation_fraction
        validation_groups = draw_validation_groups(data, fraction, seed=options.seed)
    parts = parts or split(data, validation_groups)
    device = torch.device(options.device)
    with (
        repeatable(device),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(options.seed)
        run = TrainingRun(spec, data, parts, options, clock or HostClock(), initial, scaling, make)
        settings = {"options": asdict(options), "spec": asdict(spec)}
        depends_on = fingerprint(data, parts, settings, initial, scaling)
        if checkpoint is not None and checkpoint.exists():
            run.restore(read_checkpoint(checkpoint, depends_on))
            if on_resume is not None:
                on_resume(tuple(run.history))
        done, total = (steps * options.batch_size for steps in (run.step, run.n_steps))
        with ProgressBar(total=total, initial=done, desc="training", unit="window") as bar:
            while not run.is_over:
                row = run.train_one_epoch(bar)
                bar.set_postfix(cosine=f"{row.validation_cosine:.3f}", skill=f"{row.skill:.3f}")
                if checkpoint is not None:
                    write_checkpoint(checkpoint, run.state(depends_on))
                if on_epoch is not None:
                    on_epoch(row)
        encoder = run.kept_encoder()
    return TrainingResult(
        encoder, run.scaling, tuple(run.history), validation_groups, run.kept_pass
    )


class TrainingRun:
    """A training under way: its network, its optimizer, its generators and its history.

    `n_steps` are the steps in all, `step` those done.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        data: TrainingSet,
        parts: Split,
        options: TrainingOptions,
        clock: Clock,
        initial: PatchEncoder | None = None,
        scaling: Scaling | None = None,
        make: Callable[..., Objective] = make_objective,
    ) -> None:
        self.options, self.history = options, list[TrainingEpoch]()
        self.scaling = scaling or measure_scaling(data, parts.train)
        self._data, self._train = data, parts.train
        self._validation = thinned(parts.validation, options.max_validation_windows)
        self._masks = PopulationMasks(data.population, options.masking)
        self._rng = np.random.default_rng(options.seed)
        self._device = torch.device(options.device)
        self._targets = Targets(
            data, measure_targets(data, parts.train, normalise=options.normalise), self._device
        )
        self._objective = make(spec, self._targets, self.scaling, parts, options, initial)
        self._network = self._objective.network.to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        self._mean, self._std = self._to_device(self.scaling.mean, self.scaling.std)
        n_windows = min(options.windows_per_epoch or len(self._train), len(self._train))
        self._batch_size = min(options.batch_size, n_windows)
        self._steps_per_epoch = max(n_windows // self._batch_size, options.fewest_steps)
        self.n_steps = self._steps_per_epoch * options.training_epochs
        self.step, self._kept_pass, self._kept_cosine = 0, 0, -np.inf
        self._kept_state: dict[str, Tensor] = {}
        self._clock, self._started_ns = clock, clock.now_ns()

    @property
    def is_over(self) -> bool:
        """Whether training ends: no steps or time left, or no improvement for too long."""
        stale = len(self.history) - self._kept_pass >= self.options.patience
        return bool(self.history) and (stale or self._progress() >= 1)

    @property
    def kept_pass(self) -> int:
        """The pass whose weights are kept, from 1."""
        return self._kept_pass

    def train_one_epoch(self, bar: ProgressBar) -> TrainingEpoch:
        """Make the steps of a pass, or those that time allows, and validate."""
        self._network.train()
        n_drawn = self._steps_per_epoch * self._batch_size
        orders = [
            self._rng.permutation(self._train) for _ in range(-(-n_drawn // len(self._train)))
        ]
        order = np.concatenate(orders)
        losses: list[float] = []
        for first in range(0, n_drawn, self._batch_size):
            progress = self._progress()
            if progress >= 1 and losses:  # time is up
                break
            for group in self._optimizer.param_groups:
                group["lr"] = self.options.learning_rate_at(progress)
            losses.append(self._learn(order[first : first + self._batch_size]))
            self.step += 1
            bar.update(self._batch_size)
        row = self._validate(self._finite(float(np.mean(losses)), "training"))
        self._finite(row.validation_loss, "validation")
        self.history.append(row)
        if self._objective.keeps_last or row.validation_cosine > self._kept_cosine:
            self._kept_cosine, self._kept_pass = row.validation_cosine, row.training_epoch
            self._kept_state = {
                name: value.detach().cpu().clone()
                for name, value in self._network.state_dict().items()
            }
        return row

    def kept_encoder(self) -> EncoderNetwork:
        """Return the encoder of the pass that is kept, which gives patches on their own scale."""
        return self._objective.encoder(self._kept_state)

    def state(self, depends_on: dict[str, Any]) -> Checkpoint:
        """Return all that changes, between two passes."""
        tensors = {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._kept_state.items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
        tensors["generator.cpu"] = torch.random.get_rng_state()
        if self._device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self._device)
        state = {
            "fingerprint": depends_on,
            "numpy_generator": self._rng.bit_generator.state,
            "history": [asdict(row) for row in self.history],
            "step": self.step,
            "best_epoch": self._kept_pass,
            "best_cosine": self._kept_cosine,
            "elapsed_ns": self._clock.now_ns() - self._started_ns,
        }
        return Checkpoint(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a state of the same training."""
        state = checkpoint.state
        self._network.load_state_dict(_below("network.", checkpoint.tensors))
        self._kept_state = _below("best.", checkpoint.tensors)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", checkpoint.tensors).items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.random.set_rng_state(checkpoint.tensors["generator.cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.tensors["generator.cuda"], self._device)
        self._rng.bit_generator.state = state["numpy_generator"]
        self.history = [TrainingEpoch(**row) for row in state["history"]]
        self.step, self._kept_pass = state["step"], state["best_epoch"]
        self._kept_cosine = state["best_cosine"]
        self._started_ns = self._clock.now_ns() - state["elapsed_ns"]

    def _finite(self, loss: float, which: str) -> float:
        if not np.isfinite(loss):
            raise UserError(
                f"the {which} loss must stay finite, it is {loss} after {self.step} steps. "
                f"Use a learning_rate below {self.options.learning_rate:g}, or look for targets "
                "that are not numbers."
            )
        return loss

    def _progress(self) -> float:
        """Return the share of the schedule that is done, by steps or by the clock."""
        progress = self.step / self.n_steps
        if self.options.max_minutes is not None:
            progress = max(progress, self._elapsed_s() / (60 * self.options.max_minutes))
        return progress

    def _elapsed_s(self) -> float:
        return (self._clock.now_ns() - self._started_ns) / NS_PER_S

    def _learn(self, rows: NDArray[np.int64]) -> float:
        jitter = self.options.jitter_bins
        shift = self._rng.integers(-jitter, jitter + 1, size=len(rows))
        mask = self._masks.draw(len(rows), self._rng)
        with self._precision():
            loss = self._objective.loss(*self._z(self._data.counts_of(rows, shift), mask), rows)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self.options.clip)
        self._optimizer.step()
        return float(loss.detach())

    def _z(self, counts: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        x, selected = self._to_device(counts, mask)
        selected = selected.float()
        return masked_z(x.float(), self._mean, self._std, selected), selected

    def _precision(self) -> torch.autocast:
        is_half = self.options.precision == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_half)

    @torch.no_grad()
    def _validate(self, train_loss: float) -> TrainingEpoch:
        """Score the held-out windows, all units selected."""
        self._network.eval()
        self._objective.fit_on_validation()
        mean, std = self._targets.mean, self._targets.std
        (patch_mean,) = self._to_device(self._targets.scaling.patch_mean)
        baseline = (patch_mean - mean) / std
        sums = np.zeros(5)
        for first in range(0, len(self._validation), self._batch_size):
            rows = self._validation[first : first + self._batch_size]
            all_units = np.ones((len(rows), self._data.n_units), dtype=np.bool_)
            with self._precision():
                predicted = self._objective.patches(*self._z(self._data.counts_of(rows), all_units))
            target = self._targets.of_windows(rows)
            raw = [grid * std + mean for grid in (predicted, target)]
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
            n_windows=self.step * self._batch_size,
            learning_rate=self._optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            validation_loss=float(loss),
            validation_cosine=float(cosine),
            raw_cosine=float(raw_cosine),
            skill=float(1 - error / max(baseline_error, np.finfo(np.float64).tiny)),
        )

    def _to_device(self, *arrays: NDArray[np.generic]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self._device) for array in arrays]


def _check_fit(
    spec: EncoderSpec, data: TrainingSet, options: TrainingOptions, initial: PatchEncoder | None
) -> None:
    expected = (spec.grid.n_patches, spec.grid.dim)
    if data.n_units != spec.n_units or data.targets.shape[1:] != expected:
        raise MisuseError(
            f"the encoder takes {spec.n_units} units and gives patches of shape {expected}; the "
            f"data has {data.n_units} units and patches of shape {data.targets.shape[1:]}"
        )
    if initial is not None and (initial.spec != spec or options.variant != "patches"):
        raise MisuseError(
            f"weights to begin with must be of the variant patches and of the same sizes: {spec}, "
            f"got {initial.spec} for the variant {options.variant}"
        )
    if options.jitter_bins > data.margin_bins:
        raise MisuseError(
            f"windows may be moved by {data.margin_bins} bins (margin_bins), jitter_bins is "
            f"{options.jitter_bins}. Align them with a wider margin."
        )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
