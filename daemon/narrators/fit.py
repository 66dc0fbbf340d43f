"""Whether a language model fits a bundle: its patch grid, and the layer that the patches stand for.

Shared by every back-end that hands patches to a LLaVA. It needs only the model's config, so that a
model that does not fit is refused before any weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import UserError
from contracts.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """What a LLaVA's projector takes of its vision tower, for one picture."""

    n: int
    dim: int  # numbers in each
    feature_layer: int | tuple[int, ...]
    select_strategy: str


def image_tokens(config: Any) -> ImageTokens:
    """Read off a ``LlavaConfig`` what its projector takes."""
    vision = config.vision_config
    n_tokens = (vision.image_size // vision.patch_size) ** 2
    # CLIP puts a token for the class before its patches, SigLIP none; "default" drops the first.
    n_tokens += vision.model_type == "clip_vision_model"
    n_tokens -= config.vision_feature_select_strategy == "default"
    layers = config.vision_feature_layer
    if not isinstance(layers, int):
        layers = layers[0] if len(layers) == 1 else tuple(layers)
    n_layers = len(layers) if isinstance(layers, tuple) else 1
    return ImageTokens(
        n_tokens, n_layers * vision.hidden_size, layers, config.vision_feature_select_strategy
    )


def check_fit(name: str, config: Any, manifest: Manifest) -> None:
    """Refuse a model whose projector takes patches of another shape or layer than the bundle's.

    Raises
    ------
    UserError
        With both sides' numbers, if one of them differs.
    """
    if config.model_type != "llava":
        raise UserError(f"the language model must be a LLaVA, {name!r} is a {config.model_type}")
    grid, wanted, tokens = manifest.patch_grid, manifest.model.language_model, image_tokens(config)
    facts = (
        ("image tokens", grid.n_patches, tokens.n),
        ("numbers in an image token", grid.dim, tokens.dim),
        ("feature layer", wanted.feature_layer, tokens.feature_layer),
        ("select strategy", wanted.select_strategy, tokens.select_strategy),
    )
    problems = [
        f"{fact}: the bundle has {ours}, the model {theirs}"
        for fact, ours, theirs in facts
        if ours != theirs
    ]
    if problems:
        raise UserError(
            f"the bundle {manifest.folder} was made for {wanted.model_id!r} and does not fit the "
            f"language model {name!r}. {'; '.join(problems)}. Use the model it was made for."
        )


def check_folder(name: str) -> None:
    """Refuse a path that is no folder, rather than ask the hub for it, which takes half a minute.

    Raises
    ------
    UserError
        With the working directory that it is relative to.
    """
    is_path = name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1
    if is_path and not Path(name).is_dir():
        raise UserError(
            f"the language model must be the folder of a LLaVA or the id of one on the Hugging "
            f"Face hub, and {name!r} is no such folder, seen from {Path.cwd()}. Set narrator.model "
            "to a folder that is there."
        )
