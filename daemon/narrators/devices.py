"""The device that a back-end computes on, and the number format of its weights there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from contracts.errors import UserError

if TYPE_CHECKING:
    import torch


LOG = logging.getLogger(__name__)

BFLOAT16_SINCE = (8, 0)
"""Compute capability from which GPUs multiply bfloat16 (CUDA C++ Programming Guide, table
"Arithmetic Instructions"); older ones emulate it, at a tenth of the speed of float16."""


def has_bfloat16(device: str) -> bool:
    """Whether a GPU multiplies bfloat16; also true where no GPU can be asked."""
    import torch

    if not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE


def torch_device(device: str) -> str:
    """Resolve ``narrator.device`` to ``cpu``, ``cuda`` or ``cuda:1``.

    ``auto`` takes a GPU if there is one.

    Raises
    ------
    UserError
        If a GPU is asked for and there is none.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device.startswith("cuda") and not has_cuda:
        raise UserError(
            f"narrator.device is {device!r} and torch {torch.__version__} sees no NVIDIA GPU. "
            "Use cpu or auto."
        )
    return device


def weights_dtype(dtype: str, device: str) -> torch.dtype:
    """Resolve ``narrator.dtype`` for a language model.

    ``auto`` is float32 on a CPU, and on a GPU bfloat16, or float16 where that is not built in.

    Raises
    ------
    UserError
        If a CPU is to run a format narrower than float32, which some processors cannot, or a GPU
        one that it would emulate.
    """
    import torch

    if device == "cpu":
        if dtype in {"auto", "float32"}:
            return torch.float32
        raise UserError(
            f"narrator.dtype must be float32 or auto on the device 'cpu', got {dtype!r}: "
            "narrower formats are for a GPU."
        )
    if dtype in {"auto", "bfloat16"} and not has_bfloat16(device):
        generation = ".".join(map(str, torch.cuda.get_device_capability(device)))
        reason = (
            f"bfloat16 needs a GPU of compute capability {'.'.join(map(str, BFLOAT16_SINCE))}, and "
            f"{torch.cuda.get_device_name(device)} has {generation}"
        )
        if dtype == "bfloat16":
            raise UserError(f"narrator.dtype is bfloat16: {reason}. Use float16, float32 or auto.")
        LOG.warning("the narrator's weights are float16: %s", reason)
        return torch.float16
    chosen: torch.dtype = getattr(torch, "bfloat16" if dtype == "auto" else dtype)
    return chosen
