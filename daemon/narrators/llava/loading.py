"""A LLaVA from a folder or the hub: its language model and projector, without the vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from contracts.errors import UserError
from contracts.manifest import Manifest
from daemon.narrators.fit import check_fit, check_folder


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from."""

    name: str  # a folder, or an id on the Hugging Face hub
    revision: str  # commit on the hub

    def __post_init__(self) -> None:
        check_folder(self.name)


def load_config(source: ModelSource, manifest: Manifest) -> tuple[Any, Any]:
    """Read the model's ``LlavaConfig`` and its tokenizer.

    Raises
    ------
    UserError
        If they cannot be read, or the model does not fit the bundle.
    """
    from transformers import AutoConfig, AutoTokenizer

    with _explain(source):
        config = AutoConfig.from_pretrained(source.name, revision=source.revision)
        check_fit(source.name, config, manifest)
        tokenizer = AutoTokenizer.from_pretrained(source.name, revision=source.revision)
    return config, tokenizer


def load_weights(source: ModelSource, config: Any) -> Any:
    """Read the weights, in the number format of their file, into the CPU's memory.

    The patches replace the output of the vision tower. So the tower is made without layers, and
    their weights are not read.

    Raises
    ------
    UserError
        If they cannot be read, or some are missing.
    """
    from transformers import LlavaForConditionalGeneration

    config.vision_config.num_hidden_layers = 0
    with _explain(source), _quiet():
        model, loading = LlavaForConditionalGeneration.from_pretrained(
            source.name,
            revision=source.revision,
            config=config,
            dtype="auto",
            output_loading_info=True,
        )
    if missing := sorted(key for key in loading["missing_keys"] if "vision_tower" not in key):
        raise UserError(
            f"the files of the language model {source.name!r} must hold all of its weights, and "
            f"lack {len(missing)}: {', '.join(missing[:5])}. Download it anew."
        )
    del model.model.vision_tower
    return model.eval()


@contextmanager
def _explain(source: ModelSource) -> Iterator[None]:
    # Name the model that could not be read, and what to do about it.
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the language model must be the folder of a LLaVA or the id of one on the Hugging "
            f"Face hub, and {source.name!r} cannot be loaded: {error}\nDownload it first, with hf "
            "download, or set narrator.model to a folder that is there."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bar, and the warning about the weights of the vision tower."""
    from transformers.utils import logging as transformers_logging

    had_bar = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar:
            transformers_logging.enable_progress_bar()
