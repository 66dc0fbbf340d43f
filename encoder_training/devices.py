"""Where torch computes: what a user may write, and what it comes to on this machine."""

from __future__ import annotations

from contracts.errors import UserError


def resolve_device(name: str) -> str:
    """Return the device that "auto" comes to: a GPU if there is one. Others are their own name.

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
