"""A laboratory's own checkpoint, in the layout of the authors' public code, as an encoder.

The names of the state dict are those of `PatchEncoder`, or but for two those of `ImageClassifier`,
so the sizes can be read off the shapes; only the number of heads cannot. A checkpoint does not name
its units: it fits a population of as many units in the same order, which only its owner can check.
The statistics by which its counts were z-scored are in a file of their own (`released_zscore`).

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

import numpy as np
import torch  # noqa: TID253 - this module is torch code
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn  # noqa: TID253 - as above

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError, listed
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.frames.hub import first_line
from encoder_training.model import EncoderNetwork, EncoderSpec, PatchEncoder
from encoder_training.released_images import FRAME_TO_CLASS, image_rows
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Entries under which a training script keeps the state dict beside its optimizer's."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before each name."""

PAPER_HEADS = 8

RETRIEVAL_NAMES = {"pool.": "pool_query.", "out_proj.": "head."}
"""How names of `ImageClassifier` begin, and those of a released checkpoint for them."""

NUMPY_SCALAR = np.int64(0).__reduce__()[0]
NUMPY_INTEGERS: list[Any] = [
    *((NUMPY_SCALAR, f"{core}.multiarray.scalar") for core in ("numpy._core", "numpy.core")),
    np.dtype, np.dtypes.Int32DType, np.dtypes.Int64DType,
]  # fmt: skip
"""What a pickled NumPy integer is made of, by the names of NumPy 2 and 1. Numbers of frames that
come out of an array are such; nothing here runs code of the file."""


def load_released(
    path: Path, prepared: PreparedSet, *, n_heads: int = PAPER_HEADS
) -> EncoderNetwork:
    """Read a checkpoint of the released layout, of either variant.

    `path` is ``.safetensors``, or what ``torch.save`` wrote: a state dict, or a dictionary
    that holds one as "model", "state_dict" or "model_state_dict". Nothing but tensors and plain
    values is unpickled. The patches that a retrieval checkpoint gives are those of `prepared`.

    Raises
    ------
    UserError
        If it cannot be read or does not fit, with every name that is missing, unexpected or wrong.
    """
    content = _read(path)
    state = _unwrapped(path, content)
    _check_population(path, state, len(prepared.population))
    is_retrieval = any(name.startswith(tuple(RETRIEVAL_NAMES.values())) for name in state)
    try:
        spec = _spec_of(state, len(prepared.population), prepared.grid, n_heads)
        n_outputs = max(1, _size(state, "head.1.weight", 0, 1))
        network = ImageClassifier(spec, n_outputs) if is_retrieval else PatchEncoder(spec)
    except (MisuseError, IndexError) as error:
        raise UserError(f"{path} has sizes that no encoder can have: {error}.") from error
    _check_weights(path, state, network)
    network.load_state_dict(
        {name: state[_released(name, network)] for name in network.state_dict()}
    )
    if isinstance(network, PatchEncoder):
        return network.eval()
    rows = image_rows(path, prepared, n_outputs, _frame_to_class(content))
    table = torch.from_numpy(np.array(prepared.targets[rows]))
    return RetrievalEncoder(spec, network, table).eval()


def _check_population(path: Path, state: dict[str, Tensor], n_units: int) -> None:
    if "multi_conv.branches.0.0.weight" in state:
        shape = state["multi_conv.branches.0.0.weight"].shape
        if len(shape) == 3 and shape[1] != n_units:
            raise UserError(
                f"{path} is of another population: it takes {shape[1]} units, the data set has "
                f"{n_units}. Prepare the data set with the units that it was trained on, in the "
                "same order, or train without --weights."
            )


def _check_weights(path: Path, state: dict[str, Tensor], network: nn.Module) -> None:
    """Check that a state dict fits the network, and holds what training gives.

    Raises
    ------
    UserError
        If not.
    """
    expected = {
        _released(name, network): tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
    }
    problems = _problems(expected, {name: tuple(tensor.shape) for name, tensor in state.items()})
    if problems:
        what, where = "retrieval encoder", "retrieval.py"
        if isinstance(network, PatchEncoder):
            grid = network.spec.grid
            what, where = f"encoder for patches of {grid.n_patches} x {grid.dim}", "model.py"
        raise UserError(
            f"{path} is no checkpoint of the released {what}: {'; '.join(problems)}. Compare it "
            f"with encoder_training/{where}."
        )
    broken = [name for name, tensor in state.items() if not _is_sound(name, tensor)]
    if broken:
        raise UserError(
            f"weights must be finite, and variances (running_var) 0 or more; in {path} "
            f"{listed(broken)} are not. Did the training that made it run away?"
        )


def _released(name: str, network: nn.Module) -> str:
    """Return what a released checkpoint calls a tensor of ours."""
    if isinstance(network, ImageClassifier):
        for ours, theirs in RETRIEVAL_NAMES.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
    return name


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(NUMPY_INTEGERS):
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


def _frame_to_class(content: Mapping[str, Any]) -> object:
    """Return that entry of a checkpoint, beside its state dict or in it; None if it has none."""
    inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    return next((one[FRAME_TO_CLASS] for one in (content, *inner) if FRAME_TO_CLASS in one), None)


def _spec_of(state: dict[str, Tensor], n_units: int, grid: PatchGrid, n_heads: int) -> EncoderSpec:
    """Read the sizes off the shapes; what is missing is as in the paper."""
    paper = EncoderSpec(n_units, grid)

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
        width=_size(state, "patch_queries", 1, _size(state, "input_proj.0.weight", 0, paper.width)),
        n_heads=n_heads,
        feed_forward=_size(state, "transformer.layers.0.linear1.weight", 0, paper.feed_forward),
        conv_channels=_size(state, branches[0], 0, paper.conv_channels),
        kernels=tuple(
            _size(state, name, 2, default) for name, default in zip(branches, kernels, strict=False)
        ),
        time_layers=layers("transformer"),
        patch_layers=layers("patch_transformer"),
    )


def _size(state: dict[str, Tensor], name: str, axis: int, default: int) -> int:
    return state[name].shape[axis] if name in state else default


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
