"""Where and how precisely torch computes: the words of a user, resolved on this machine."""

from __future__ import annotations

from typing import Literal

from contracts.errors import UserError


def resolve_device(name: str) -> str:
    """Return the device to use; "auto" is a GPU if one is available, or the CPU.

    Parameters
    ----------
    name : str
        As torch names it, or "auto".

    Returns
    -------
    device : str
        One that is there: ``cpu``, ``cuda`` or ``cuda:N``.

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
