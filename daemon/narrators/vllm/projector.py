"""A LLaVA's projector without its language model and vision tower.

It turns patches into the image tokens of the language model. In a 7B model it has 21 million
weights, 42 MB; only these are read from the weight files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.manifest import Manifest
from daemon.narrators.devices import torch_device
from daemon.narrators.fit import check_fit, check_folder
from daemon.narrators.patches import split_prompt

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
"""Names that transformers gives to weights in one file, and to the index of several files."""

PREFIX = "multi_modal_projector."
"""Of the projector's weights, after a prefix that depends on the version of transformers."""


class Projector:
    """The projector of one LLaVA.

    Parameters
    ----------
    revision : str
        Commit of a model on the hub; empty takes the newest.
    dtype : {"auto", "float32", "float16", "bfloat16"}
        Of the computation and the result; ``auto`` is what the model was saved in. On a CPU a
        float16 result is computed in float32.
    threads : int, optional
        Of torch in this process; None leaves torch's choice.

    Raises
    ------
    UserError
        If there is no such model, or it does not fit the bundle.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str,
        manifest: Manifest,
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoTokenizer

        check_folder(name)
        self._name, self._revision = name, revision or "main"
        try:
            self.config = AutoConfig.from_pretrained(name, revision=self._revision)
            check_fit(name, self.config, manifest)
            self._tokenizer = AutoTokenizer.from_pretrained(name, revision=self._revision)
            self._layers = _layers(self.config, self._weights())
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"the vllm narrator needs config.json, the tokenizer and the projector's weights "
                f"({PREFIX}*) of the LLaVA that the servers serve, and {name!r} cannot be loaded: "
                f"{error}\nDownload it first, with hf download, or set narrator.model to a folder "
                "that is there."
            ) from error
        if threads is not None:
            torch.set_num_threads(threads)
        target = torch_device(device)
        self._dtype = _dtype(self.config.dtype) if dtype == "auto" else getattr(torch, dtype)
        # A CPU computes in float16 slowly, if at all.
        is_slow = target == "cpu" and self._dtype == torch.float16
        self._layers.to(target, torch.float32 if is_slow else self._dtype)

    def project(self, grids: NDArray[np.float32]) -> Tensor:
        """Turn patches, (n, n_patches, dim), into image tokens, (n, n_patches, width).

        They are of the chosen dtype, in main memory.
        """
        import torch

        weight = next(self._layers.parameters())
        with torch.inference_mode():
            patches = torch.from_numpy(grids).to(weight.device, weight.dtype)
            tokens: Tensor = self._layers(patches)
            return tokens.to("cpu", self._dtype)

    def prompt_ids(self, prompt: str, n_patches: int) -> list[int]:
        """Return the token ids that a server must make of a prompt.

        Raises
        ------
        UserError
            If the tokenizer does not read ``<image>`` as one token.
        """
        image_id: int = self.config.image_token_id
        before, after = split_prompt(self._tokenizer, prompt, image_id)
        return before + [image_id] * n_patches + after

    def _weights(self) -> dict[str, Tensor]:
        from safetensors import safe_open

        weights: dict[str, Tensor] = {}
        for path in self._files():
            with safe_open(path, "pt") as file:
                for key in file.keys():
                    if PREFIX in key:
                        weights[key.partition(PREFIX)[2]] = file.get_tensor(key)
        if not weights:
            raise KeyError(f"no weights named {PREFIX}*")
        return weights

    def _files(self) -> list[Path]:
        """Return the weight files that hold weights of the projector."""
        index = self._file(WEIGHTS_INDEX, is_needed=False)
        if index is None:
            names = {WEIGHTS}
        else:
            by_key: Mapping[str, str] = json.loads(index.read_text())["weight_map"]
            names = {file for key, file in by_key.items() if PREFIX in key}
        paths = [self._file(name) for name in sorted(names)]
        return [path for path in paths if path is not None]

    def _file(self, name: str, *, is_needed: bool = True) -> Path | None:
        from transformers.utils.hub import cached_file

        path = cached_file(
            self._name,
            name,
            revision=self._revision,
            _raise_exceptions_for_missing_entries=is_needed,
        )
        return None if path is None else Path(path)


def _layers(config: Any, weights: Mapping[str, Tensor]) -> Any:
    import torch
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    with torch.device("meta"):
        layers = LlavaMultiModalProjector(config)
    layers.load_state_dict(weights, assign=True)
    return layers.eval().requires_grad_(requires_grad=False)


def _dtype(saved: Any) -> Any:
    import torch

    return saved if isinstance(saved, torch.dtype) else torch.float16
