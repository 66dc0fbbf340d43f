"""The device that a back-end computes on."""

from __future__ import annotations

from contracts.errors import UserError


def torch_device(device: str) -> str:
    """Resolve ``narrator.device``.

    Parameters
    ----------
    device : str
        ``auto`` takes a GPU if there is one.

    Returns
    -------
    device : str
        ``cpu``, ``cuda`` or ``cuda:1``.

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
