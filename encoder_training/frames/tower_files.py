"""The files of a vision tower: its config, its image processor, its weights alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.errors import UserError
from encoder_training.frames.hub import first_line, quiet

if TYPE_CHECKING:
    from torch import Tensor

WHOLE_MODELS = ("clip", "siglip")
TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Model types of transformers whose folders are or hold a vision tower."""


def load_config(model: str, revision: str) -> Any:
    """Read the config of a model that holds a vision tower.

    Raises
    ------
    UserError
        If it is no model, or of a kind that encodes images otherwise.
    """
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(model, revision=revision or "main")
    except (OSError, ValueError) as error:
        if Path(model).is_dir():
            raise UserError(
                "the model must be the folder of a LLaVA, a CLIP or a SigLIP, and "
                f"{model!r} is not: {first_line(error)} Give the folder that holds config.json."
            ) from error
        raise UserError(
            "the model must be a folder, or the id of a model that can be fetched from the "
            f"Hugging Face hub, and {model!r} is neither: {first_line(error)} Give the folder of "
            "a LLaVA, or fetch the model first."
        ) from error
    if config.model_type in {"llava_next", "llava_next_video", "llava_onevision"}:
        raise UserError(
            f"the vision tower must see a picture as one grid, and {model!r} is a "
            f"{config.model_type}, which cuts it into several tiles of different number. Use a "
            "LLaVA-1.5."
        )
    if config.model_type not in {"llava", *WHOLE_MODELS, *TOWERS}:
        raise UserError(
            f"the model must be a LLaVA, a CLIP or a SigLIP, and {model!r} is a "
            f"{config.model_type}. Use one of these, for instance llava-hf/llava-1.5-7b-hf."
        )
    return config


def load_processor(model: str, revision: str) -> Any:
    """Load a model's image processor.

    Raises
    ------
    UserError
        If there is none.
    """
    from transformers import AutoImageProcessor

    try:
        # By name: without torchvision the default warns that it takes this one.
        return AutoImageProcessor.from_pretrained(model, revision=revision or "main", backend="pil")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model!r} has no image processor that can be read (preprocessor_config.json or "
            f"processor_config.json): {first_line(error)} Copy it from the model that the tower "
            "is from."
        ) from error


def load_tower(model: str, revision: str, vision: Any, *, is_llava: bool) -> Any:
    """Load a vision tower, and of a LLaVA nothing else where its weights are in safetensors.

    Raises
    ------
    UserError
        If weights are missing or cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    with torch.device("meta"):
        kind = type(AutoModel.from_config(vision))
    try:
        weights = _tower_weights(model, revision) if is_llava else None
        with quiet():
            if is_llava and weights is None:
                return _tower_of_whole(model, revision)
            tower, loaded = kind.from_pretrained(
                None if is_llava else model,
                config=vision,
                state_dict=weights,
                revision=revision or "main",
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the vision tower of {model!r} cannot be loaded: {first_line(error)} Fetch or copy "
            "the model again."
        ) from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise UserError(
            f"the model's files must hold the whole vision tower, and {len(missing)} weights are "
            f"not in {model!r}, the first {missing[0]}. Fetch or copy the model again."
        )
    return tower


def _tower_of_whole(model: str, revision: str) -> Any:
    import torch
    from transformers import LlavaForConditionalGeneration

    whole = LlavaForConditionalGeneration.from_pretrained(
        model, revision=revision or "main", dtype=torch.float32
    )
    return whole.model.vision_tower


def _tower_weights(model: str, revision: str) -> dict[str, Tensor] | None:
    """Read the vision tower's weights alone; None where they are not in safetensors."""
    from safetensors import safe_open

    weights: dict[str, Tensor] = {}
    for path in _weight_files(model, revision):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                _, separator, rest = name.rpartition("vision_tower.")
                if separator:
                    weights[rest] = file.get_tensor(name)
    return weights or None


def _weight_files(model: str, revision: str) -> list[str]:
    from transformers.utils import cached_file

    def fetch(name: str) -> str | None:
        path: str | None = cached_file(
            model,
            name,
            revision=revision or "main",
            _raise_exceptions_for_missing_entries=False,
        )
        return path

    index = fetch("model.safetensors.index.json")
    if index is None:
        single = fetch("model.safetensors")
        return [] if single is None else [single]
    shard_of = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    shards = sorted({shard for name, shard in shard_of.items() if "vision_tower." in name})
    paths = [fetch(shard) for shard in shards]
    missing = [shard for shard, path in zip(shards, paths, strict=True) if path is None]
    if missing:
        raise OSError(f"{missing[0]} is in the index and not in the folder.")
    return [path for path in paths if path is not None]
