"""The tiny LLaVA loads, reads, speaks, stops, and is the same for the same seed."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from contracts.embedding import PatchGrid
from contracts.errors import MisuseError, UserError
from contracts.manifest import sha256_of
from simulation.tiny_llava import WORDS, write_random_llava

PROMPT = "USER: " + "<image>" * 64 + "\nDescribe this scene in one sentence.\nASSISTANT:"


@pytest.fixture(scope="module")
def model(tiny_llava):
    """Return the model, loaded as any LLaVA is."""
    return LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_llava):
    """Return its tokenizer."""
    return AutoTokenizer.from_pretrained(tiny_llava)


def test_model_is_small(model, tiny_llava):
    """One or two million parameters, less than ten megabytes of files."""
    assert 1_000_000 <= sum(each.numel() for each in model.parameters()) <= 2_000_000
    assert sum(path.stat().st_size for path in tiny_llava.iterdir()) < 10_000_000


def test_vision_tower_gives_the_tiny_grid(model):
    """A picture becomes 8 x 8 patches of 64 numbers at the layer that LLaVA reads."""
    pixels = torch.zeros(1, 3, 112, 112)
    with torch.inference_mode():
        layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert layers[-2][:, 1:].shape == (1, 64, 64)


def test_every_word_is_one_token(tokenizer):
    """A caption costs as many tokens as words."""
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in WORDS.split())


@pytest.mark.parametrize("text", ["A car drives.", "Zürich, 17 °C: œuvre?", "two\nlines  "])
def test_any_text_survives(tokenizer, text):
    """Words outside the vocabulary are spelled, not lost."""
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_greedy_words_are_varied_and_end(model, tokenizer):
    """Different pictures get different texts of many words, and some come to an end."""
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids.expand(8, -1)
    pixels = torch.randn(8, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said = model.generate(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=60,
        )[:, ids.shape[1] :]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    assert len(set(texts)) == 8
    assert len(set(" ".join(texts).split())) > 40
    assert bool((said == tokenizer.eos_token_id).any(dim=1).sum() >= 4)


def test_processor_file_fits_the_model(model, tiny_llava):
    """The picture size and the patch size of the processor are the vision tower's."""
    config = json.loads((tiny_llava / "processor_config.json").read_text())
    vision = model.config.vision_config
    assert config["patch_size"] == vision.patch_size
    assert config["image_processor"]["crop_size"] == dict.fromkeys(
        ("height", "width"), vision.image_size
    )


def test_processor_loads(tiny_llava):
    """AutoProcessor makes as many image tokens as the vision tower gives, and the pixels."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not among the dependencies")
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_llava)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert prompt == "USER: <image>\nDescribe.\nASSISTANT:"
    inputs = processor(text=prompt, images=image.new("RGB", (608, 304)), return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 3, 112, 112)
    assert prompt.count("<image>") == 1
    assert int((inputs.input_ids == processor.image_token_id).sum()) == 64


def test_same_seed_same_files(tiny_llava, tmp_path):
    """The folder is the same, file by file, for the same seed, and not for another."""
    write_random_llava(tmp_path / "same")
    write_random_llava(tmp_path / "other", seed=1)
    hashes = {path.name: sha256_of(path) for path in tiny_llava.iterdir()}
    assert {path.name: sha256_of(path) for path in (tmp_path / "same").iterdir()} == hashes
    assert sha256_of(tmp_path / "other" / "model.safetensors") != hashes["model.safetensors"]


def test_full_folder_is_refused(tmp_path):
    """Nothing that is there is written over."""
    (tmp_path / "notes.txt").write_text("...")
    with pytest.raises(UserError, match="not empty"):
        write_random_llava(tmp_path)


def test_grid_that_clip_cannot_make_is_refused(tmp_path):
    """CLIP cuts squares."""
    with pytest.raises(MisuseError, match="square"):
        write_random_llava(tmp_path / "new", grid=PatchGrid(2, 3, 64))
