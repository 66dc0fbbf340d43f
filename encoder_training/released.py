"""A laboratory's own checkpoint, in the layout of the authors' public code, as an encoder.

The names of the state dict are those of `PatchEncoder`, so the sizes can be read off the shapes;
only the number of heads cannot. A checkpoint does not name its units: it fits a population of as
many units in the same order, which only its owner can check. Its counts were z-scored per unit
on its training data; the scaling is measured again on the data set at hand.

References
----------
NEURRATOR, arXiv 2606.18667, and its released code (MIT, repository ``arnaumarin/neurrator``).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - this module is torch code
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor  # noqa: TID253 - as above

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError, listed
from encoder_training.frames.hub import first_line
from encoder_training.model import EncoderSpec, PatchEncoder

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Entries under which a training script keeps the state dict beside its optimizer's."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before each name."""

PAPER_HEADS = 8


def load_released(
    path: Path, *, n_units: int, grid: PatchGrid, n_heads: int = PAPER_HEADS
) -> PatchEncoder:
    """Read a checkpoint of the released layout.

    `path` is ``.safetensors``, or what ``torch.save`` wrote: a state dict , or a dictionary
    that holds one as "model", "state_dict" or "model_state_dict". Nothing but tensors and plain
    values is unpickled.

    Raises
    ------
    UserError
        If it cannot be read or does not fit, with every name that is missing, unexpected or wrong.
    """
    state = _unwrapped(path, _read(path))
    if "multi_conv.branches.0.0.weight" in state:
        shape = state["multi_conv.branches.0.0.weight"].shape
        if len(shape) == 3 and shape[1] != n_units:
            raise UserError(
                f"{path} is of another population: it takes {shape[1]} units, the data set has "
                f"{n_units}. Prepare the data set with the units that it was trained on, in the "
                "same order, or train without --weights."
            )
    try:
        spec = _spec_of(state, n_units, grid, n_heads)
        encoder = PatchEncoder(spec)
    except (MisuseError, IndexError) as error:
        raise UserError(f"{path} has sizes that no encoder can have: {error}.") from error
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    problems = _problems(expected, {name: tuple(tensor.shape) for name, tensor in state.items()})
    if problems:
        raise UserError(
            f"{path} is no checkpoint of the released encoder for patches of {grid.n_patches} x "
            f"{grid.dim}: {'; '.join(problems)}. Compare it with encoder_training/model.py."
        )
    broken = [name for name, tensor in state.items() if not _is_sound(name, tensor)]
    if broken:
        raise UserError(
            f"weights must be finite, and variances (running_var) 0 or more; in {path} "
            f"{listed(broken)} are not. Did the training that made it run away?"
        )
    encoder.load_state_dict(state)
    return encoder.eval()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError,
    ) as error:  # fmt: skip
        raise UserError(
            f"{path} cannot be read as weights: {first_line(error)} Give a .safetensors file, or "
            "save the state dict alone: torch.save(model.state_dict(), path)."
        ) from error


def _is_sound(name: str, values: Tensor) -> bool:
    if not values.isfinite().all():
        return False
    return not name.endswith("running_var") or bool((values >= 0).all())


def _unwrapped(path: Path, content: Any) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not any(
        isinstance(tensor, Tensor) for tensor in content.values()
    ):
        raise UserError(
            f"{path} must hold a state dict, alone or as one of {', '.join(WRAPPERS)}; got "
            f"{listed(list(content)) if isinstance(content, Mapping) else type(content).__name__}."
        )
    prefix = re.compile(f"^(?:{'|'.join(map(re.escape, PREFIXES))})+")
    return {
        prefix.sub("", str(name)): tensor
        for name, tensor in content.items()
        if isinstance(tensor, Tensor)
    }


def _spec_of(state: dict[str, Tensor], n_units: int, grid: PatchGrid, n_heads: int) -> EncoderSpec:
    """Read the sizes off the shapes; what is missing is as in the paper."""
    paper = EncoderSpec(n_units, grid)

    def size(name: str, axis: int, default: int) -> int:
        return state[name].shape[axis] if name in state else default

    def layers(name: str) -> int:
        matches = [re.match(rf"{name}\.layers\.(\d+)\.", key) for key in state]
        return 1 + max((int(match[1]) for match in matches if match), default=1)

    n_branches = 1 + max(
        (int(m[1]) for m in (re.match(r"multi_conv\.branches\.(\d+)\.", n) for n in state) if m),
        default=len(paper.kernels) - 1,
    )
    branches = [f"multi_conv.branches.{number}.0.weight" for number in range(n_branches)]
    kernels = [*paper.kernels, *([paper.kernels[-1]] * n_branches)]
    return EncoderSpec(
        n_units,
        grid,
        width=size("patch_queries", 1, paper.width),
        n_heads=n_heads,
        feed_forward=size("transformer.layers.0.linear1.weight", 0, paper.feed_forward),
        conv_channels=size(branches[0], 0, paper.conv_channels),
        kernels=tuple(
            size(name, 2, default) for name, default in zip(branches, kernels, strict=False)
        ),
        time_layers=layers("transformer"),
        patch_layers=layers("patch_transformer"),
    )


def _problems(
    expected: dict[str, tuple[int, ...]], actual: dict[str, tuple[int, ...]]
) -> list[str]:
    missing = sorted(expected.keys() - actual.keys())
    unexpected = sorted(actual.keys() - expected.keys())
    shapes = [
        f"{name} is {actual[name]} and should be {expected[name]}"
        for name in sorted(expected.keys() & actual.keys())
        if actual[name] != expected[name]
    ]
    return [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
