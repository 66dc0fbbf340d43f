import json
import re
import shutil
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionModel,
)

from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.errors import MisuseError, UserError
from contracts.manifest import Manifest, ManifestModel, PatchGridModel
from daemon.narrators.llava import LlavaNarrator
from daemon.narrators.protocol import narrate
from daemon.service.settings import PAPER_PROMPT
from encoder_training.frames import tower as towers
from encoder_training.frames.patch_store import fill_patches
from encoder_training.frames.tower import VisionTower, check_grid
from evaluation.simulated_encoder import SHIPPED_MODEL
from simulation.tiny_llava import no_progress_bar, write_random_llava
from tests.support.patch_towers import two_movies
from tests.support.tiny_bundle import tiny_windows

SMALL = PatchGrid(rows=3, cols=3, dim=16)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 30, 60), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 42,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the folder of a LLaVA of 3 x 3 patches of 16 numbers."""
    folder = tmp_path_factory.mktemp("models") / "small"
    write_random_llava(folder, grid=SMALL)
    return folder


def changed(small, folder, **settings):
    """Write the small LLaVA with other settings; its weights are drawn again."""
    shutil.copytree(small, folder)
    config = LlavaConfig.from_pretrained(folder)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    with no_progress_bar():
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def before_the_projector(folder, frames):
    """Return what transformers hands to the projector, float32."""
    with no_progress_bar():
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    values = processor(
        [Image.fromarray(frame) for frame in frames],
        return_tensors="pt",
    ).pixel_values
    handed = []
    model.model.multi_modal_projector.register_forward_pre_hook(
        lambda _, given: handed.append(given[0])
    )
    with torch.inference_mode():
        model.model.get_image_features(values)
    return handed[0]


@pytest.mark.parametrize("frames", [FRAMES, COLOUR], ids=["grey", "colour"])
def test_patches_are_what_the_projector_is_given(frames):
    """The shipped model's patches equal those of transformers, bit for bit."""
    tower = VisionTower(str(SHIPPED_MODEL))
    expected = before_the_projector(SHIPPED_MODEL, frames)
    assert torch.equal(tower._features(frames), expected)
    patches = tower.patches(frames)
    assert patches.dtype == np.float16
    np.testing.assert_array_equal(patches, expected.half().numpy())
    assert tower.grid == PatchGrid(rows=8, cols=8, dim=96)
    assert tower.language_model.model_id == "tiny-llava"
    assert tower.language_model.feature_layer == -2
    assert tower.language_model.select_strategy == "default"


