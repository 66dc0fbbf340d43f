"""Models that the decoder reads, and what is said of the others."""

from __future__ import annotations

import pytest
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config

from contracts.errors import UserError
from daemon.narrators.llava.shape import read_shape


@pytest.mark.parametrize("config", [LlamaConfig(), MistralConfig(), Qwen2Config()])
def test_families_as_they_come_are_read(config):
    """The sizes are those of the config, whichever family it is of."""
    shape = read_shape(config, n_positions=700)
    assert shape.n_heads * shape.head_dim == config.hidden_size
    assert shape.n_kv_heads == config.num_key_value_heads


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (GemmaConfig(), "model_type 'gemma'"),
        (LlamaConfig(hidden_act="gelu"), "the activation 'gelu'"),
        (MistralConfig(sliding_window=512), "attention to 512 of 700 positions"),
        (LlamaConfig(max_position_embeddings=512), "512 positions, and .* need 700"),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "rotary positions of type 'dynamic'",
        ),
        (
            LlamaConfig(
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 0.5,
                }
            ),
            "a part of each head",
        ),
    ],
    ids=["family", "activation", "window", "length", "angles", "partial"],
)
def test_other_shapes_are_refused(config, problem):
    """What is different is named, with what is read and where to go with this one."""
    with pytest.raises(UserError, match=problem) as caught:
        read_shape(config, n_positions=700)
    assert "llama, mistral, qwen2" in str(caught.value)
    assert 'narrator.backend = "vllm"' in str(caught.value)
