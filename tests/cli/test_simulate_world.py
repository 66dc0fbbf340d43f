"""The verbs that make the simulated world: a session, a page of scenes, an encoder, a bundle."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from contracts.manifest import load_manifest
from evaluation.simulated_encoder import SHIPPED_MODEL
from neurrate.cli import main
from simulation.seeds import day_of
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.trains import TrainReader
from tests.support.pictures import no_drawing


def test_session_is_written_with_captions(tmp_path, capsys):
    """A short session replays: units, spikes, and marks that say what was on the screen."""
    path = tmp_path / "session.nwb"
    words = ["--units", "60", "--minutes", "1.1", "--repeats", "1", "--no-frames"]
    assert main(["simulate", "session", str(path), *words]) == 0
    assert "60 units" in capsys.readouterr().out
    source = NwbSource(str(path))
    marks = list(source.marks())
    source.close()
    assert len(source.population) == 60
    shown = {mark.stimulus for mark in marks if mark.caption}
    assert shown == {"natural_movie_one", "natural_movie_long"}
    assert (tmp_path / "session_movies").is_dir()


def test_two_animals_see_the_same_movies_on_days_of_their_own(tmp_path):
    """Frames and captions are the same; times, units, spikes and names of sessions are not."""
    sources = []
    for animal in ("7", "8"):
        path = tmp_path / f"animal{animal}.nwb"
        words = ["--units", "60", "--minutes", "1.1", "--repeats", "1", "--no-frames"]
        assert main(["simulate", "session", str(path), *words, "--animal", animal]) == 0
        sources.append(NwbSource(str(path)))
    one, other = ([(mark.stimulus, mark.caption) for mark in of.marks()] for of in sources)
    assert one == other
    starts = tuple(source.presentations.start_ns for source in sources)
    assert not np.array_equal(starts[0], starts[1])
    assert sources[0].identifier == "700000000"  # the shipped animal's sessions are as they were
    assert sources[1].identifier == str(700_000_000 + day_of(8, 0))
    areas = [[unit.area for unit in source.population.units] for source in sources]
    assert areas[0] == areas[1]
    first, second = (TrainReader(source.trains).between(0, 10**10)[0] for source in sources)
    assert len(np.intersect1d(first, second)) < len(first) / 20
    for source in sources:
        source.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "0.5"], "leave no time for the long movie"),
        (["--units", "5", "--minutes", "12"], "60 units or more"),
    ],
)
def test_impossible_session_is_refused(tmp_path, capsys, words, said):
    """What cannot be simulated is said before anything is written."""
    assert main(["simulate", "session", str(tmp_path / "s.nwb"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_scenes_are_drawn_on_a_page(tmp_path):
    """Five scenes take two rows of four."""
    path = tmp_path / "page.png"
    assert main(["simulate", "scenes", str(path), "--count", "5"]) == 0
    with Image.open(path) as page:
        assert page.size[0] > page.size[1] > 300


def test_scenes_are_written_as_images(tmp_path):
    """One of each, of the size of a frame."""
    assert main(["simulate", "scenes", str(tmp_path / "images"), "--count", "2"]) == 0
    paths = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in paths] == ["scene_0.png", "scene_1.png"]
    with Image.open(paths[1]) as image:
        assert (image.size, image.mode) == ((608, 304), "L")


@pytest.mark.timeout(900)  # a training and an export, on a busy machine
@pytest.mark.usefixtures("shallow")
def test_trained_encoder_becomes_a_bundle(tmp_path, monkeypatch):
    """Weights, log and captioned frames of a short training are exported to a whole bundle."""
    monkeypatch.setattr("simulation.cortex.days.REPEATED_SCENES", 2)
    monkeypatch.setattr("evaluation.simulated_encoder.SIZE", "tiny")
    encoder, bundle = tmp_path / "encoder", tmp_path / "bundle"
    words = ["--scenes", "12", "--epochs", "1", "--model", str(SHIPPED_MODEL)]
    # On a busy machine the threads of a pool wait for each other.
    with no_drawing(), threadpool_limits(1):
        assert main(["simulate", "train-encoder", str(encoder), *words]) == 0
    facts = json.loads((encoder / "encoder.json").read_text(encoding="utf-8"))
    assert facts["recipe"]["scenes"] == 12
    assert facts["model"] == ""
    assert (encoder / "training.csv").read_text(encoding="utf-8").count("\n") == 2
    assert not list(tmp_path.glob(".*"))
    assert main(["bundle", "simulated", str(bundle), "--encoder", str(encoder)]) == 0
    manifest = load_manifest(bundle)
    assert manifest.model.trained
    assert len(manifest.population) == len(facts["units"])


def test_bundle_of_no_encoder_is_refused(tmp_path, capsys):
    """A folder without weights is named, with the command that makes them."""
    words = ["bundle", "simulated", str(tmp_path / "bundle"), "--encoder", str(tmp_path)]
    assert main(words) == 2
    assert "train-encoder" in capsys.readouterr().err


def test_folder_with_a_model_or_an_encoder_is_kept(tmp_path, capsys):
    """Nothing that took half an hour is replaced by mistake."""
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "encoder.json").touch()
    assert main(["simulate", "train-llava", str(tmp_path), "--scenes", "2"]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main(["simulate", "train-encoder", str(tmp_path), "--scenes", "2"]) == 2
    assert "holds a trained encoder already" in capsys.readouterr().err


def test_encoder_for_what_is_no_llava_is_refused(tmp_path, capsys):
    """An empty folder is no model, and is named."""
    empty = tmp_path / "notllava"
    empty.mkdir()
    words = ["simulate", "train-encoder", str(tmp_path / "e"), "--model", str(empty)]
    assert main([*words, "--scenes", "2"]) == 2
    assert "must be the folder of a LLaVA" in capsys.readouterr().err


def test_page_that_is_no_png_is_refused(tmp_path, capsys):
    """The ending says which kind of picture is written, and there is one."""
    assert main(["simulate", "scenes", str(tmp_path / "page.txt")]) == 2
    assert ".png" in capsys.readouterr().err


def test_probes_of_another_data_set_are_refused(tmp_path, capsys):
    """A folder that is no encoder, and one that is no data set, are named."""
    (tmp_path / "data").mkdir()
    words = ["simulate", "train-probes", str(tmp_path / "data"), str(tmp_path / "out")]
    assert main([*words, "--encoder", str(tmp_path)]) == 2
    assert "train-encoder" in capsys.readouterr().err
    assert main(words) == 2
    assert str(tmp_path / "data") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
