import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    BertConfig,
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    LlavaForConditionalGeneration,
)

from contracts.errors import MisuseError, UserError
from encoder_training.frames.captioner import LLAVA_PROMPT, Captioner, fill_captions
from encoder_training.frames.captions import match_captions, read_captions
from evaluation.simulated_encoder import SHIPPED_MODEL
from simulation.scenes.movie import random_movie
from simulation.tiny_llava import no_progress_bar
from tests.support.patch_towers import two_movies

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "car", "dog", "is", "street"]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


class Counting:
    """A captioner that says the mean of a frame, and may be interrupted."""

    name = "counting"

    def __init__(self, stop_at=None):
        self.n_frames, self._n_calls, self._stop_at = 0, 0, stop_at

    def describe(self, frames):
        """Say the mean of each frame."""
        self._n_calls += 1
        if self._n_calls == self._stop_at:
            raise KeyboardInterrupt
        self.n_frames += len(frames)
        return [f"a picture of {frame.mean():.2f}" for frame in frames]


@pytest.fixture(scope="module")
def pictures():
    """Return frames of the world that the shipped model knows, shape (3, 304, 608)."""
    movie = random_movie("natural_movie_one", seed=5, n_scenes=3, frames_per_scene=1)
    return movie.frames(0, 3)


def test_the_shipped_llava_captions_its_world(pictures):
    """The paper's prompt and greedy words, as transformers generates them of one picture."""
    captioner = Captioner(str(SHIPPED_MODEL))
    captions = captioner.describe(pictures)
    with no_progress_bar():
        model = LlavaForConditionalGeneration.from_pretrained(SHIPPED_MODEL, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(SHIPPED_MODEL)
    for frame, text in zip(pictures, captions, strict=True):
        given = processor(
            images=Image.fromarray(frame).convert("RGB"), text=LLAVA_PROMPT, return_tensors="pt"
        )
        with torch.inference_mode():
            words = model.eval().generate(**given, do_sample=False, max_new_tokens=60)
        whole = processor.decode(words[0], skip_special_tokens=True)
        assert whole.endswith(text)
        assert "ASSISTANT" not in text
        assert text.endswith(".")
    assert captioner.name == "tiny-llava"


def test_a_blip_captions_without_a_prompt(tmp_path):
    """A model that only captions is given the picture alone."""
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)})
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    ends = {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(1)
    model = BlipForConditionalGeneration(
        BlipConfig(
            vision_config=SIZES | {"image_size": 28, "patch_size": 14},
            text_config=SIZES | text | ends,
            projection_dim=16,
        )
    )
    with no_progress_bar():
        model.save_pretrained(tmp_path)
    processor = BlipImageProcessorPil(size={"height": 28, "width": 28})
    BlipProcessor(processor, tokenizer).save_pretrained(tmp_path)
    captioner = Captioner(str(tmp_path))
    frames = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    captions = captioner.describe(frames)
    assert len(captions) == 3
    assert set(" ".join(captions).split()) <= set(WORDS)
    assert any(captions)
    assert captions[1:2] == captioner.describe(frames[1:2])


def test_lines_are_appended_and_gone_on_with(tmp_path):
    """After an interruption only what is missing is captioned; a torn line is cut off."""
    frames, movies = two_movies()
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    fill_captions(whole, frames, movies, Counting(), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        fill_captions(cut, frames, movies, Counting(stop_at=3), batch_size=4)
    with cut.open("a") as file:
        file.write('{"movie": "fir')
    rest = Counting()
    fill_captions(cut, frames, movies, rest, batch_size=4)
    assert rest.n_frames == len(frames.number) - 8
    assert cut.read_bytes() == whole.read_bytes()
    matched = match_captions(read_captions(cut), frames)
    assert matched.notes == ()
    assert matched.captions[2] == f"a picture of {movies['first'].array[2].mean():.2f}"
    fill_captions(cut, frames, movies, Counting(stop_at=1))
    assert json.loads(cut.read_text().splitlines()[0])["by"] == "counting"


def test_every_third_frame_is_captioned(tmp_path):
    """The first of each movie and each third after it; the others take the nearest."""
    frames, movies = two_movies()
    path = tmp_path / "captions.jsonl"
    fill_captions(path, frames, movies, Counting(), every=3)
    found = read_captions(path)
    assert [caption.number for caption in found] == [0, 3, 6, 9, 0, 3, 6]
    matched = match_captions(found, frames, nearest=True)
    assert not len(matched.missing)
    assert matched.captions[1] == matched.captions[0]
    assert matched.captions[2] == matched.captions[3]
    with pytest.raises(MisuseError, match="every must be 1 or more, got 0"):
        fill_captions(path, frames, movies, Counting(), every=0)


@pytest.mark.parametrize("by", [{"by": "another"}, {}], ids=["another", "a person"])
def test_captions_of_two_captioners_are_not_mixed(tmp_path, by):
    """A file by another captioner, or by a person, is not added to."""
    frames, movies = two_movies()
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps({"movie": "first", "number": 0, "caption": "A car."} | by) + "\n")
    with pytest.raises(UserError, match="and those of counting would stand among them"):
        fill_captions(path, frames, movies, Counting())


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path):
    """No traceback for a folder that is missing."""
    frames, movies = two_movies()
    with pytest.raises(UserError, match=r"cannot be written .*No such file or directory"):
        fill_captions(tmp_path / "no" / "captions.jsonl", frames, movies, Counting())


def test_a_model_that_captions_nothing_is_refused(tmp_path):
    """The message names one that does."""
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="Salesforce/blip-image-captioning-base"):
        Captioner(str(tmp_path))
    with pytest.raises(UserError, match="is no folder"):
        Captioner("./no-such-folder")
