"""Which language models the decoder supports, and the sizes of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts.errors import UserError

FAMILIES = ("llama", "mistral", "qwen2")
"""``model_type`` of text models that are the same network: RMSNorm before attention and before a
gated SiLU, rotary positions, grouped keys and values, biases where the weights have them."""

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary positions whose angle depends on the position alone and not on the length so far."""


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes of a text model."""

    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int  # heads of the keys, and of the values
    head_dim: int
    n_words: int  # size of the vocabulary
    epsilon: float  # of the norms

    @property
    def n_sections(self) -> int:
        """Heads in the product for queries, keys and values."""
        return self.n_heads + 2 * self.n_kv_heads


def read_shape(config: Any, *, n_positions: int) -> TextShape:
    """Return the sizes of a text model that the decoder can run.

    `n_positions` are the tokens of prompt, patches and the longest sentence together.

    Raises
    ------
    UserError
        If the model is not one of the networks of `FAMILIES`.
    """
    if problems := _problems(config, n_positions):
        raise UserError(
            f"the llava back-end reads text models of the shape of {', '.join(FAMILIES)}: RMSNorm, "
            "rotary positions, attention to all that came before, SiLU gates. This one has "
            f'{"; ".join(problems)}. Use narrator.backend = "vllm", which reads others, or a '
            "LLaVA on one of these."
        )
    n_heads = config.num_attention_heads
    return TextShape(
        n_layers=config.num_hidden_layers,
        width=config.hidden_size,
        n_heads=n_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        n_words=config.vocab_size,
        epsilon=config.rms_norm_eps,
    )


def _problems(config: Any, n_positions: int) -> list[str]:
    problems = []
    if config.model_type not in FAMILIES:
        return [f"model_type {config.model_type!r}"]
    if config.hidden_act != "silu":
        problems.append(f"the activation {config.hidden_act!r}")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < n_positions:
        problems.append(f"attention to {window} of {n_positions} positions (sliding_window)")
    rope = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        problems.append(f"rotary positions of type {rope_type!r}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        problems.append("rotary positions on a part of each head")
    if config.max_position_embeddings < n_positions:
        problems.append(
            f"{config.max_position_embeddings} positions, and prompt, patches and the longest "
            f"sentence need {n_positions} (narrator.max_new_tokens makes it shorter)"
        )
    return problems
