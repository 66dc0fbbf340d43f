"""Where and how precisely torch computes: the words of a user, resolved on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from contracts.errors import UserError

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)


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
    """Return the precision to use; "auto" is bfloat16 on a GPU that has it, else float32.

    bfloat16 is tried first, a convolution and a product with their gradients: processors and GPUs
    differ in what they can. Where it fails float32 is used, with a warning.
    """
    if name == "float32" or (name == "auto" and not device.startswith("cuda")):
        return "float32"
    reason = _bfloat16_problem(device)
    if reason:
        LOG.warning("training in float32, for bfloat16 does not run on %s: %s", device, reason)
        return "float32"
    return "bfloat16"


def _bfloat16_problem(device: str) -> str:
    """Return why mixed precision does not run on a device; empty if it does."""
    import torch

    try:
        if device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0):
            return "it needs compute capability 8.0"
        with (
            torch.random.fork_rng(devices=[]),
            torch.autocast(device.partition(":")[0], torch.bfloat16),
        ):
            network = torch.nn.Sequential(
                torch.nn.Conv1d(4, 8, 3, padding=1), torch.nn.Linear(16, 4)
            )
            network.to(device)(torch.ones(2, 4, 16, device=device)).float().sum().backward()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""


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
