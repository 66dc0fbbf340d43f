"""The untrained tiny LLaVA: its configuration, tokenizer and processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulation.captions import vocabulary
from simulation.llava.sizes import PATCHES, SEEING_GRID, SIDE, VISION_LAYERS
from simulation.tiny_llava import build_tokenizer, llava_config, processor_config, write_folder

PROMPT = "USER: <image>\nDescribe this scene in one sentence.\nASSISTANT:"
"""The paper's prompt, and the daemon's default: the only one that this model has learned."""


def new_tokenizer() -> Any:
    """Return a tokenizer that has each word of the captions whole, also with a capital."""
    words = vocabulary()
    return build_tokenizer([*words, *(word.capitalize() for word in words)])


def new_model(tokenizer: Any, *, seed: int) -> Any:
    """Return a `LlavaForConditionalGeneration` of 1.46 million fresh float32 weights."""
    import torch
    from transformers import LlavaForConditionalGeneration

    config = llava_config(
        tokenizer, SEEING_GRID, SIDE // PATCHES, vision_layers=VISION_LAYERS, max_tokens=512
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    return model


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write the folder in float16, half the size; the model given becomes float16."""
    import torch

    config = processor_config(SIDE, SIDE // PATCHES, crop=False)
    write_folder(folder, model.to(torch.float16), tokenizer, config)
