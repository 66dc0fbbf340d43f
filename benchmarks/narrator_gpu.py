"""The exact size of llava-1.5-7b, random weights in bfloat16, on a GPU; for `bench_narrator`.

The texts mean nothing and may differ between contenders: with random weights all tokens are nearly
equally likely, and the last bit of a bfloat16 decides. So the share of equal tokens is only
reported here; that texts agree is checked on the shipped model, and by tests.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID253 - a contender
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.narrator_models import Size, cache_bytes, n_weights, prompt_operations
from daemon.narrators.llava.decoder import LlamaDecoder
from daemon.narrators.llava.engine import Engine
from daemon.narrators.llava.fixed_sizes import FixedSizes
from daemon.narrators.llava.shape import read_shape
from daemon.narrators.llava.tokens import GreedyChoice

VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""Of CLIP ViT-L/14 at 336 pixels, the vision tower of LLaVA-1.5."""

VISION_TOY = VISION | {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
}


class GpuContenders:
    """One random LLaVA on one device, called in three ways.

    `vision` holds the arguments of `CLIPVisionConfig`.
    """

    def __init__(
        self, size: Size, *, device: str, seed: int, max_rows: int, vision: dict[str, Any]
    ) -> None:
        from transformers import (
            CLIPVisionConfig,
            LlamaConfig,
            LlavaConfig,
            LlavaForConditionalGeneration,
        )

        text = LlamaConfig(**size.config)
        self.size, self.device = size, device
        self._dtype = torch.bfloat16 if device != "cpu" else torch.float32
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**vision),
            text_config=text,
            image_token_index=text.vocab_size - 1,
        )
        before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)
        try:
            torch.manual_seed(seed)
            with torch.device(device):
                model = LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(before)
        model.generation_config.eos_token_id = None
        self._model = model
        self._side = vision["image_size"]
        self._n_patches = (vision["image_size"] // vision["patch_size"]) ** 2
        self._patch_dim = vision["hidden_size"]
        n_around = size.prompt_length - self._n_patches
        around = torch.arange(n_around, device=device) + 5
        image = torch.full((self._n_patches,), text.vocab_size - 1, device=device)
        self._ids = torch.cat((around[: n_around // 2], image, around[n_around // 2 :]))[None]
        words = model.get_input_embeddings()
        self._before, self._after = words(around[: n_around // 2]), words(around[n_around // 2 :])
        n_positions = -(-(size.prompt_length + size.n_tokens) // 8) * 8
        self.plain_decoder = LlamaDecoder(
            copy.deepcopy(model.model.language_model),
            model.lm_head,
            read_shape(text, n_positions=n_positions),
            dtype=self._dtype,
            device=device,
            max_rows=max_rows,
            n_positions=n_positions,
        )
        backend = "inductor" if device != "cpu" else "eager"
        self.decoder = FixedSizes(self.plain_decoder, backend=backend)
        self.contenders: dict[str, Callable[[int], list[list[int]]]] = {
            "plain": self._plain,
            "generate, batched": self._batched,
            "ours": self._ours,
        }

    def _plain(self, n: int) -> list[list[int]]:
        pixels = torch.ones((1, 3, self._side, self._side), device=self.device, dtype=self._dtype)
        tokens = []
        for _ in range(n):
            out = self._model.generate(
                input_ids=self._ids,
                pixel_values=pixels,
                attention_mask=torch.ones_like(self._ids),
                max_new_tokens=self.size.n_tokens,
                do_sample=False,
            )
            tokens.append(out[0, self._ids.shape[1] :].tolist())
        return tokens

    def _batched(self, n: int) -> list[list[int]]:
        prompts = self._embed(self._grids(n))
        out = self._model.generate(
            inputs_embeds=prompts,
            attention_mask=torch.ones(prompts.shape[:2], dtype=torch.long, device=self.device),
            max_new_tokens=self.size.n_tokens,
            do_sample=False,
        )
        tokens: list[list[int]] = out.tolist()
        return tokens

    def _ours(self, n: int) -> list[list[int]]:
        engine = Engine(
            self.decoder,
            self._embed,
            GreedyChoice(self._model.generation_config, self.device),
            prompt_length=self.size.prompt_length,
            max_new_tokens=self.size.n_tokens,
        )
        rows = engine.begin(0, list(self._grids(n)))
        while engine.n_rows:
            engine.step()
        return [one.tokens for one in rows]

    def prompts(self, n: int) -> torch.Tensor:
        """Return embedded prompts."""
        return self._embed(self._grids(n))

    def _grids(self, n: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(3)
        shape = (n, self._n_patches, self._patch_dim)
        return rng.normal(size=shape).astype(np.float32)

    def _embed(self, grids: NDArray[np.float32]) -> torch.Tensor:
        patches = torch.from_numpy(grids).to(self.device, self._dtype)
        projected = self._model.model.multi_modal_projector(patches)
        n = len(grids)
        return torch.cat(
            (self._before.expand(n, -1, -1), projected, self._after.expand(n, -1, -1)), dim=1
        )


def measure(
    model: GpuContenders, n_rows: Sequence[int], n_turns: int
) -> tuple[list[MeasuredRow], list[Figure], dict[str, float]]:
    """Time the contenders in turn, and compare ours with the limits of the device.

    Returns
    -------
    rows, figures, limits
        As `benchmarks.record.Result` has them.
    """
    read, product = _read(model.device), _product(model.device)
    size, shape = model.size, model.plain_decoder.shape
    inner = size.config["intermediate_size"]
    item = model.plain_decoder.cache.element_size()
    bound = Bound(
        prompt_s=prompt_operations(shape, inner, size.prompt_length) / product,
        weights_s=n_weights(shape, inner) * item / read,
        cache_s=cache_bytes(shape, size.prompt_length, item) / read,
    )
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for n in n_rows:
        case = f"{size.name}, {n} populations"
        _time_contenders(model, case, n, n_turns, bound, rows, figures)
        _time_parts(model, case, n, n_turns, bound, rows, figures)
    limits = {
        "read_bytes_per_s": read,
        "product_flop_per_s": product,
        "prompt_s": bound.prompt_s,
        "weights_s": bound.weights_s,
        "cache_s": bound.cache_s,
    }
    return rows, figures, limits


@dataclass(frozen=True, slots=True)
class Bound:
    """Least seconds for a prompt, for the weights, and for the keys and values of one row."""

    prompt_s: float
    weights_s: float
    cache_s: float


def _time_contenders(
    model: GpuContenders,
    case: str,
    n: int,
    n_turns: int,
    bound: Bound,
    rows: list[MeasuredRow],
    figures: list[Figure],
) -> None:
    took: dict[str, NDArray[np.int64]] = {}
    tokens = {}
    for name, contender in model.contenders.items():
        took[name], tokens[name] = _times(model.device, contender, n, n_turns)
        rows.append(row(case, name, took[name]))
        figures.append(figure(case, f"{name}, narrations/s", n / took[name] * 1e9))
    for name in ("plain", "generate, batched"):
        ratio = np.sort(took[name]) / np.sort(took["ours"])
        figures.append(figure(case, f"ours / {name}, narrations/s", ratio))
    equal = np.mean(np.array(tokens["ours"]) == np.array(tokens["generate, batched"]))
    figures.append(figure(case, "tokens as of generate, batched", np.array([equal])))
    n_after = model.size.n_tokens - 1
    least_s = n * bound.prompt_s + n_after * bound.weights_s
    figures.append(figure(case, "bound / ours", least_s / (took["ours"] / 1e9)))
    least_s += n_after * n * bound.cache_s
    figures.append(figure(case, "bound, cache too / ours", least_s / (took["ours"] / 1e9)))


def _time_parts(
    model: GpuContenders,
    case: str,
    n: int,
    n_turns: int,
    bound: Bound,
    rows: list[MeasuredRow],
    figures: list[Figure],
) -> None:
    position = model.size.prompt_length + 1
    prompts = model.prompts(1)
    calls: dict[str, Callable[[int], object]] = {
        "step": lambda n: model.decoder.step([5] * n, [position] * n, 0),
        "step, plain": lambda n: model.plain_decoder.step([5] * n, [position] * n, 0),
        "prompt": lambda _: model.decoder.prefill(prompts, 0),
    }
    for name, call in calls.items():
        took, _ = _times(model.device, call, n, n_turns)
        rows.append(row(case, name, took))
        least_s = bound.prompt_s if name == "prompt" else bound.weights_s
        figures.append(figure(case, f"bound / {name}", least_s / (took / 1e9)))


def _times(
    device: str, call: Callable[[int], Any], n: int, n_turns: int
) -> tuple[NDArray[np.int64], Any]:
    took = np.empty(n_turns, dtype=np.int64)
    out = call(n)
    for turn in range(n_turns):
        _wait(device)
        started_ns = time.perf_counter_ns()
        out = call(n)
        _wait(device)
        took[turn] = time.perf_counter_ns() - started_ns
    return took, out


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _read(device: str) -> float:
    """Return the best bytes read a second; on a GPU half of what a copy moves counts as read."""
    n_bytes = 1 << (32 if device != "cpu" else 24)
    source = torch.ones(n_bytes // 2, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    took, _ = _times(device, lambda _: target.copy_(source), 0, 10)
    return 2 * n_bytes / float(took.min()) * 1e9


def _product(device: str) -> float:
    side = 8_192 if device != "cpu" else 256
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    took, _ = _times(device, lambda _: matrix @ matrix, 0, 10)
    return 2 * side**3 / float(took.min()) * 1e9
