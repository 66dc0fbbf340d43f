"""Where and how precisely torch computes: the words of a user, resolved on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from contracts.errors import UserError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> str:
    """Return the device to use; "auto" is a GPU if one is available, or the CPU.

    Raises
    ------
    UserError
        If torch does not know the name, or the GPU is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}.") from error
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    is_there = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < n_gpus)
    if not is_there:
        raise UserError(
            f"device {name!r} is not there. Use auto, or cpu; 'neurrate doctor' says what is there."
        )
    return name


def resolve_precision(
    name: Literal["auto", "float32", "bfloat16"], device: str
) -> Literal["float32", "bfloat16"]:
    """Return the precision to use; "auto" is bfloat16 on a GPU, float32 on a CPU."""
    if name == "auto":
        return "bfloat16" if device.startswith("cuda") else "float32"
    return name


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Make a GPU give the same numbers every time, as far as it can. A CPU does.

    The attention for float32 that saves memory adds in any order (pytorch.org, "Reproducibility"),
    so it is not among those to choose from.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

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
