"""Weights of an encoder to a safetensors file and back, with its sizes in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from contracts.embedding import PatchGrid
from contracts.errors import UserError
from encoder_training.model import EncoderSpec, PatchEncoder

SPEC_KEY = "encoder_spec"
"""Entry of the file's metadata that holds the sizes as JSON."""


def save_weights(model: PatchEncoder, path: Path) -> None:
    """Write the state dict and the sizes."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(state, path, metadata={SPEC_KEY: json.dumps(asdict(model.spec))})


def load_weights(path: Path) -> PatchEncoder:
    """Read an encoder back, in evaluation mode.

    Parameters
    ----------
    path : Path
        ``encoder.safetensors`` of a bundle.

    Returns
    -------
    PatchEncoder

    Raises
    ------
    UserError
        If the file is not one that `save_weights` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
        sizes = json.loads(metadata[SPEC_KEY])
        grid = PatchGrid(**sizes.pop("grid"))
        kernels = tuple(sizes.pop("kernels"))
        model = PatchEncoder(EncoderSpec(grid=grid, kernels=kernels, **sizes))
        model.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} must hold an encoder's weights and its sizes ({SPEC_KEY!r}): {error!r}. "
            "Export the encoder again."
        ) from error
    return model.eval()
