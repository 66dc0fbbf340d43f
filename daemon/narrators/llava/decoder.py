"""A lean decoder for the text models in `shape`: reads prompts, then advances by one token.

Theory of operation
-------------------
The arithmetic is that of the model's own classes in transformers, arranged for few calls and
for reading each weight once per step:

1. Queries, keys and values come from one product, gate and up from another.
2. Keys and values go to a cache that is allocated once, ``(layer, row, section, position,
   head_dim)``; sections are the heads of the keys and then those of the values. The decoder keeps
   nothing else of a row.
3. Queries of the heads that share a key form one small matrix, so that no key is read twice.
4. Only the last token of a prompt needs a score. So the last layer computes keys and values for all
   positions, and everything after them for one.
5. The rotary angles are the model's own, computed once for every position. A rotation is a product
   with the cosine plus a product of the swapped halves with a signed sine. The values' sections
   have cosine 1 and sine 0, so that one call rotates queries and keys and leaves the values.

Invariants, with their tests in tests/daemon/narrators/llava/test_engine.py: a row's tokens do not
depend on its neighbours (`test_joins_and_leaves_change_no_word`); no number that is not finite
stays in a free place of the cache (`test_broken_row_leaves_nothing_behind`).

References
----------
The modelling code of Llama, Mistral and Qwen2 in transformers; Su et al., arXiv 2104.09864, for
rotary positions; Ainslie et al., arXiv 2305.13245, for shared keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from daemon.narrators.llava.shape import TextShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Linear = Callable[["Tensor"], "Tensor"]
"""Rows (..., n_in) to rows (..., n_out)."""


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm_in: Tensor
    norm_mid: Tensor


@dataclass(frozen=True, slots=True)
class _Place:
    """The positions of the rows of one step."""

    cosine: Tensor
    sine: Tensor
    n_keys: int
    mask: Tensor | None
    """What a row may attend to, (rows, 1, 1, n_keys); None: every key."""
    at: int | tuple[Tensor, Tensor]
    """One position that all rows share, or indices of rows and positions."""

    def write(self, layer_cache: Tensor, new: Tensor) -> None:
        """Put the newest keys and values, (rows, sections, head_dim), into the cache."""
        if isinstance(self.at, int):
            layer_cache[:, :, self.at] = new
        else:
            rows, positions = self.at
            layer_cache[rows, :, positions] = new


class LlamaDecoder:
    """Turns prompts into scores of the next token; rows are places in the cache.

    The layers of `text_model` are removed one by one, so that memory holds two copies of one layer
    at most. It is on the CPU.
    """

    def __init__(
        self,
        text_model: Any,
        head: nn.Linear,
        shape: TextShape,
        *,
        dtype: torch.dtype,
        device: str,
        max_rows: int,
        n_positions: int,
    ) -> None:
        import torch

        self.shape = shape
        self.device = device
        self.dtype = dtype
        self.max_rows = max_rows
        self.n_positions = n_positions
        with torch.inference_mode():
            self.words = text_model.embed_tokens.weight.to(device, self.dtype)
            self._head = self._linear(head)
            self._norm = text_model.norm.weight.to(device, self.dtype)
            # Each layer of the model is freed before the next is converted.
            self._layers = [self._converted(layer) for layer in remove_layers(text_model)]
            self._set_angles(text_model.rotary_emb)
            # Zeros and not uninitialised memory, which may hold NaN: masked attention multiplies
            # what it masks by zero.
            self.cache = torch.zeros(
                (shape.n_layers, max_rows, 2 * shape.n_kv_heads, n_positions, shape.head_dim),
                dtype=self.dtype,
                device=device,
            )

    def prefill(self, prompts: Tensor, first_row: int) -> Tensor:
        """Read prompts into the cache, and return the scores of their first tokens.

        Prompts are embedded, (n, n_tokens, width), all of one length; they take the rows from
        `first_row` on. The scores are (n, n_words), float32.
        """
        import torch

        n, length, _ = prompts.shape
        shape, rows = self.shape, slice(first_row, first_row + len(prompts))
        n_heads, n_kv = shape.n_heads, shape.n_kv_heads
        # One section stands for all: among queries and keys the angles differ by position only.
        cosine, sine = self._cosine[:length, :1], self._sine[:length, :1]
        hidden = prompts
        for index, layer in enumerate(self._layers):
            is_last = index == shape.n_layers - 1
            qkv = layer.qkv(self._normalize(hidden, layer.norm_in))
            qkv = qkv.view(n, length, shape.n_sections, shape.head_dim)
            # Values are not rotated, and a prompt has many: unlike in a step, they are left out.
            rotated = _rotate(qkv[:, :, : n_heads + n_kv], cosine, sine)
            cache = self.cache[index, rows, :, :length]
            cache[:, :n_kv] = rotated[:, :, n_heads:].transpose(1, 2)
            cache[:, n_kv:] = qkv[:, :, n_heads + n_kv :].transpose(1, 2)
            queries = rotated[:, :, :n_heads].transpose(1, 2)
            # Nothing reads the last layer's output but the scores of the last position.
            if is_last:
                queries, hidden = queries[:, :, -1:], hidden[:, -1:]
            attended = torch.nn.functional.scaled_dot_product_attention(
                queries,
                cache[:, :n_kv],
                cache[:, n_kv:],
                is_causal=not is_last,
                enable_gqa=n_kv != n_heads,
            )
            attended = attended.transpose(1, 2).reshape(n, -1, n_heads * shape.head_dim)
            hidden = self._after_attention(layer, hidden, attended)
        # All prompts have one length, so no row is padded and the last position is every row's.
        return self._scores(hidden[:, -1])

    def step(self, tokens: Sequence[int], positions: Sequence[int], first_row: int) -> Tensor:
        """Advance each row by one token; return the scores of the next, (n, n_words), float32.

        `tokens` are the last of each row from `first_row` on, which the cache does not hold yet,
        and `positions` are theirs.
        """
        import torch

        rows = slice(first_row, first_row + len(tokens))
        ids = torch.tensor(tokens, device=self.device)
        return self.forward(ids, self._place(positions), rows)

    def forward(self, ids: Tensor, place: _Place, rows: slice) -> Tensor:
        """Compute `step` on tensors."""
        import torch

        shape = self.shape
        n, n_kv = len(ids), shape.n_kv_heads
        hidden = torch.nn.functional.embedding(ids, self.words)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._normalize(hidden, layer.norm_in))
            qkv = qkv.view(n, shape.n_sections, shape.head_dim)
            rotated = _rotate(qkv, place.cosine, place.sine)
            cache = self.cache[index, rows]
            # Before attention: a token attends to itself.
            place.write(cache, rotated[:, shape.n_heads :])
            # Queries that share a key form one matrix, so that no key is read twice. A prompt has
            # many positions per key, and uses ``enable_gqa`` instead.
            attended = torch.nn.functional.scaled_dot_product_attention(
                rotated[:, : shape.n_heads].view(n, n_kv, -1, shape.head_dim),
                cache[:, :n_kv, : place.n_keys],
                cache[:, n_kv:, : place.n_keys],
                attn_mask=place.mask,
            )
            hidden = self._after_attention(layer, hidden, attended.reshape(n, -1))
        return self._scores(hidden)

    def move(self, source: int, target: int, n_keys: int) -> None:
        """Copy the first positions of a row of the cache to another."""
        import torch

        with torch.inference_mode():
            self.cache[:, target, :, :n_keys] = self.cache[:, source, :, :n_keys]

    def wipe(self, row: int) -> None:
        """Zero a row of the cache: a NaN that stays would spread to the next row in its place."""
        import torch

        with torch.inference_mode():
            self.cache[:, row] = 0

    def _place(self, positions: Sequence[int]) -> _Place:
        # Rows of one window start together and stay level, so one position for all is the usual
        # case. It needs no mask, and attention without one is faster.
        n_keys = max(positions) + 1
        if min(positions) == n_keys - 1:
            at = n_keys - 1
            return _Place(self._cosine[at], self._sine[at], n_keys, None, at)
        import torch

        where = torch.tensor(positions, device=self.device)
        return self.spread(where, n_keys)

    def spread(self, positions: Tensor, n_keys: int) -> _Place:
        """Return the place of rows at different positions."""
        import torch

        # Added to the scores of attention: minus infinity hides positions that a row has not
        # reached, where an earlier sentence may have left its keys.
        keys = torch.arange(n_keys, device=self.device)
        mask = torch.zeros((len(positions), 1, 1, n_keys), dtype=self.dtype, device=self.device)
        mask.masked_fill_((keys > positions[:, None])[:, None, None], float("-inf"))
        rows = torch.arange(len(positions), device=self.device)
        return _Place(
            self._cosine[positions], self._sine[positions], n_keys, mask, (rows, positions)
        )

    def _after_attention(self, layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """Return a layer's output from that of its attention."""
        import torch

        hidden = hidden + layer.out(attended)
        gate, up = layer.gate_up(self._normalize(hidden, layer.norm_mid)).chunk(2, dim=-1)
        return hidden + layer.down(torch.nn.functional.silu(gate) * up)

    def _scores(self, hidden: Tensor) -> Tensor:
        # float32 for the log-probabilities; in bfloat16 sums over a vocabulary lose digits.
        return self._head(self._normalize(hidden, self._norm)).float()

    def _normalize(self, hidden: Tensor, weight: Tensor) -> Tensor:
        import torch

        return torch.nn.functional.rms_norm(hidden, (self.shape.width,), weight, self.shape.epsilon)

    def _set_angles(self, rotary: Any) -> None:
        """Compute the angles of every position, laid out for `_rotate`."""
        import torch

        positions = torch.arange(self.n_positions)[None]
        cosine, sine = (angles[0] for angles in rotary(torch.zeros(1), positions))
        half = self.shape.head_dim // 2
        # The sign of the swapped half is put into the table, where it costs nothing per step.
        signed = torch.cat((-sine[:, :half], sine[:, half:]), dim=-1)
        n_rotated = self.shape.n_heads + self.shape.n_kv_heads
        sections = (self.n_positions, self.shape.n_sections, self.shape.head_dim)
        self._cosine, self._sine = torch.ones(sections), torch.zeros(sections)
        self._cosine[:, :n_rotated] = cosine[:, None]
        self._sine[:, :n_rotated] = signed[:, None]
        self._cosine = self._cosine.to(self.device, self.dtype)
        self._sine = self._sine.to(self.device, self.dtype)

    def _converted(self, layer: Any) -> _Layer:
        attention, gates = layer.self_attn, layer.mlp

        return _Layer(
            qkv=self._linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=self._linear(attention.o_proj),
            gate_up=self._linear(gates.gate_proj, gates.up_proj),
            down=self._linear(gates.down_proj),
            norm_in=layer.input_layernorm.weight.to(self.device, self.dtype),
            norm_mid=layer.post_attention_layernorm.weight.to(self.device, self.dtype),
        )

    def _linear(self, *parts: Any) -> Linear:
        """Join linear layers into one."""
        import torch

        weight = torch.cat([part.weight for part in parts]).to(self.device, self.dtype)
        # Qwen2 has biases on queries, keys and values alike, so all parts have one or none has.
        biases = [part.bias for part in parts if part.bias is not None]
        bias = torch.cat(biases).to(self.device, self.dtype) if biases else None
        return partial(torch.nn.functional.linear, weight=weight, bias=bias)


def remove_layers(text_model: Any) -> Any:
    """Yield the layers, and free each before the next."""
    import torch

    layers, text_model.layers = list(text_model.layers), torch.nn.ModuleList()
    layers.reverse()
    while layers:
        yield layers.pop()


def _rotate(sections: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate heads by their position."""
    import torch

    half = sections.shape[-1] // 2
    return torch.addcmul(sections * cosine, sections.roll(half, -1), sine)
