"""The tiny LLaVA before it has learned anything: its sizes, tokenizer and processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulation.captions import vocabulary
from simulation.llava.sizes import (
    HEAD_WIDTH,
    PATCHES,
    SEEING_GRID,
    SIDE,
    TEXT_LAYERS,
    TEXT_WIDTH,
    VISION_LAYERS,
    VISION_WIDTH,
)
from simulation.tiny_llava import IMAGE, build_tokenizer, processor_config, write_folder

VISION_HEADS = 6
PROMPT = "USER: <image>\nDescribe this scene in one sentence.\nASSISTANT:"
"""The paper's prompt, and the daemon's default: the only one that this model has learned."""


def new_tokenizer() -> Any:
    """Return a tokenizer that has each word of the captions whole, also with a capital."""
    words = vocabulary()
    return build_tokenizer([*words, *(word.capitalize() for word in words)])


def new_model(tokenizer: Any, *, seed: int) -> Any:
    """Return a `LlavaForConditionalGeneration` of 1.46 million fresh float32 weights."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=SIDE,
        patch_size=SIDE // PATCHES,
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=3 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_WIDTH // HEAD_WIDTH,
        num_key_value_heads=TEXT_WIDTH // HEAD_WIDTH,
        max_position_embeddings=512,
        **special,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=SEEING_GRID.n_patches,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    for name, value in special.items():
        setattr(model.generation_config, name, value)
    return model


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write the folder in float16, half the size; the model given becomes float16."""
    import torch

    config = processor_config(SIDE, SIDE // PATCHES, crop=False)
    write_folder(folder, model.to(torch.float16), tokenizer, config)