@pytest.mark.parametrize(
    ("layer", "strategy", "grid"),
    [
        (-1, "default", SMALL),
        (1, "default", SMALL),
        (-2, "full", PatchGrid(rows=1, cols=10, dim=16)),
        ([-2, 1], "default", PatchGrid(rows=3, cols=3, dim=32)),
        ([-1, -2, 0], "full", PatchGrid(rows=1, cols=10, dim=48)),
    ],
)
def test_layer_and_strategy_are_the_model_s(tmp_path, small, layer, strategy, grid):
    """One layer or several, with the class token or without, as transformers reads the config."""
    folder = changed(
        small,
        tmp_path / "llava",
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    tower = VisionTower(str(folder))
    assert tower.grid == grid
    assert torch.equal(tower._features(FRAMES), before_the_projector(folder, FRAMES))
    wanted = tuple(layer) if isinstance(layer, list) else layer
    assert tower.language_model.feature_layer == wanted
    assert tower.language_model.select_strategy == strategy


def test_only_the_tower_s_files_are_read(tmp_path, small):
    """Shards of the language model need not be there: the tower is loaded from its own."""
    folder = tmp_path / "llava"
    shutil.copytree(small, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    hub = {  # as llava-hf/llava-1.5-7b-hf names them
        re.sub("vision_tower\\.", "vision_tower.vision_model.", name): weight
        for name, weight in weights.items()
        if "vision_tower." in name
    }
    save_file(hub, folder / "model-00001-of-00002.safetensors")
    shard_of = dict.fromkeys(hub, "model-00001-of-00002.safetensors")
    shard_of["language_model.lm_head.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    tower = VisionTower(str(folder))
    assert tower.sha256() == VisionTower(str(small)).sha256()
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors is in the index"):
        VisionTower(str(folder))


def test_weights_that_are_not_safetensors_are_loaded_whole(tmp_path, small):
    """An older folder takes more memory, and gives the same patches."""
    folder = tmp_path / "llava"
    shutil.copytree(small, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert VisionTower(str(folder)).sha256() == VisionTower(str(small)).sha256()


@pytest.mark.parametrize(
    ("kind", "config", "processor"),
    [
        (CLIPModel, CLIPConfig, CLIPImageProcessorPil),
        (CLIPVisionModel, CLIPConfig, CLIPImageProcessorPil),
        (SiglipModel, SiglipConfig, SiglipImageProcessorPil),
        (SiglipVisionModel, SiglipConfig, SiglipImageProcessorPil),
    ],
    ids=lambda value: value.__name__,
)
def test_towers_without_a_llava(tmp_path, kind, config, processor):
    """CLIP and SigLIP give the layer before the last; SigLIP has no class token to drop."""
    both = config(vision_config=VISION, text_config=TEXT)
    torch.manual_seed(0)
    model = kind(both.vision_config if "Vision" in kind.__name__ else both).eval()
    with no_progress_bar():
        model.save_pretrained(tmp_path)
    sides = {"size": {"height": 42, "width": 42}, "crop_size": {"height": 42, "width": 42}}
    processor(**sides).save_pretrained(tmp_path)
    tower = VisionTower(str(tmp_path))
    alone = getattr(model, "vision_model", model)
    values = tower._processor(
        [Image.fromarray(frame).convert("RGB") for frame in FRAMES],
        return_tensors="pt",
    ).pixel_values
    with torch.inference_mode():
        hidden = alone(values, output_hidden_states=True).hidden_states[-2]
    is_clip = config is CLIPConfig
    assert torch.equal(tower._features(FRAMES), hidden[:, int(is_clip) :])
    assert tower.grid == SMALL
    assert tower.language_model.select_strategy == ("default" if is_clip else "full")


def test_the_identity_follows_weights_and_settings(tmp_path, small):
    """What changes the patches changes the sha256, and the folder's name does not."""
    first = VisionTower(str(small)).sha256()
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    assert VisionTower(str(copy)).sha256() == first
    processor = json.loads((copy / "processor_config.json").read_text())
    processor["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (copy / "processor_config.json").write_text(json.dumps(processor))
    assert VisionTower(str(copy)).sha256() != first
    other = tmp_path / "other"
    write_random_llava(other, grid=SMALL, seed=1)
    assert VisionTower(str(other)).sha256() != first
    layer = changed(small, tmp_path / "layer", vision_feature_layer=-1)
    assert VisionTower(str(layer)).sha256() != first


def test_a_snapshot_of_the_hub_is_named_by_id_and_commit(tmp_path, small):
    """The folder in the hub's cache tells which model it is."""
    commit = "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"
    folder = tmp_path / "models--llava-hf--llava-1.5-7b-hf" / "snapshots" / commit
    shutil.copytree(small, folder)
    named = VisionTower(str(folder)).language_model
    assert (named.model_id, named.revision) == ("llava-hf/llava-1.5-7b-hf", commit)


def test_loading_is_silent(small, capfd):
    """No bar, no warning about torchvision, no list of the language model's weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VisionTower(str(small)).patches(FRAMES)
    assert capfd.readouterr() == ("", "")


def test_an_encoder_of_another_grid_is_refused(small):
    """An encoder for other patches is refused, with its grid and the tower's."""
    tower = VisionTower(str(small))
    check_grid(SMALL, tower)
    with pytest.raises(UserError, match=r"predicts 24 x 24 patches of 1024 .* 3 x 3 of 16"):
        check_grid(PatchGrid(24, 24, 1024), tower)


def test_frames_of_another_kind_are_a_misuse(small):
    """Frames are uint8; readers make sure of it."""
    with pytest.raises(MisuseError, match="float64"):
        VisionTower(str(small)).patches(FRAMES / 255)  # type: ignore[arg-type]


def test_patches_too_large_for_float16_are_refused(small):
    """Infinity would spoil every average over the patches."""
    tower = VisionTower(str(small))
    with torch.no_grad():
        tower._tower.get_parameter("encoder.layers.0.mlp.fc2.bias").fill_(1e6)
    with pytest.raises(UserError, match="must fit into float16"):
        tower.patches(FRAMES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no-such-folder", "is no folder, seen from"),
        ("no-such-folder", "is no folder, seen from"),
        ("nobody/no-such-model", "can be fetched from the Hugging Face hub, and .* is neither"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(name, message, monkeypatch):
    """Neither a folder nor an id that can be fetched: refused at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        VisionTower(name)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    """A folder without config.json is no model."""
    with pytest.raises(UserError, match=r"Give the folder that holds config\.json"):
        VisionTower(str(tmp_path))


def test_models_of_several_tiles_are_refused(tmp_path):
    """LLaVA-NeXT cuts a picture into tiles, whose number depends on the picture."""
    LlavaNextConfig(image_token_index=4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cuts it into several tiles"):
        VisionTower(str(tmp_path))


def test_other_models_are_refused(tmp_path):
    """The message names the kinds that are taken."""
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"must be a LLaVA, a CLIP or a SigLIP, and .* is a bert"):
        VisionTower(str(tmp_path))


def _damage(folder, name, change):
    """Change a JSON file of a model."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_models_with_a_part_missing_are_refused(tmp_path, small):
    """No processor, no weights of the tower, pictures of another size, patches that do not fit."""
    folders = {}
    for name in ("processor", "weights", "pictures", "patches"):
        folders[name] = tmp_path / name
        shutil.copytree(small, folders[name])
    (folders["processor"] / "processor_config.json").unlink()
    weights = load_file(folders["weights"] / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("class_embedding"))]
    save_file(weights, folders["weights"] / "model.safetensors")
    _damage(
        folders["pictures"],
        "processor_config.json",
        lambda content: content["image_processor"].update(crop_size={"height": 28, "width": 42}),
    )
    _damage(
        folders["patches"],
        "config.json",
        lambda content: content["vision_config"].update(patch_size=13),
    )
    for name, message in (
        ("processor", "has no image processor"),
        ("weights", "1 weights are not in .*class_embedding"),
        ("pictures", "42 x 42 pixels, as its vision tower takes, and makes 28 x 42"),
        ("patches", "pictures of 42 and patches of 13 pixels"),
    ):
        with pytest.raises(UserError, match=message):
            VisionTower(str(folders[name]))


def test_a_gpu_that_is_not_there_is_a_sentence(small):
    """The message says what to use instead."""
    with pytest.raises(UserError, match="device 'cuda:99' is not there"):
        VisionTower(str(small), device="cuda:99")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_mixed_precision_is_near(small):
    """On a GPU the patches are those of the CPU but for rounding."""
    expected = VisionTower(str(small)).patches(FRAMES).astype(np.float32)
    found = VisionTower(str(small), device="cuda")
    assert found.precision == "float16"
    difference = np.abs(found.patches(FRAMES).astype(np.float32) - expected)
    assert difference.max() < 0.02 * np.abs(expected).max()


def test_an_interrupted_tower_goes_on_to_the_same_file(tmp_path, small, monkeypatch):
    """Patches of a network, loaded again after an interruption, are the same bit for bit."""
    monkeypatch.setattr(towers, "FRAMES_AT_ONCE", 4)
    frames, movies = two_movies()
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    fill_patches(whole, frames, movies, VisionTower(str(small)))
    tower = VisionTower(str(small))
    looks = iter(range(2))
    look = tower.patches

    def look_twice(seen):
        if next(looks, None) is None:
            raise KeyboardInterrupt
        return look(seen)

    monkeypatch.setattr(tower, "patches", look_twice)
    with pytest.raises(KeyboardInterrupt):
        fill_patches(cut, frames, movies, tower)
    fill_patches(cut, frames, movies, VisionTower(str(small)))
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("layer", "strategy"), [(-2, "full"), ([-2, 1], "default")], ids=["full", "two layers"]
)
def test_the_narrator_takes_such_patches(tmp_path, small, stub_bundle, layer, strategy):
    """What the tower gives goes through the daemon as the picture goes through the whole model."""
    settings = {"vision_feature_layer": layer, "vision_feature_select_strategy": strategy}
    folder = changed(small, tmp_path / "llava", **settings)
    tower = VisionTower(str(folder))
    made_for = {
        "language_model": tower.language_model,
        "patch_grid": PatchGridModel(**asdict(tower.grid)),
        "sha256": {},
    }
    model = ManifestModel.model_validate_json(
        stub_bundle.model.model_copy(update=made_for).model_dump_json()
    )
    manifest = Manifest(model, stub_bundle.folder, stub_bundle.sha256)
    narrator = LlavaNarrator(
        folder, manifest=manifest, prompt=PAPER_PROMPT, max_new_tokens=6, threads=1
    )
    (window,) = tiny_windows(1)
    (patches,) = tower.patches(FRAMES[:1]).astype(np.float32)
    (narration,) = narrate(narrator, [PatchEmbedding(window, "all", 12, tower.grid, patches)])
    with no_progress_bar():
        whole = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = PAPER_PROMPT.replace("<image>", "<image>" * tower.grid.n_patches)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    values = tower._processor(
        [Image.fromarray(FRAMES[0]).convert("RGB")], return_tensors="pt"
    ).pixel_values
    with torch.inference_mode():
        words = whole.generate(
            input_ids=ids,
            pixel_values=values,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=6,
        )[0, ids.shape[1] :]
    assert narration.text == tokenizer.decode(words, skip_special_tokens=True).strip()
    assert narration.text


def test_a_slow_tower_is_given_few_pictures_at_once(small, monkeypatch):
    """An interruption loses one run of the tower, so a run on a CPU has a bound."""
    assert VisionTower(str(small)).frames_at_once == towers.FRAMES_AT_ONCE
    monkeypatch.setattr(towers, "CPU_OPERATIONS", 1.0)
    assert VisionTower(str(small)).frames_at_once == 1
