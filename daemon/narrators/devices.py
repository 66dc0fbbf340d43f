"""The device that a back-end computes on, and the number format of its weights there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.errors import UserError

if TYPE_CHECKING:
    import torch


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

    ``auto`` is bfloat16 on a GPU and float32 on a CPU.

    Raises
    ------
    UserError
        If a CPU is to run a format narrower than float32, which some processors cannot.
    """
    import torch

    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if device == "cpu" and dtype != "float32":
        raise UserError(
            f"narrator.dtype must be float32 or auto on the device 'cpu', got {dtype!r}: "
            "narrower formats are for a GPU."
        )
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen
