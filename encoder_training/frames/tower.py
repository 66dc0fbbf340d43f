"""The vision tower of a vision-language model: images to the patches that its projector takes.

Only the vision tower is loaded, not the language model: of LLaVA-1.5 0.6 of 14 GB. Layer and
strategy are the model's own, and the patches equal what transformers hands to the projector.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError
from contracts.manifest import LanguageModel
from encoder_training.devices import resolve_device
from encoder_training.frames.hub import check_folder, model_name
from encoder_training.frames.tower_files import TOWERS, load_config, load_processor, load_tower

if TYPE_CHECKING:
    from torch import Tensor

CLIP_LAYER = -2
"""The layer that LLaVA reads, for towers that come without a LLaVA (Liu et al., arXiv 2304.08485,
section 4.1)."""


FRAMES_AT_ONCE = 16
"""Pictures of one run. One takes 0.1 GB in CLIP ViT-L/14 at 336 pixels, measured."""

CPU_OPERATIONS = 1e12
"""Of one run on a CPU, where more pictures at once are no faster and a run is what an interruption
loses: some 10 s on two cores. Two pictures in CLIP ViT-L/14 at 336 pixels."""


class VisionTower:
    """The vision tower of a LLaVA, or of a CLIP or SigLIP alone.

    On a GPU the tower runs in mixed precision, float16.

    Attributes
    ----------
    grid : PatchGrid
        Of the patches of a picture. With the strategy ``full``, whose tokens are one more than a
        square's, it is one row.
    precision : str
        ``float32``, or ``float16`` on a GPU.
    frames_at_once : int
        Pictures to give it at once.

    Raises
    ------
    UserError
        If it is no such model, or has no image processor, or its patches are no square.
    """

    def __init__(self, model: str, *, device: str = "cpu", revision: str = "") -> None:
        check_folder(model)
        device = resolve_device(device)
        config = load_config(model, revision)
        is_llava = config.model_type == "llava"
        vision = config if config.model_type in TOWERS else config.vision_config
        self._side = _side(model, vision)
        self._layers = _layers(config.vision_feature_layer if is_llava else CLIP_LAYER)
        self._processor = load_processor(model, revision)
        tower = load_tower(model, revision, vision, is_llava=is_llava)
        self._device = device
        self._tower = tower.to(device).eval()
        has_class = any("class_embedding" in name for name, _ in tower.named_parameters())
        strategy = "default" if has_class else "full"
        if is_llava:
            strategy = config.vision_feature_select_strategy
        self._first = int(strategy == "default")
        self.precision = "float16" if device.startswith("cuda") else "float32"
        model_id, commit = model_name(model, config)
        self.language_model = LanguageModel(
            model_id=model_id,
            revision=revision or commit,
            feature_layer=self._layers[0] if len(self._layers) == 1 else tuple(self._layers),
            select_strategy=strategy,
        )
        self.grid = self._measure_grid(model)
        self.frames_at_once = FRAMES_AT_ONCE
        if not device.startswith("cuda"):
            # Two operations a weight and token: attention adds a tenth.
            n_weights = sum(weight.numel() for weight in self._tower.parameters())
            at_once = int(CPU_OPERATIONS / (2 * n_weights * self.grid.n_patches))
            self.frames_at_once = min(max(1, at_once), FRAMES_AT_ONCE)

    def patches(self, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return the patches of frames.

        `frames` is uint8 of shape (n, height, width) or (n, height, width, 3); the model's
        own processor brings them to its size. Returns float16 of shape (n, n_patches, dim),
        row-major over the grid.

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

        It covers the weights, the layers, the strategy and the image processor's settings.
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
        # From one black image.
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
