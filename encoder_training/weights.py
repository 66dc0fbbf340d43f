"""Weights of an encoder to a safetensors file and back, with variant and sizes in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch  # noqa: TID253 - this module is torch code
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from contracts.embedding import PatchGrid
from contracts.errors import UserError
from encoder_training.evidence.network import EvidenceEncoder, EvidenceSizes
from encoder_training.files import tensor_file
from encoder_training.model import EncoderNetwork, EncoderSpec, PatchEncoder
from encoder_training.options import Variant
from encoder_training.retrieval import ImageClassifier, RetrievalEncoder

SPEC_KEY = "encoder_spec"
"""The one entry of the file's metadata, JSON: sizes, and the variant where it is not ``patches``.
Of several entries the order is chance, and equal weights would be unequal files."""


def save_weights(model: EncoderNetwork, path: Path) -> None:
    """Write the state dict, the variant and the sizes, whole or not at all."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    header = asdict(model.spec)
    variant = variant_of(model)
    if variant != "patches":
        header["variant"] = variant
    if isinstance(model, EvidenceEncoder):
        header["sizes"] = asdict(model.sizes)
    with tensor_file(path) as partial:
        save_file(state, partial, metadata={SPEC_KEY: json.dumps(header)})


def variant_of(model: EncoderNetwork) -> Variant:
    """Return which encoder it is."""
    if isinstance(model, EvidenceEncoder):
        return "evidence"
    return "retrieval" if isinstance(model, RetrievalEncoder) else "patches"


def load_weights(path: Path) -> EncoderNetwork:
    """Read an encoder back, in evaluation mode.

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
        variant = sizes.pop("variant", "patches")
        grid = PatchGrid(**sizes.pop("grid"))
        kernels = tuple(sizes.pop("kernels"))
        of_data = sizes.pop("sizes", None)
        spec = EncoderSpec(grid=grid, kernels=kernels, **sizes)
        model = _empty(spec, variant, of_data, state)
        model.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} must hold an encoder's weights and its sizes ({SPEC_KEY!r}): {error!r}. "
            "Export the encoder again."
        ) from error
    return model.eval()


def _empty(
    spec: EncoderSpec,
    variant: str,
    of_data: dict[str, int] | None,
    state: dict[str, torch.Tensor],
) -> EncoderNetwork:
    if variant == "evidence" and of_data is not None:
        return EvidenceEncoder(spec, EvidenceSizes(**of_data))
    if variant == "patches":
        return PatchEncoder(spec)
    if variant == "retrieval":
        table = state["table"]
        return RetrievalEncoder(spec, ImageClassifier(spec, len(table)), torch.empty_like(table))
    raise ValueError(f"this build knows evidence, patches and retrieval, got {variant!r}")
