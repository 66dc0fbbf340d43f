"""Language models for `bench_narrator`: the shipped tiny one, and random ones of other sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - a contender

import simulation
from contracts.embedding import PatchGrid
from contracts.manifest import (
    MANIFEST_VERSION,
    LanguageModel,
    Manifest,
    ManifestModel,
    PatchGridModel,
    TrainingData,
    UnitModel,
    WindowModel,
)
from daemon.narrators.llava.onnx_decoder import OnnxDecoder
from daemon.narrators.llava.shape import TextShape, read_shape

SHIPPED = Path(simulation.__file__).parent / "weights" / "tiny-llava"
SHIPPED_GRID = PatchGrid(8, 8, 96)


@dataclass(frozen=True, slots=True)
class Size:
    """A text model, and the prompt that it is given.

    Attributes
    ----------
    name : str
    config : dict
        Of `LlamaConfig`.
    prompt_length : int
        Tokens of a prompt with its patches.
    n_tokens : int
        Tokens of a sentence, the first included.
    """

    name: str
    config: dict[str, Any]
    prompt_length: int
    n_tokens: int = 24


def _size(
    name: str, width: int, inner: int, layers: int, heads: tuple[int, int], words: int, **more: Any
) -> Size:
    n_heads, n_kv_heads = heads
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "vocab_size": words,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05,
    }
    return Size(name, config, more.get("prompt_length", 594), more.get("n_tokens", 24))


TINY = _size("tiny", 128, 384, 3, (4, 4), 580, prompt_length=90, n_tokens=20)
"""The shape and the prompt of the shipped tiny LLaVA; a sentence of it is of about 20 tokens."""

SIZES = (
    TINY,
    _size("65M", 512, 1408, 10, (8, 8), 32_064),
    _size("135M", 576, 1536, 30, (9, 3), 49_152),
)
"""The second as wide as it must be for LLaVA-1.5's vocabulary, the third the shape of SmolLM2-135M
(huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json), each with LLaVA-1.5's 576 patches."""

TOY = _size("toy", 64, 96, 2, (4, 2), 64, prompt_length=12, n_tokens=4)
"""For tests."""

SEVEN = _size("llava-1.5-7b", 4096, 11_008, 32, (32, 32), 32_064, n_tokens=24)
"""The text model of llava-hf/llava-1.5-7b-hf (its config.json)."""


def random_text_model(size: Size, *, seed: int) -> Any:
    """Return a `LlamaForCausalLM` of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**size.config)).eval()


def decoder_of(size: Size, *, seed: int, max_rows: int) -> OnnxDecoder:
    """Return the daemon's decoder for a CPU, on a random model."""
    model = random_text_model(size, seed=seed)
    n_positions = size.prompt_length + size.n_tokens
    return OnnxDecoder(
        model.model,
        model.lm_head,
        read_shape(model.config, n_positions=n_positions),
        max_rows=max_rows,
        n_positions=n_positions,
    )


def n_weights(shape: TextShape, inner: int) -> int:
    """Return the weights that each token reads: of all products, the vocabulary's included."""
    heads = shape.head_dim * (shape.n_sections + shape.n_heads)
    return shape.n_layers * shape.width * (heads + 3 * inner) + shape.width * shape.n_words


def prompt_operations(shape: TextShape, inner: int, length: int) -> int:
    """Return the additions and multiplications that reading a prompt takes at least.

    All layers for all tokens, attention to what came before; of the last layer keys and values
    alone but for one token, and the vocabulary for that one.
    """
    n_layers, width, asked = shape.n_layers, shape.width, shape.n_heads * shape.head_dim
    keys = 2 * shape.n_kv_heads * shape.head_dim
    rest = width * (2 * asked + 3 * inner)
    products = length * (n_layers * width * keys + (n_layers - 1) * rest)
    products += rest + width * shape.n_words
    attention = (n_layers - 1) * asked * length * (length + 1) + 2 * asked * length
    return 2 * (products + attention)


def cache_bytes(shape: TextShape, length: int, item_bytes: int) -> int:
    """Return what a token reads of one row's keys and values."""
    return shape.n_layers * 2 * shape.n_kv_heads * length * shape.head_dim * item_bytes


def shipped_manifest(grid: PatchGrid = SHIPPED_GRID) -> Manifest:
    """Return the manifest of a bundle that is not on the disk, for the shipped tiny LLaVA.

    With another grid, for a LLaVA that takes such patches.
    """
    model = ManifestModel(
        format_version=MANIFEST_VERSION,
        window=WindowModel(bin_rate_num=120, n_bins=20, stride_bins=10),
        population=[UnitModel(unit_id="0")],
        unit_mean=[0.1],
        unit_std=[0.3],
        patch_grid=PatchGridModel(rows=grid.rows, cols=grid.cols, dim=grid.dim),
        language_model=LanguageModel(model_id=str(SHIPPED)),
        training_data=TrainingData(recording="benchmark"),
        trained=False,
        sha256={},
        command="benchmarks",
    )
    return Manifest(model, SHIPPED, sha256="")
