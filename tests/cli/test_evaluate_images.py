"""``neurrate evaluate sparse-features --images``: features of images that are no frames."""

from __future__ import annotations

import csv
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from contracts.embedding import PatchGrid
from contracts.errors import UserError
from contracts.feature_file import (
    ARRAYS,
    FEATURES_FILE,
    METADATA,
    FeatureEncoder,
    FeatureFile,
)
from contracts.manifest import load_manifest
from daemon.narrators.features import load_features
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.frames.tower import VisionTower
from evaluation.questions.image_patches import find_images, known_patches
from neurrate.cli import main
from simulation.tiny_llava import write_random_llava
from tests.support.captioned_bundle import write_captioned_inputs

N_IMAGES = 26


class CountingTower(VisionTower):
    """Counts the pictures that it is given."""

    n_seen = 0

    def patches(self, frames):
        """Return those of the tower."""
        self.n_seen += len(frames)
        return super().patches(frames)


@pytest.fixture(scope="module")
def inputs(tiny_llava, tmp_path_factory):
    """Return a folder with a bundle, its data set, a sentence model and images of scenes."""
    folder = tmp_path_factory.mktemp("images")
    write_captioned_inputs(folder, tiny_llava)
    words = ["simulate", "scenes", str(folder / "images"), "--count", str(N_IMAGES)]
    assert main(words) == 0
    return folder


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    """Compare areas of eight units, and train for a few steps."""
    monkeypatch.setattr("evaluation.questions.populations.FEWEST_UNITS", 8)
    monkeypatch.setattr("evaluation.questions.feature_activations.N_STEPS", 30)


def _words(
    inputs: Path, out: Path, images: Path, *more: str, question: str = "sparse-features"
) -> list[str]:
    return [
        "evaluate", question, str(inputs / "bundle"), str(inputs / "data"), "--out", str(out),
        "--windows", "24", "--workers", "1", "--device", "cpu",
        "--sentence-model", str(inputs / "bert"), "--images", str(images), *more,
    ]  # fmt: skip


def _table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"sparse-features-{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_features_are_those_of_images(inputs, tmp_path, capsys):
    """Of several sizes, kinds and folders; the top ones of each feature are named."""
    images = Path(copytree(inputs / "images", tmp_path / "images"))
    (images / "more").mkdir()
    with Image.open(images / "scene_10.png") as image:
        image.convert("RGB").resize((90, 200)).save(images / "more" / "tall.JPG")
    (images / "captions.txt").write_text("no image", encoding="utf-8")
    out = tmp_path / "out"
    assert main(_words(inputs, out, images)) == 0
    rows = _table(out, "autoencoders")
    n_held_out = 3
    assert {row["learned_from"] for row in rows} == {"images"}
    assert {row["training_pictures"] for row in rows} == {str(N_IMAGES + 1 - n_held_out)}
    assert all(float(row["r2_held_out_images"]) < 1 for row in rows)
    names = {name for row in _table(out, "features") for name in row["top_images"].split("; ")}
    assert names <= set(find_images(images).names)
    assert len(names) > 5
    assert "of 24 images" in capsys.readouterr().out
    _check_file(out, inputs, rows[0])


def _check_file(out: Path, inputs: Path, row: dict[str, str]) -> None:
    """A narrator takes the file: names of all features, and the reference is of training frames."""
    manifest = load_manifest(inputs / "bundle")
    with safe_open(out / FEATURES_FILE, framework="np") as opened:
        file = FeatureFile.model_validate_json(opened.metadata()[METADATA])
        arrays = {name: opened.get_tensor(name) for name in ARRAYS}
    assert load_features(out / FEATURES_FILE, manifest, "all")
    assert len(file.names) == len(file.unique_to) == int(row["features"])
    assert all(file.names)
    assert file.bundle == manifest.sha256
    prepared = load_prepared(inputs / "data")
    data, parts = prepared.windows(manifest.window_spec.lag_ns)
    frames = np.unique(data.frame[parts.train])
    assert file.n_reference == len(frames)
    encoder = FeatureEncoder(file.k, file.scale, arrays["mean"], arrays["encoder"], arrays["bias"])
    codes = [encoder.mean_codes(prepared.targets[row].astype(np.float32)) for row in frames]
    assert np.mean(codes, axis=0) == pytest.approx(arrays["reference_mean"], rel=1e-3, abs=1e-5)
    assert np.std(codes, axis=0) == pytest.approx(arrays["reference_std"], rel=1e-3, abs=1e-5)
    assert np.linalg.norm(arrays["atoms"], axis=1) == pytest.approx(1, abs=1e-5)


