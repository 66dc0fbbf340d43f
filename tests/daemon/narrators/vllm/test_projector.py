"""The projector alone does what it does in the whole model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from contracts.errors import UserError
from daemon.narrators.vllm.projector import Projector
from daemon.service.settings import PAPER_PROMPT
from tests.support.vllm_narrators import GRID
from tests.support.vllm_server import TINY_LLAVA


@pytest.fixture(scope="module")
def grids():
    """Return two grids of random patches."""
    return np.random.default_rng(0).normal(size=(2, GRID.n_patches, GRID.dim)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(grids):
    """Return what the whole model makes of them."""
    whole = LlavaForConditionalGeneration.from_pretrained(TINY_LLAVA, dtype=torch.float32)
    with torch.inference_mode():
        return whole.model.multi_modal_projector(torch.from_numpy(grids))


def projector_of(name, fitting, **options):
    return Projector(str(name), revision="", manifest=fitting, **({"device": "cpu"} | options))


@pytest.fixture
def copied(tmp_path):
    """Return a copy of the tiny LLaVA that may be changed."""
    return shutil.copytree(TINY_LLAVA, tmp_path / "llava")


def test_same_numbers_as_the_whole_model(fitting, grids, expected):
    """In float32 not one bit is different."""
    tokens = projector_of(TINY_LLAVA, fitting, dtype="float32").project(grids)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_float16_is_summed_in_float32(fitting, grids, expected, dtype):
    """What goes out is in the format that the model was saved in, and no less exact."""
    tokens = projector_of(TINY_LLAVA, fitting, dtype=dtype).project(grids)
    assert torch.equal(tokens, expected.to(torch.float16))


def test_bfloat16_is_near(fitting, grids, expected):
    """In bfloat16 both the sums and what goes out have its eight bits."""
    tokens = projector_of(TINY_LLAVA, fitting, dtype="bfloat16").project(grids)
    assert tokens.dtype == torch.bfloat16
    error = (tokens.float() - expected).abs().max() / expected.abs().max()
    assert error < 0.02


@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_in_several_files(fitting, grids, expected, copied, prefix):
    """Only the files that hold the projector are opened, whatever stands before its name."""
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    by_key = {}
    for key in weights:
        number = ("linear_1" in key) + 2 * ("linear_2" in key)
        by_key[prefix + key] = f"model-{number}.safetensors"
    for name in {"model-1.safetensors", "model-2.safetensors"}:  # the first is never downloaded
        part = {prefix + key: weights[key] for key in weights if by_key[prefix + key] == name}
        save_file(part, copied / name)
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": by_key}))
    tokens = projector_of(copied, fitting, dtype="float32").project(grids)
    assert torch.equal(tokens, expected)


def test_neither_language_model_nor_tower_is_there(fitting):
    """What is in memory is the projector: two matrices and their biases."""
    projector = projector_of(TINY_LLAVA, fitting)
    n_weights = sum(weight.numel() for weight in projector._layers.parameters())
    assert n_weights == 96 * 128 + 128 + 128 * 128 + 128


def test_the_prompt_is_read_as_the_model_reads_it(fitting):
    """With an image token for each patch."""
    ids = projector_of(TINY_LLAVA, fitting).prompt_ids(PAPER_PROMPT, 64)
    assert (ids[0], ids.count(4), len(ids)) == (1, 64, 90)


def test_another_tokenizer_is_refused(fitting):
    """A prompt in which the tokenizer finds no image is an error that says so."""
    with pytest.raises(UserError, match=r"<image> in the prompt as token 4 once.*0 times"):
        projector_of(TINY_LLAVA, fitting).prompt_ids("no picture", 64)


def remove(name):
    """Return what removes a file."""
    return lambda folder: (folder / name).unlink()


def without_projector(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "projector" not in key}
    save_file(kept, folder / "model.safetensors")


def with_half_a_projector(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "linear_2" not in k}, folder / "model.safetensors"
    )


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (remove("model.safetensors"), "model.safetensors"),
        (remove("config.json"), "config.json"),
        (remove("tokenizer.json"), "oken"),
        (without_projector, "no weights named multi_modal_projector"),
        (with_half_a_projector, "linear_2"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be loaded"),
    ],
)
def test_a_folder_that_lacks_something(fitting, copied, break_it, said):
    """What is missing or broken is named, with what is needed."""
    break_it(copied)
    with pytest.raises(UserError, match=r"the vllm narrator needs config\.json") as caught:
        projector_of(copied, fitting)
    assert said in str(caught.value)


def test_a_folder_that_is_not_there(fitting):
    """A path that is none is said so at once, and the hub is not asked."""
    with pytest.raises(UserError, match="no such folder"):
        projector_of("/nowhere/llava", fitting)
