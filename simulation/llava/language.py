"""Second part of the recipe: a projector and a small Llama that learn to describe the patches.

The vision tower is frozen by now, so its patches are computed once. Patches decoded from
spikes have less contrast than true ones, and noise: an uncertain encoder predicts the mean of the
plausible patches. The language model is trained on true patches and on degraded ones, so that it
still describes what can be recognised in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID253 - this module trains
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from simulation.captions import caption, parse
from simulation.llava.loop import LoopOptions, take_steps
from simulation.llava.model import PROMPT
from simulation.llava.pictures import IGNORED, Pictures
from simulation.llava.schedule import StepBudget
from simulation.llava.tower import patches_of, pixel_values
from simulation.scenes.facts import Facts

PACE = LoopOptions(batch=64, peak_rate=1.5e-3, weight_decay=0.02, every=500)
CAPTIONS_EACH = 6
PALE_SHARE = 0.5
"""Share of the training pictures that are made paler."""

PALEST = 0.35
"""Contrast of the palest, around the mean patch of the training pictures."""

MOST_NOISE = 0.35
"""Noise of the noisiest, in standard deviations of each number."""

MAX_TOKENS = 48
FEATURE_BATCH = 256


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """One row of the log: loss since the last, and shares of correct validation pictures."""

    step: int
    minutes: float
    loss: float
    kinds: float
    all_facts: float


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Patches of many pictures, and what noise is added in proportion to."""

    patches: Tensor  # shape (n, n_patches, dim), float16
    mean: Tensor  # over the pictures: shape (n_patches, dim), float32, as is std
    std: Tensor


@torch.inference_mode()
def features_of(tower: nn.Module, pictures: Pictures) -> Features:
    """Compute the patches of all pictures once."""
    rows = [
        patches_of(tower, pixel_values(pictures.pixels[first : first + FEATURE_BATCH])).half()
        for first in range(0, len(pictures), FEATURE_BATCH)
    ]
    patches = torch.cat(rows)
    sample = patches[: 20 * FEATURE_BATCH].float()
    return Features(patches, sample.mean(dim=0), sample.std(dim=0))


def train_language(
    model: Any,
    tokenizer: Any,
    training: tuple[Features, Sequence[Facts]],
    validation: tuple[Features, Sequence[Facts]],
    clock: StepBudget,
    *,
    seed: int,
    on_row: Callable[[LanguageRow], None],
) -> None:
    """Train projector and language model in place until the clock runs out.

    The vision tower is not touched. The learning rate follows the clock.
    """
    torch.manual_seed(seed)
    features, facts = training
    texts = _caption_tokens(tokenizer, facts)
    weights = [
        *model.model.multi_modal_projector.parameters(),
        *model.model.language_model.parameters(),
        *model.lm_head.parameters(),
    ]
    prompt = _prompt_tokens(model, tokenizer)
    rng = np.random.default_rng([seed, 7])

    def loss_of(rows: NDArray[np.int64]) -> Tensor:
        spoken = _padded([texts[row][rng.integers(CAPTIONS_EACH)] for row in rows.tolist()])
        return _loss(model, prompt, _worse(features, rows), spoken)

    def note(step: int, loss: float) -> None:
        shares = _said_right(model, tokenizer, *validation)
        on_row(LanguageRow(step, clock.minutes(), loss, *shares))

    model.train()
    take_steps(weights, len(facts), loss_of, note, clock=clock, pace=PACE, seed=seed)
    model.eval()


def say(model: Any, tokenizer: Any, patches: Tensor) -> list[str]:
    """Narrate patches, shape (n, n_patches, dim), greedily."""
    before, after = _prompt_tokens(model, tokenizer)
    words = model.get_input_embeddings()
    n = len(patches)
    projected = model.model.multi_modal_projector(patches.to(words.weight.dtype))
    prompts = torch.cat(
        [words(before).expand(n, -1, -1), projected, words(after).expand(n, -1, -1)], 1
    )
    tokens = model.generate(
        inputs_embeds=prompts,
        attention_mask=torch.ones(prompts.shape[:2], dtype=torch.long),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
    )
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _worse(features: Features, rows: NDArray[np.int64]) -> Tensor:
    """Return patches of which some are paler and noisier than the tower gave them."""
    patches = features.patches[torch.from_numpy(rows)].float()
    n = len(rows)
    is_pale = (torch.rand(n, 1, 1) < PALE_SHARE).float()
    contrast = 1 - is_pale * (1 - PALEST) * torch.rand(n, 1, 1)
    noise = is_pale * MOST_NOISE * torch.rand(n, 1, 1) * torch.randn_like(patches) * features.std
    return features.mean + contrast * (patches - features.mean) + noise


def _loss(model: Any, prompt: tuple[Tensor, Tensor], patches: Tensor, spoken: Tensor) -> Tensor:
    """Return the cross entropy of the captions, their end tokens included."""
    words = model.get_input_embeddings()
    n = len(patches)
    before, after = (words(part).expand(n, -1, -1) for part in prompt)
    projected = model.model.multi_modal_projector(patches)
    known = words(spoken.clamp(min=0))
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([before, projected, after, known], dim=1), use_cache=False
    ).last_hidden_state
    # The token before each word predicts it.
    scores = model.lm_head(hidden[:, -spoken.shape[1] - 1 : -1])
    return F.cross_entropy(scores.transpose(1, 2), spoken, ignore_index=IGNORED)


def _prompt_tokens(model: Any, tokenizer: Any) -> tuple[Tensor, Tensor]:
    ids = tokenizer(PROMPT)["input_ids"]
    at = ids.index(model.config.image_token_id)
    return torch.tensor([ids[:at]]), torch.tensor([ids[at + 1 :]])


def _caption_tokens(tokenizer: Any, facts: Sequence[Facts]) -> list[list[list[int]]]:
    """Return the tokens of several captions for each picture."""
    texts = [
        f" {caption(each, row * CAPTIONS_EACH + number)}"
        for row, each in enumerate(facts)
        for number in range(CAPTIONS_EACH)
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ended = [[*each, tokenizer.eos_token_id] for each in ids]
    return [ended[first : first + CAPTIONS_EACH] for first in range(0, len(ended), CAPTIONS_EACH)]


def _padded(rows: Sequence[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])


@torch.inference_mode()
def _said_right(
    model: Any, tokenizer: Any, features: Features, facts: Sequence[Facts]
) -> tuple[float, float]:
    """Return the shares of pictures whose kinds, and whose facts altogether, are said right."""
    model.eval()
    spoken = [parse(text) for text in say(model, tokenizer, features.patches.float())]
    model.train()
    kinds = [each.kinds == truth.kinds for each, truth in zip(spoken, facts, strict=True)]
    whole = [parse(caption(truth)) == each for each, truth in zip(spoken, facts, strict=True)]
    return float(np.mean(kinds)), float(np.mean(whole))
