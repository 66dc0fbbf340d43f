"""The recipe of the tiny LLaVA: what it learns from, that it learns, and that it goes on."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from contracts.errors import UserError
from simulation.captions import caption, vocabulary
from simulation.llava import recipe as recipes
from simulation.llava.language import say
from simulation.llava.loop import batches
from simulation.llava.pictures import (
    IGNORED,
    STREET,
    draw_pictures,
    fact_labels,
    patch_labels,
    squash,
)
from simulation.llava.recipe import Recipe, train_llava
from simulation.llava.sizes import SEEING_GRID
from simulation.llava.tower import patches_of, pixel_values
from simulation.scenes.facts import KINDS, Facts, Thing
from simulation.scenes.render import render
from simulation.scenes.scene import random_scene, scene_of

SHORT = Recipe(scenes=80, validation_scenes=8, tower_steps=3, language_steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a model that was trained for six steps."""
    out = tmp_path_factory.mktemp("recipe") / "tiny"
    train_llava(out, SHORT)
    return out


@pytest.fixture(scope="module")
def model(folder):
    """Return the model, loaded as any LLaVA is."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def test_folder_is_small_and_complete(folder, model):
    """Under eight million parameters and twenty megabytes; log and recipe lie beside them."""
    assert sum(each.numel() for each in model.parameters()) < 8_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000_000
    assert {"tower.csv", "language.csv", "recipe.json"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "work").exists()


def test_log_has_a_row_for_start_and_end(folder):
    """The log says where the training began and where it ended."""
    with (folder / "language.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 3]
    assert all(0 <= float(row["all_facts"]) <= 1 for row in rows)


def test_processor_cuts_pictures_as_the_training_did(folder):
    """A frame through the saved processor equals the pixels that the tower learned from."""
    frame = render(random_scene(4), 10, 11)[0]
    processor = AutoProcessor.from_pretrained(folder).image_processor
    values = processor(Image.fromarray(frame).convert("RGB"), return_tensors="pt").pixel_values
    assert torch.allclose(values, pixel_values(squash(frame)[None]), atol=1e-5)


def test_patches_have_the_grid(model):
    """Eight by eight patches at the layer that LLaVA reads."""
    patches = patches_of(model.model.vision_tower, torch.zeros(2, 3, 128, 128))
    assert patches.shape == (2, SEEING_GRID.n_patches, SEEING_GRID.dim)


def test_words_are_whole_tokens(folder):
    """Every word of the captions is one token, with a capital and without."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [form for word in vocabulary() for form in (word, word.capitalize())]
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in words)


def test_saying_equals_generating_from_pixels(folder, model):
    """Patches in the place of the image give the sentence that the whole model gives."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    frame = render(random_scene(9), 0, 1)[0]
    inputs = processor(
        images=Image.fromarray(frame).convert("RGB"),
        text="USER: <image>\nDescribe this scene in one sentence.\nASSISTANT:",
        return_tensors="pt",
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        patches = patches_of(model.model.vision_tower, inputs["pixel_values"])
        said = say(model, tokenizer, patches)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    assert said == [tokenizer.decode(new[0], skip_special_tokens=True).strip()]


def test_interrupted_training_keeps_its_tower(tmp_path, monkeypatch):
    """What was trained before an interruption is not trained again."""
    out = tmp_path / "tiny"

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("simulation.llava.language.train_language", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_llava(out, SHORT)
    kept = (out / "work" / "tower.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("simulation.llava.tower.train_tower", interrupt)
        patch.setattr("simulation.llava.recipe.shutil.rmtree", lambda _: None)
        train_llava(out, SHORT)
    assert (out / "work" / "tower.safetensors").read_bytes() == kept
    assert (out / "model.safetensors").is_file()


def test_fewer_pictures_than_a_batch_are_one_batch():
    """A handful of pictures still makes steps, all of them in each."""
    rows = next(batches(5, 128, seed=0))
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]


def test_work_of_another_recipe_is_refused(tmp_path):
    """Weights of two recipes are never mixed."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "recipe.json").write_text("{}\n")
    with pytest.raises(UserError, match="another recipe"):
        train_llava(tmp_path, SHORT)


def test_curves_are_drawn(folder, tmp_path):
    """The log becomes a picture."""
    pytest.importorskip("matplotlib")
    recipes.plot_curves(folder, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 500


def test_patch_labels_lie_where_the_thing_stands():
    """A near car at the bottom labels patches of the lower half, and none of the sky."""
    scene = scene_of(Facts("day", (Thing("car", 1, "left", "near"),)), 3)
    kind, heading, distance = patch_labels(scene, 0).reshape(3, 8, 8)
    is_car = kind == KINDS.index("car")
    assert 2 <= is_car.sum() <= 20
    assert not is_car[:4].any()
    assert (kind[~is_car] == STREET).all()
    assert (heading[~is_car] == IGNORED).all()
    assert (distance[is_car] == 0).all()


def test_every_thing_labels_a_patch():
    """However thin or small, each kind in a picture stands on one patch at least."""
    for seed in range(300):
        scene = random_scene(seed)
        found = set(patch_labels(scene, 30)[0].tolist())
        assert {KINDS.index(kind) for kind in scene.facts.kinds} <= found, scene


def test_fact_labels_are_the_facts():
    """Each row of numbers says what its caption says."""
    pictures = draw_pictures(2, 5)
    labels = fact_labels(pictures.facts)
    for row, facts in enumerate(pictures.facts):
        assert {KINDS[at] for at in np.flatnonzero(labels.kinds[row])} == facts.kinds
        assert KINDS[labels.subject[row]] == facts.subject.kind
        assert labels.count[row] + 1 == facts.subject.count
        assert caption(facts)
