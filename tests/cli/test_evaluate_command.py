"""``neurrate evaluate``: from a bundle and its data set to tables, figures and a page."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from contracts.population import Population
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from evaluation.caption_scores.narrating import WindowNarrator
from evaluation.questions.narration_store import file_stamps
from neurrate.cli import main
from tests.support.captioned_bundle import (
    copy_bundle,
    write_captioned_inputs,
    write_same_captions,
)

WINDOWS = 24


@pytest.fixture(scope="module")
def inputs(tiny_llava, tmp_path_factory):
    """Return a folder with a bundle, its data set and a sentence model."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_captioned_inputs(folder, tiny_llava)
    return folder


def _words(inputs: Path, out: Path, question: str = "fidelity", **more: str | Path) -> list[str]:
    options = {
        "windows": WINDOWS, "workers": 1, "device": "cpu", "sentence-model": inputs / "bert",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }  # fmt: skip
    words = ["evaluate", question, str(inputs / "bundle"), str(inputs / "data"), "--out", str(out)]
    return words + [word for name, value in options.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    """Return the folder of results of every question."""
    out = tmp_path_factory.mktemp("results")
    assert main(_words(inputs, out, "all")) == 0
    return out


def _table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_there_twice_and_in_the_page(results):
    """PNG and SVG of each figure; the page holds the pictures and links every table."""
    page = (results / "report.html").read_text(encoding="utf-8")
    pictures = sorted(path.stem for path in results.glob("*.png"))
    assert "fidelity-scores" in pictures
    assert pictures == sorted(path.stem for path in results.glob("*.svg"))
    assert page.count("data:image/svg+xml") == len(pictures)
    for table in results.glob("*.csv"):
        assert f'href="{table.name}"' in page
    assert "circular shifts" in page
    assert f"there are {WINDOWS} alignments" in page


def test_random_weights_are_no_better_than_their_controls(results):
    """An encoder that learned nothing is never above its controls; its floors are there too."""
    rows = {row["narrator"]: row for row in _table(results, "fidelity-scores")}
    assert next(iter(rows)) == "true patches"
    assert {"all", "area:CA1", "cell_type:PV", "shuffled", "silent"} < rows.keys()
    assert {"nearest caption", "mean patches"} < rows.keys()
    assert rows["all"]["verdict"] != "above controls"
    assert rows["silent"]["different_sentences"] == "1"
    assert float(rows["silent"]["lead"]) == pytest.approx(0, abs=1e-6)
    assert all(0 < float(row["p"]) <= 1 for row in rows.values())
    assert {row["frames"] for row in rows.values()} == {str(WINDOWS)}


def test_growth_is_fitted_where_there_are_enough_units(results):
    """All 24 units have a line over three sizes; areas of eight are named as left out."""
    (row,) = _table(results, "scaling-fits")
    assert (row["population"], row["largest"]) == ("all", "24")
    assert [row["units"] for row in _table(results, "scaling-points")] == ["3", "10", "24"]
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "with fewer than 20 units: area:CA1" in page


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """Return a folder with a bundle of a short training, its run, its data set and the rest."""
    folder = tmp_path_factory.mktemp("trained")
    data = str(inputs / "data")
    options = (
        "--size", "tiny", "--lag-ms", "100", "--training-epochs", "1", "--windows-per-epoch", "32",
        "--test-windows", "20", "--device", "cpu", "--threads", "1",
    )  # fmt: skip
    assert main(["train", data, str(folder / "run"), *options]) == 0
    run, bundle = str(folder / "run"), str(folder / "bundle")
    assert main(["export", run, bundle, "--windows", "4", "--narrations", "0"]) == 0
    for name in ("data", "bert"):
        (folder / name).symlink_to(inputs / name)
    return folder


def test_an_encoder_is_trained_for_each_subset_once(trained, tmp_path, monkeypatch, capsys):
    """Ten units have a lead of their own; the same command trains nothing again."""
    monkeypatch.setattr("evaluation.questions.scaling.N_TRAINED_ORDERS", 1)
    monkeypatch.setattr("evaluation.questions.scaling.SIZES", (10,))
    assert main(_words(trained, tmp_path, "scaling", run=trained / "run")) == 0
    points = _table(tmp_path, "scaling-points")
    assert [(row["encoder"], row["units"]) for row in points] == [
        (encoder, units) for encoder in ("masked", "trained") for units in ("10", "24")
    ]
    leads = {(row["encoder"], row["units"]): row["lead"] for row in points}
    assert leads["masked", "24"] == leads["trained", "24"]
    assert leads["masked", "10"] != leads["trained", "10"]
    measures = [(row["measure"], row["units"]) for row in _table(tmp_path, "scaling-trained")]
    assert measures == [("slope", ""), ("lead of the subsets", ""), ("lead", "10")]
    assert "an encoder trained for each subset" in capsys.readouterr().out
    (folder,) = (tmp_path / "trained").iterdir()
    subset = load_prepared(folder / "data")
    assert len(subset.population) == 10
    whole = load_prepared(trained / "data")
    rows = [whole.population.units.index(unit) for unit in subset.population.units]
    assert (subset.counts == whole.counts[:, rows]).all()
    assert subset.targets.shape == whole.targets.shape
    before = (tmp_path / "scaling-points.csv").read_bytes()
    monkeypatch.setattr("evaluation.questions.trained_subsets.train_run", None)
    assert main(_words(trained, tmp_path, "scaling", run=trained / "run")) == 0
    assert (tmp_path / "scaling-points.csv").read_bytes() == before


def test_a_run_must_be_that_of_the_bundle(inputs, trained, tmp_path, capsys):
    """Another run, one of a bundle that names none, and a question that trains nothing."""
    words = _words(inputs, tmp_path, "scaling", run=trained / "run")
    assert main(words) == 2
    assert "the sha256 of encoder.safetensors is" in capsys.readouterr().err
    copy_bundle(trained / "bundle", tmp_path / "unnamed" / "bundle", sha256="")
    for name in ("data", "bert"):
        (tmp_path / "unnamed" / name).symlink_to(inputs / name)
    assert main(_words(tmp_path / "unnamed", tmp_path, "scaling", run=trained / "run")) == 2
    assert "names no training" in capsys.readouterr().err
    assert main(_words(trained, tmp_path, "fidelity", run=trained / "run")) == 2
    assert "--run is for the question scaling" in capsys.readouterr().err


def test_every_test_is_tried_on_labels_without_a_relation(results):
    """The table counts 200 sets of labels for each test, with an interval around the rate."""
    rows = _table(results, "false-positives-rates")
    assert {row["labels"] for row in rows} >= {"shifted captions", "captions in any order"}
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "captions of other frames: not tried" in page
    assert len({row["test"] for row in rows}) == 8
    for row in rows:
        assert row["shuffles"] == "200"
        assert float(row["rate_low"]) <= float(row["rate"]) <= float(row["rate_high"])


def test_a_question_that_units_do_not_allow_says_so(inputs, results, tmp_path, capsys):
    """Alone it is refused; among others it is a sentence of the page."""
    problem = "two areas or cell types of 10 units or more"
    assert problem in (results / "report.html").read_text(encoding="utf-8")
    assert main(_words(inputs, tmp_path, "regions-and-types")) == 2
    assert problem in capsys.readouterr().err


def test_regions_are_compared_at_equal_size(inputs, results, tmp_path, monkeypatch):
    """Every pair of areas, types and controls has a similarity; the text is classified."""
    monkeypatch.setattr("evaluation.questions.populations.FEWEST_UNITS", 8)
    out = tmp_path / "out"
    copytree(results, out)
    assert main(_words(inputs, out, "regions-and-types")) == 0
    pairs = {(row["one"], row["other"]) for row in _table(out, "regions-and-types-similarity")}
    assert ("area:CA1", "area:LGd") in pairs
    assert ("silent", "true patches") in pairs
    (row,) = _table(out, "regions-and-types-classifier")
    assert (row["kind"], row["classes"]) == ("areas", "3")
    rows = _table(out, "regions-and-types-apart")
    assert {row["population"] for row in rows} == {"area:CA1", "area:LGd", "area:VISp"}
    assert {row["random_populations"] for row in rows} == {"39"}
    assert all(1 / 40 <= float(row["p"]) <= 1 for row in rows)
    assert len(_table(out, "regions-and-types-excerpts")) == 8
    assert len(list(out.glob("regions-and-types-*.svg"))) == 4


def test_sparse_features_are_compared_at_equal_size(inputs, tmp_path, monkeypatch):
    """Areas are compared by both measures; random weights follow nothing; facts are checked."""
    monkeypatch.setattr("evaluation.questions.populations.FEWEST_UNITS", 8)
    monkeypatch.setattr("evaluation.questions.feature_activations.N_STEPS", 30)
    things = [{"kind": "car", "count": 1, "heading": "left", "distance": "near"}]
    lines = [
        json.dumps({"frame": frame, "facts": {"light": light, "things": things}}) + "\n"
        for frame, light in enumerate(["day"] * 120 + ["night"] * 120)
    ]
    (tmp_path / "natural_movie_one_facts.jsonl").write_text("".join(lines))
    out = tmp_path / "out"
    assert main(_words(inputs, out, "sparse-features", facts=tmp_path)) == 0
    rows = _table(out, "sparse-features-counts")
    assert [row["population"] for row in rows] == ["area:CA1", "area:LGd", "area:VISp"]
    assert {row["units"] for row in rows} == {"8"}
    assert all(row["following"] == "0" for row in rows)
    shuffles = _table(out, "sparse-features-shuffles")
    permuted = [row for row in shuffles if row["labels"].startswith("names permuted")]
    assert [row["unique_by"] for row in permuted] == ["magnitude", "following"]
    assert all(float(row["share_with_any"]) <= 0.06 for row in permuted)
    assert len(_table(out, "sparse-features-autoencoders")) == 3
    assert not (out / "narrations.sqlite").exists()
    (tmp_path / "natural_movie_one_facts.jsonl").write_text(lines[0])
    assert main(_words(inputs, out, "sparse-features", facts=tmp_path)) == 2


def test_narrations_are_made_once(inputs, tmp_path, monkeypatch):
    """The same command narrates nothing; where some are lost, these alone; numbers stay equal."""
    out = tmp_path / "again"
    assert main(_words(inputs, out)) == 0
    scores = (out / "fidelity-scores.csv").read_bytes()
    made: list[int] = []
    narrate = WindowNarrator.narrate

    def counted(self, rows, selections, *, from_frames=()):
        made.append(len(rows) * (len(selections) + len(from_frames)))
        return narrate(self, rows, selections, from_frames=from_frames)

    monkeypatch.setattr(WindowNarrator, "narrate", counted)
    assert main(_words(inputs, out)) == 0
    assert made == []
    with sqlite3.connect(out / "narrations.sqlite") as store:
        keys = store.execute("SELECT key FROM narrations ORDER BY key LIMIT 5").fetchall()
        store.executemany("DELETE FROM narrations WHERE key = ?", keys)
    store.close()
    assert main(_words(inputs, out)) == 0
    assert sum(made) == 5
    assert (out / "fidelity-scores.csv").read_bytes() == scores


def test_processes_narrate_the_same(inputs, results, tmp_path):
    """Two processes write the same tables as one."""
    words = _words(inputs, tmp_path, workers="2")
    subprocess.run([sys.executable, "-m", "neurrate", *words], check=True, timeout=240)
    name = "fidelity-sentences.csv"
    assert (tmp_path / name).read_bytes() == (results / name).read_bytes()


def test_a_bundle_that_names_no_data_set_takes_one_of_its_units(inputs, tmp_path, capsys):
    """The page says that nothing is known of its training; other units are refused."""
    folder = tmp_path / "unnamed"
    copy_bundle(inputs / "bundle", folder / "bundle", sha256="")
    for name in ("data", "bert"):
        copytree(inputs / name, folder / name)
    assert main(_words(folder, tmp_path / "out")) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "another recording of the same units" in page
    prepared = load_prepared(folder / "data")
    others = [replace(unit, unit_id=f"x{unit.unit_id}") for unit in prepared.population.units]
    write_prepared(folder / "other", replace(prepared, population=Population(others)))
    capsys.readouterr()
    words = [
        word.replace(str(folder / "data"), str(folder / "other"))
        for word in _words(folder, tmp_path / "out")
    ]
    assert main(words) == 2
    assert "24 units and its windows of 12 bins" in capsys.readouterr().err


def test_facts_that_are_known_are_scored(inputs, tmp_path, capsys):
    """True facts of each frame give a table; a frame that is missing is named."""
    facts = {
        "light": "day",
        "things": [{"kind": "car", "count": 1, "heading": "left", "distance": "near"}],
    }
    lines = [json.dumps({"frame": frame, "facts": facts}) + "\n" for frame in range(240)]
    path = tmp_path / "natural_movie_one_facts.jsonl"
    path.write_text("".join(lines))
    out = tmp_path / "out"
    assert main(_words(inputs, out, facts=tmp_path)) == 0
    assert {row["measure"] for row in _table(out, "fidelity-facts")} >= {"object_f1", "light"}
    path.write_text(lines[0])
    assert main(_words(inputs, out, facts=tmp_path)) == 2
    assert "natural_movie_one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("caption", "problem"), [("", "has none"), ("A street.", "two different captions")]
)
def test_captions_must_be_there_and_differ(inputs, tmp_path, capsys, caption, problem):
    """Without captions, or with one for all frames, nothing can be compared."""
    write_same_captions(inputs, tmp_path, caption)
    assert main(_words(tmp_path, tmp_path / "out")) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"windows": "19"}, "--windows"),
        ({"sentence_model": "nowhere/at/all"}, "hf download"),
        ({"facts": "nowhere/at/all"}, "MOVIE_facts.jsonl"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(
    inputs, tmp_path, capsys, monkeypatch, options, problem
):
    """What the user can correct is one sentence with exit code 2, and nothing was narrated."""
    monkeypatch.setattr(WindowNarrator, "narrate", None)
    assert main(_words(inputs, tmp_path / "out", **options)) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("question", "options", "problem"),
    [
        ("fidelity", {"sentence_model": "nowhere/at/all"}, "hf download"),
        ("fidelity", {"facts": "nowhere/at/all"}, "MOVIE_facts.jsonl"),
        ("fidelity", {"journal": "mine"}, "give one"),
        ("scaling", {}, "Leave --subscribe out"),
        ("all", {"images": "photos"}, "Leave --images or --subscribe out"),
    ],
)
def test_a_daemon_is_recorded_after_everything_else_is_checked(
    inputs, tmp_path, capsys, question, options, problem
):
    """Nobody is at the address, and the refusal does not wait for anybody."""
    nobody = {"subscribe": "tcp://127.0.0.1:1", **options}
    assert main(_words(inputs, tmp_path / "out", question, **nobody)) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out" / "journal").exists()


def test_a_replay_has_a_journal_of_its_own(inputs, tmp_path, capsys):
    """One that is there is not continued."""
    (tmp_path / "journal").mkdir()
    assert main(_words(inputs, tmp_path, subscribe="tcp://127.0.0.1:1")) == 2
    assert "Evaluate it with --journal" in capsys.readouterr().err


def test_captions_are_checked_before_a_daemon_is_recorded(inputs, tmp_path, capsys):
    """A data set that cannot be scored is refused as without a daemon."""
    write_same_captions(inputs, tmp_path, "")
    assert main(_words(tmp_path, tmp_path / "out", subscribe="tcp://127.0.0.1:1")) == 2
    assert "has none" in capsys.readouterr().err


def test_a_changed_model_is_another_narrator(tmp_path):
    """Files of another size or time give other keys; a hub id has no files."""
    (tmp_path / "weights").write_bytes(b"1")
    before = file_stamps(tmp_path)
    (tmp_path / "weights").write_bytes(b"22")
    assert file_stamps(tmp_path) != before
    assert file_stamps(Path("llava-hf/llava-1.5-7b-hf")) == []
