"""A LLaVA of about a million random weights, of the same classes as the 7B model.

Nothing was trained: its words mean nothing. It exists so that every code path that the real
model takes (loading, projecting patches, batching, stopping, streaming) runs on any computer
in a second, with nothing to download. A model trained on the simulated world has the same files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError

TINY_GRID = PatchGrid(rows=8, cols=8, dim=64)
"""The image tokens of the tiny model: a 112-pixel picture in patches of 14, as CLIP cuts them."""

PATCH_PIXELS = 14
"""Side of a patch in CLIP ViT-L/14, which LLaVA-1.5 looks through."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Statistics of the pictures that CLIP was trained with (openai/CLIP, clip.py)."""

TEXT_WIDTH = 128
TEXT_LAYERS = 3
VISION_LAYERS = 3
HEAD_WIDTH = 16

WEIGHT_STD = 0.3
"""Fifteen times the usual start, so that other patches give other words."""

WORD_STD = 0.2
"""Of the output rows of whole words; pieces of words have zero and are never said first."""

END_STD = 0.4
"""Of the output row of the end token: twice the words', for sentences of about ten words."""

MIN_WORDS = 1
"""A model that ends before it has said anything would be a failed narration, and is no use here."""

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
UNK, BOS, EOS, PAD, IMAGE = SPECIAL

WORDS = """
a an the one two three four some many few no each both all another other same this that
there here it its they them he she who which what is are was be being has have can seems looks
car cars truck van bus taxi bicycle bicycles cyclist cyclists motorbike tram trailer wheel wheels
headlight headlights taillight taillights window windows door doors roof bumper mirror
person people man men woman women child children pedestrian pedestrians crowd walker runner
dog dogs cat bird birds pigeon animal animals
street road lane lanes corner crossing crosswalk sidewalk pavement curb square bridge tunnel
junction alley path park yard fence gate wall walls post pole sign signs
traffic light lights lamp lamps lantern tree trees bush branch branches leaf leaves grass
house houses building buildings tower shop shops store front facade balcony stairs brick stone
bench bin box bag umbrella hat coat ball
sky cloud clouds sun moon star stars rain snow fog mist puddle shadow shadows shade darkness glow
day night evening morning dusk dawn noon
walks walking runs running rides riding drives driving moves moving stands standing waits waiting
turns turning crosses crossing passes passing stops stopped stays parked parking heads heading
comes coming goes going flies flying sits sitting leans leaning carries carrying holds holding
shines shining falls falling crawls jumps follows following enters leaves approaches
left right up down towards toward away forward back ahead behind near far close by beside between
in on at of from to into onto over under above below across along around through out off with
without next past against inside outside
and or but while as then not very quite almost still only just
big small large little long short tall wide narrow high low old new young empty full busy quiet
bright dark dim light grey black white pale clear blurred sharp distant lone single slow slowly
fast quickly straight alone together
sentence scene picture image view camera frame film movie video background foreground middle
side edge center top bottom distance ground surface line lines stripes shape shapes pattern texture
contrast
"""
"""Everyday words for street scenes; each becomes one token."""

OPENERS = "A An The One Two Three There It In On At This Some No Behind Near".split()
"""Words that also start a sentence."""

PROMPT_WORDS = ("USER", "ASSISTANT", "Describe")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}"
    "{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The conversation form of LLaVA-1.5."""


def write_random_llava(folder: Path, *, seed: int = 0, grid: PatchGrid = TINY_GRID) -> None:
    """Write a model folder that ``from_pretrained`` loads with no network.

    Parameters
    ----------
    grid : PatchGrid
        Square; ``dim`` is a multiple of 16.

    Raises
    ------
    UserError
        If there is something in the folder.
    MisuseError
        If the grid is one that CLIP cannot make.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Choose a new folder for the tiny model.")
    if grid.rows != grid.cols or grid.dim % HEAD_WIDTH:
        raise MisuseError(
            f"the tiny model needs a square grid and a dim that {HEAD_WIDTH} divides, got {grid}"
        )
    tokenizer = build_tokenizer(_all_words())
    write_folder(
        folder,
        build_model(tokenizer, grid, seed=seed),
        tokenizer,
        processor_config(grid.rows * PATCH_PIXELS, PATCH_PIXELS, crop=True),
    )


def write_folder(folder: Path, model: Any, tokenizer: Any, processor: dict[str, Any]) -> None:
    """Write a model, its tokenizer and its processor, as ``from_pretrained`` reads them.

    Files of the same names are replaced; the weights keep the dtype that they have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (folder / "processor_config.json").write_text(
        json.dumps(processor, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    with no_progress_bar():
        model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone


def build_tokenizer(whole: Sequence[str]) -> Any:
    """Return a byte-level BPE tokenizer that spells any text, and each given word as one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # an upper bound: training ends when every word is whole
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*(f" {word}" for word in whole), *PROMPT_WORDS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=PAD,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
    )


def build_model(tokenizer: Any, grid: PatchGrid, *, seed: int) -> Any:
    """Return a `LlavaForConditionalGeneration` of random weights, in evaluation mode."""
    import torch
    from transformers import LlavaForConditionalGeneration

    config = llava_config(
        tokenizer,
        grid,
        PATCH_PIXELS,
        vision_layers=VISION_LAYERS,
        max_tokens=2048,
        initializer_range=WEIGHT_STD,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        said = tokenizer.convert_tokens_to_ids(
            [f"Ġ{word}" for word in _all_words()] + [".", ","],
        )
        rows = model.lm_head.weight
        rows.zero_()
        rows[said] = torch.randn(len(said), TEXT_WIDTH) * WORD_STD
        rows[tokenizer.eos_token_id] = torch.randn(TEXT_WIDTH) * END_STD
    model.generation_config.min_new_tokens = MIN_WORDS
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def llava_config(
    tokenizer: Any,
    grid: PatchGrid,
    patch_pixels: int,
    *,
    vision_layers: int,
    max_tokens: int,
    **init: float,
) -> Any:
    """Return the `LlavaConfig` of both tiny models; `init` may set ``initializer_range``."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=grid.dim,
        intermediate_size=4 * grid.dim,
        num_hidden_layers=vision_layers,
        num_attention_heads=grid.dim // HEAD_WIDTH,
        image_size=grid.rows * patch_pixels,
        patch_size=patch_pixels,
        projection_dim=grid.dim,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=3 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_WIDTH // 32,
        num_key_value_heads=TEXT_WIDTH // 32,
        max_position_embeddings=max_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **init,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=grid.n_patches,
        **init,
    )


def processor_config(side: int, patch_pixels: int, *, crop: bool) -> dict[str, Any]:
    """Return what ``LlavaProcessor.save_pretrained`` writes, which would need Pillow to say it.

    Parameters
    ----------
    crop : bool
        Cut the middle out of an oblong picture, as CLIP does; otherwise squash it to the square.
    """
    square = {"height": side, "width": side}
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,
        "patch_size": patch_pixels,
        "vision_feature_select_strategy": "default",
        "image_processor": {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side} if crop else square,
            "do_center_crop": crop,
            "crop_size": square,
            "do_convert_rgb": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
            "resample": 3,
        },
    }


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for what takes a moment."""
    from transformers.utils import logging as transformers_logging

    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _all_words() -> list[str]:
    return sorted({*WORDS.split(), *OPENERS})
