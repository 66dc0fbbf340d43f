"""Whether a language model fits a bundle: its patch grid, and the layer that the patches stand for.

Shared by every back-end that hands patches to a LLaVA. It needs only the model's config, so that a
model that does not fit is refused before any weights are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.errors import UserError
from contracts.manifest import Manifest


def check_fit(name: str, config: Any, manifest: Manifest) -> None:
    """Refuse a model whose projector takes patches of another shape or layer than the bundle's.

    Raises
    ------
    UserError
        With both sides' numbers, if one of them differs.
    """
    if config.model_type != "llava":
        raise UserError(f"the language model must be a LLaVA, {name!r} is a {config.model_type}")
    vision, grid, wanted = config.vision_config, manifest.patch_grid, manifest.model.language_model
    n_patches = (vision.image_size // vision.patch_size) ** 2
    # CLIP puts a token for the class before its patches, SigLIP none; "default" drops the first.
    n_patches += vision.model_type == "clip_vision_model"
    n_patches -= config.vision_feature_select_strategy == "default"
    layers = config.vision_feature_layer
    if not isinstance(layers, int):
        layers = layers[0] if len(layers) == 1 else tuple(layers)
    n_layers = len(layers) if isinstance(layers, tuple) else 1
    facts = (
        ("image tokens", grid.n_patches, n_patches),
        ("numbers in an image token", grid.dim, n_layers * vision.hidden_size),
        ("feature layer", wanted.feature_layer, layers),
        ("select strategy", wanted.select_strategy, config.vision_feature_select_strategy),
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
