"""The training loop: windows through random populations, towards the patches of their frames.

All that changes lives in `TrainingRun`. After each pass its state may go to a checkpoint; a
training that was killed and is started again gives the same weights, bit for bit, as one that was
not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: TID253 - as above
from tqdm import tqdm

from contracts.clock import Clock, HostClock
from contracts.errors import MisuseError
from encoder_training.checkpoint import fingerprint, read_checkpoint, write_checkpoint
from encoder_training.data_set.training_set import (
    Scaling,
    Split,
    TrainingSet,
    draw_validation_groups,
    split,
)
from encoder_training.devices import resolve_device
from encoder_training.history import TrainingEpoch
from encoder_training.model import EncoderNetwork, EncoderSpec, PatchEncoder
from encoder_training.options import TrainingOptions
from encoder_training.training_run import TrainingRun


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What training gives.

    Attributes
    ----------
    encoder : EncoderNetwork
        With the weights of the best pass, on the CPU, in evaluation mode; gives raw patches.
    scaling : Scaling
        Of the counts it takes.
    history : tuple of TrainingEpoch
        One row for each pass.
    validation_groups : array, shape (n,), int64
        What was held out.
    """

    encoder: EncoderNetwork
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
    initial: PatchEncoder | None = None,
    checkpoint: Path | None = None,
    on_resume: Callable[[tuple[TrainingEpoch, ...]], None] | None = None,
) -> TrainingResult:
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
    initial : PatchEncoder, optional
        Whose weights to begin with, instead of random ones; gives raw patches.
    checkpoint : Path, optional
        Written after each pass. If it is there, training goes on from it; its time counts for
        `max_minutes`, up to the last whole pass.
    on_resume : callable, optional
        Is given the history so far, when training goes on from a checkpoint.

    Returns
    -------
    TrainingResult

    Raises
    ------
    MisuseError
        If spec, data and options do not fit each other.
    UserError
        If the windows cannot be split, training runs away, or the checkpoint is of another
        training or cannot be read.

    Notes
    -----
    On a GPU, torch is told to be deterministic; products of matrices are so only if
    ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` stands in the environment when the process starts
    (docs.nvidia.com, cuBLAS, "Results reproducibility"). ``neurrate train`` sets it.
    """
    options = replace(options, device=resolve_device(options.device))
    _check_fit(spec, data, options, initial)
    if parts is None:
        if validation_groups is None:
            fraction = options.validation_fraction
            validation_groups = draw_validation_groups(data, fraction, seed=options.seed)
        parts = split(data, validation_groups)
    else:
        validation_groups = np.unique(data.group[parts.validation])
    device = torch.device(options.device)
    with (
        _repeatable(device),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(options.seed)
        run = TrainingRun(spec, data, parts, options, clock or HostClock(), initial)
        settings = {"options": asdict(options), "spec": asdict(spec)}
        depends_on = fingerprint(data, parts, settings, initial)
        if checkpoint is not None and checkpoint.exists():
            run.restore(read_checkpoint(checkpoint, depends_on))
            if on_resume is not None:
                on_resume(tuple(run.history))
        with tqdm(
            total=run.n_steps * options.batch_size,
            initial=run.step * options.batch_size,
            desc="training",
            unit="window",
            disable=None,
            file=sys.stderr,
        ) as bar:
            while not run.is_over:
                row = run.train_one_epoch(bar)
                bar.set_postfix(cosine=f"{row.validation_cosine:.3f}", skill=f"{row.skill:.3f}")
                if checkpoint is not None:
                    write_checkpoint(checkpoint, run.state(depends_on))
                if on_epoch is not None:
                    on_epoch(row)
        encoder = run.best_encoder()
    return TrainingResult(encoder, run.scaling, tuple(run.history), validation_groups)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU give the same numbers every time, as far as it can. A CPU does.

    The attention for float32 that saves memory adds in any order (pytorch.org, "Reproducibility"),
    so it is not among those to choose from.
    """
    if device.type != "cuda":
        yield
        return
    was_on = torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=was_warning)


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
