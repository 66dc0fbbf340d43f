"""Text models of a few thousand random weights, of every kind that the decoder reads."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daemon.narrators.llava.decoder import LlamaDecoder
from daemon.narrators.llava.engine import DecodingRow, Engine
from daemon.narrators.llava.onnx_decoder import OnnxDecoder
from daemon.narrators.llava.shape import read_shape
from daemon.narrators.llava.tokens import GreedyChoice

WIDTH = 64
N_WORDS = 40
END_IS_LIKELY = 1.6
PROMPT_LENGTH = 9
MAX_NEW_TOKENS = 14
N_POSITIONS = PROMPT_LENGTH + MAX_NEW_TOKENS

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 4},
    "llama, shared keys": {"num_key_value_heads": 2},
    "llama, one key": {"num_key_value_heads": 1},
    "llama, wide heads": {"num_key_value_heads": 4, "head_dim": 32},
    "llama, biases": {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    "llama, tied words": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama, long": {
        "num_key_value_heads": 4,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
}


def small_model(kind: str = "llama", *, n_layers: int = 3) -> Any:
    """Return a text model with its head, that ends some sentences and not others."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    makers: dict[str, Any] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    config, model = makers[kind.partition(",")[0]]
    sizes = {
        "vocab_size": N_WORDS,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.35,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        made = model(config(**sizes, **KINDS[kind])).eval()
        for name, weights in made.named_parameters():
            if name.endswith("bias"):  # as made they are zero, which would prove nothing
                weights.normal_(std=0.3)
        made.lm_head.weight[2] *= END_IS_LIKELY
    return made


def some_grids(n: int, *, seed: int = 0) -> list[NDArray[np.float32]]:
    """Return prompts, as if patches of this width needed no projector."""
    rng = np.random.default_rng(seed)
    return list(rng.normal(size=(n, PROMPT_LENGTH, WIDTH)).astype(np.float32))


def plain_tokens(model: Any, grids: list[NDArray[np.float32]]) -> list[list[int]]:
    """Return what ``generate`` says to a batch, each row up to its end token."""
    embedded = torch.from_numpy(np.stack(grids))
    with torch.inference_mode():
        said = model.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        ).tolist()
    return [tokens[: tokens.index(2) + 1] if 2 in tokens else tokens for tokens in said]


def decoder_of(
    model: Any,
    *,
    max_rows: int,
    kind: type[LlamaDecoder | OnnxDecoder] = LlamaDecoder,
    device: str = "cpu",
) -> Any:
    """Make a decoder, and leave the model as it is."""
    taken = copy.deepcopy(model)
    parts = taken.model, taken.lm_head, read_shape(taken.config, n_positions=N_POSITIONS)
    sizes: dict[str, Any] = {"max_rows": max_rows, "n_positions": N_POSITIONS}
    if issubclass(kind, OnnxDecoder):
        return kind(*parts, **sizes)
    return kind(*parts, dtype=torch.float32, device=device, **sizes)


def engine_of(model: Any, *, max_rows: int = 16, **options: Any) -> Engine:
    """Make an engine on a decoder of its own."""
    kind = options.pop("kind", OnnxDecoder)
    decoder = options.pop("decoder", None) or decoder_of(model, max_rows=max_rows, kind=kind)
    return Engine(
        decoder,
        lambda grids: torch.from_numpy(grids).to(decoder.device),
        GreedyChoice(model.generation_config, decoder.device),
        prompt_length=PROMPT_LENGTH,
        max_new_tokens=MAX_NEW_TOKENS,
        **options,
    )


def say_all(engine: Engine) -> list[DecodingRow]:
    """Go on until nothing is left, and return the rows in the order in which they ended."""
    ended = []
    while engine.n_rows:
        ended += [row for row in engine.step() if row.end]
    return ended
