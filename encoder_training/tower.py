"""What a vision-language model sees in pictures: the patches that its projector is given.

Only the vision tower is loaded, not the language model: of LLaVA-1.5 0.6 of 14 GB. Layer and
strategy are the model's own, and the patches equal what transformers hands to the projector.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError
from contracts.manifest import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor

CLIP_LAYER = -2
"""The layer that LLaVA reads, for towers that come without a LLaVA (Liu et al., arXiv 2304.08485,
section 4.1)."""

WHOLE_MODELS = ("clip", "siglip")
TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Model types of transformers whose folders are or hold a vision tower."""

SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})/?$")
"""A folder in the cache of the Hugging Face hub: the model's id and its commit."""


class VisionTower:
    """The vision tower of a LLaVA, or of a CLIP or SigLIP alone.

    Parameters
    ----------
    model : str
        Folder of the model, or its id on the Hugging Face hub.
    device : str
        ``cpu`` or ``cuda``. On a GPU the tower runs in mixed precision, float16.
    revision : str
        Commit of a model on the hub; empty takes the newest.

    Attributes
    ----------
    grid : PatchGrid
        Of the patches of a picture. With the strategy ``full``, whose tokens are one more than a
        square's, it is one row.
    language_model : LanguageModel
        The model, its commit if known, and its layer and strategy.
    precision : str
        ``float32``, or ``float16`` on a GPU.

    Raises
    ------
    UserError
        If it is no such model, or has no image processor, or its patches are no square.
    """

    def __init__(self, model: str, *, device: str = "cpu", revision: str = "") -> None:
        _check_folder(model)
        _check_device(device)
        config = _config(model, revision)
        is_llava = config.model_type == "llava"
        vision = config if config.model_type in TOWERS else config.vision_config
        self._side = _side(model, vision)
        self._layers = _layers(config.vision_feature_layer if is_llava else CLIP_LAYER)
        self._processor = _processor(model, revision)
        tower = _tower(model, revision, vision, is_llava=is_llava)
        self._device = device
        self._tower = tower.to(device).eval()
        has_class = any("class_embedding" in name for name, _ in tower.named_parameters())
        strategy = "default" if has_class else "full"
        if is_llava:
            strategy = config.vision_feature_select_strategy
        self._first = int(strategy == "default")
        self.precision = "float16" if device.startswith("cuda") else "float32"
        model_id, commit = _name(model, config)
        self.language_model = LanguageModel(
            model_id=model_id,
            revision=revision or commit,
            feature_layer=self._layers[0] if len(self._layers) == 1 else tuple(self._layers),
            select_strategy=strategy,
        )
        self.grid = self._measure_grid(model)

    def patches(self, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return what the tower sees in frames.

        Parameters
        ----------
        frames : array, shape (n, height, width) or (n, height, width, 3), uint8
            Grey or colour; the model's own processor brings them to its size.

        Returns
        -------
        patches : array, shape (n, n_patches, dim), float16
            Row-major over the grid.

        Raises
        ------
        MisuseError
            If the frames are of another kind.
        UserError
            If a patch holds a number that float16 does not.
        """
        import torch

        if frames.dtype != np.uint8 or frames.ndim not in {3, 4}:
            raise MisuseError(
                "frames must be uint8 of shape (n, height, width[, 3]), got "
                f"{frames.dtype} {frames.shape}"
            )
        half = self._features(frames).half()
        if not bool(torch.isfinite(half).all()):
            raise UserError(
                f"the patches of {self.language_model.model_id} must fit into float16, and some "
                "are above 65,504 or not numbers. Use another layer or another model."
            )
        patches: NDArray[np.float16] = half.cpu().numpy()
        return patches

    def sha256(self) -> str:
        """Return the sha256 of all that the patches depend on but the frames and the machine.

        Returns
        -------
        sha256 : str
            Over the weights, the layers, the strategy and the image processor's settings.
        """
        facts = {
            "layers": self._layers,
            "strategy": self.language_model.select_strategy,
            "processor": json.loads(self._processor.to_json_string()),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, weight in sorted(self._tower.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy())
        return digest.hexdigest()

    def _features(self, frames: NDArray[np.uint8]) -> Tensor:
        # Before they are cut to float16, shape (n, n_patches, dim).
        import torch
        from PIL import Image

        pictures = [Image.fromarray(frame).convert("RGB") for frame in frames]
        values = self._processor(pictures, return_tensors="pt").pixel_values
        if values.shape[2:] != (self._side, self._side):
            raise UserError(
                f"the image processor of {self.language_model.model_id} must make pictures of "
                f"{self._side} x {self._side} pixels, as its vision tower takes, and makes "
                f"{values.shape[2]} x {values.shape[3]}. Correct size and crop_size in the "
                "processor's JSON file."
            )
        mixed = torch.autocast("cuda", torch.float16, enabled=self.precision == "float16")
        with torch.inference_mode(), mixed:
            hidden = self._tower(values.to(self._device), output_hidden_states=True).hidden_states
            # As LlavaModel.get_image_features: each layer is cut, then they lie side by side.
            return torch.cat([hidden[layer][:, self._first :] for layer in self._layers], dim=-1)

    def _measure_grid(self, model: str) -> PatchGrid:
        # By looking at one empty picture.
        _, n_tokens, dim = self._features(np.zeros((1, self._side, self._side), np.uint8)).shape
        side = int(n_tokens**0.5)
        if side * side == n_tokens:
            return PatchGrid(rows=side, cols=side, dim=dim)
        if self._first == 0:
            return PatchGrid(rows=1, cols=n_tokens, dim=dim)
        raise UserError(
            f"the patches of a picture must be a square, and the vision tower of {model} gives "
            f"{n_tokens} with the strategy 'default', which drops the first. Set "
            "vision_feature_select_strategy to 'full' in its config.json, if it has no class token."
        )


def check_grid(expected: PatchGrid, tower: VisionTower) -> None:
    """Refuse a vision tower whose patches are not those of an encoder.

    Parameters
    ----------
    expected : PatchGrid
        Of the encoder.
    tower : VisionTower

    Raises
    ------
    UserError
        With both grids.
    """
    if tower.grid != expected:
        ours, theirs = expected, tower.grid
        raise UserError(
            f"the encoder's patches must be those of the language model: the encoder predicts "
            f"{ours.rows} x {ours.cols} patches of {ours.dim} numbers, and the vision tower of "
            f"{tower.language_model.model_id} gives {theirs.rows} x {theirs.cols} of {theirs.dim}. "
            "Use the model that the data set was prepared with, or prepare it again with this one."
        )


def _check_folder(name: str) -> None:
    # The hub would be asked for such a path again and again, for half a minute.
    is_path = name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1
    if is_path and not Path(name).is_dir():
        raise UserError(
            f"the model must be a folder or the id of a model on the Hugging Face hub, and "
            f"{name!r} is no folder, seen from {Path.cwd()}. Give a folder that is there."
        )


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"the device is {device!r} and torch {torch.__version__} sees no NVIDIA GPU. Use cpu."
        )


def _config(model: str, revision: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, revision=revision or "main")
    except (OSError, ValueError) as error:
        if Path(model).is_dir():
            raise UserError(
                "the model must be the folder of a LLaVA, a CLIP or a SigLIP, and "
                f"{model!r} is not: {_first_line(error)} Give the folder that holds config.json."
            ) from error
        raise UserError(
            "the model must be a folder, or the id of a model that can be fetched from the "
            f"Hugging Face hub, and {model!r} is neither: {_first_line(error)} Give the folder of "
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


def _side(model: str, vision: Any) -> int:
    sizes = (vision.image_size, vision.patch_size)
    if not all(isinstance(size, int) for size in sizes) or sizes[0] % sizes[1]:
        raise UserError(
            f"the vision tower of {model!r} must take square pictures cut into whole square "
            f"patches, got pictures of {sizes[0]} and patches of {sizes[1]} pixels. Use another "
            "model."
        )
    return int(vision.image_size)


def _layers(layer: int | list[int]) -> list[int]:
    return [layer] if isinstance(layer, int) else list(layer)


def _processor(model: str, revision: str) -> Any:
    from transformers import AutoImageProcessor

    try:
        # By name: without torchvision the default warns that it takes this one.
        return AutoImageProcessor.from_pretrained(model, revision=revision or "main", backend="pil")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model!r} has no image processor that can be read (preprocessor_config.json or "
            f"processor_config.json): {_first_line(error)} Copy it from the model that the tower "
            "is from."
        ) from error


def _tower(model: str, revision: str, vision: Any, *, is_llava: bool) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    with torch.device("meta"):
        kind = type(AutoModel.from_config(vision))
    try:
        weights = _tower_weights(model, revision) if is_llava else None
        with _quiet():
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
            f"the vision tower of {model!r} cannot be loaded: {_first_line(error)} Fetch or copy "
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
                _, found, rest = name.rpartition("vision_tower.")
                if found:
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


def _name(model: str, config: Any) -> tuple[str, str]:
    """Return the model's id and commit, for the manifest: never a path of this machine."""
    if not Path(model).is_dir():
        return model, str(getattr(config, "_commit_hash", None) or "")
    folder = Path(model).resolve()
    snapshot = SNAPSHOT.search(folder.as_posix())
    if snapshot:
        return snapshot[1].replace("--", "/"), snapshot[2]
    return folder.name, ""


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if line.endswith(".") else f"{line}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing a bar and from listing the weights of other parts."""
    from transformers.utils import logging as transformers_logging

    was_on = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if was_on:
            transformers_logging.enable_progress_bar()