def test_images_are_seen_by_the_tower_once(inputs, tiny_llava, tmp_path):
    """Their patches are found again; of another content they are computed, whatever its name."""
    tower = CountingTower(str(tiny_llava))
    images = Path(copytree(inputs / "images", tmp_path / "images"))
    first = known_patches(tmp_path / "out", find_images(images), tower)
    assert tower.n_seen == N_IMAGES
    again = known_patches(tmp_path / "out", find_images(images), tower)
    assert tower.n_seen == N_IMAGES
    assert (again == first).all()
    Image.fromarray(np.zeros((304, 608), np.uint8)).save(images / "scene_3.png")
    other = known_patches(tmp_path / "out", find_images(images), tower)
    assert tower.n_seen == 2 * N_IMAGES
    assert np.flatnonzero((other != first).any(axis=(1, 2))).tolist() == [3]


def test_names_are_in_natural_order(tmp_path):
    """Numbers by their value, folders among them."""
    for name in ("b10.png", "b9.png", "a/1.png", "b9/2.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    files = find_images(tmp_path)
    assert files.names == ("a/1.png", "b9.png", "b9/2.png", "b10.png")
    assert set(files.sizes) == {(4, 6)}


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    """With what was found: no folder, none in it, or files that are no images of eight bits."""
    images = tmp_path / "images"
    with pytest.raises(UserError, match="must be a folder of images"):
        find_images(images)
    images.mkdir()
    (images / "captions.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(UserError, match="has none"):
        find_images(images)
    (images / "x.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(images / "deep.png")
    with pytest.raises(UserError, match=r"2 of 2 in .* are not: deep\.png, x\.png"):
        find_images(images)


def test_an_image_too_large_for_pillow_is_refused(tmp_path, monkeypatch):
    """Pillow's error of a decompression bomb is of a kind of its own."""
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"1 of 1 in .* are not: large\.png"):
        find_images(tmp_path)


def test_an_image_that_is_cut_short_is_named(inputs, tiny_llava, tmp_path):
    """Its head is right, and its pixels are not there."""
    images = tmp_path / "images"
    images.mkdir()
    path = images / "scene_0.png"
    path.write_bytes((inputs / "images" / path.name).read_bytes()[:2000])
    with pytest.raises(UserError, match=r"scene_0\.png cannot be read"):
        known_patches(tmp_path / "out", find_images(images), VisionTower(str(tiny_llava)))


def test_what_does_not_fit_is_refused(inputs, tmp_path, capsys):
    """Too few images, a tower of other patches, a question without features: before any work."""
    out, images = tmp_path / "out", Path(copytree(inputs / "images", tmp_path / "images"))
    for number in range(N_IMAGES - 20):
        (images / f"scene_{number}.png").unlink()
    assert main(_words(inputs, out, images)) == 2
    said = capsys.readouterr().err
    assert "128 features need 1,280 patches" in said
    assert "20 images beside the tenth" in said
    assert main(_words(inputs, out, images, question="fidelity")) == 2
    assert "--images is for the question sparse-features" in capsys.readouterr().err
    write_random_llava(tmp_path / "other", grid=PatchGrid(rows=4, cols=4, dim=32))
    words = _words(inputs, out, inputs / "images", "--model", str(tmp_path / "other"))
    assert main(words) == 2
    assert "8 x 8 patches of 64 numbers" in capsys.readouterr().err
    assert not list(out.glob("sparse*"))
