"""``neurrate evaluate pooling``: the exchange of repeats, measured, and what it needs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoder_training.data_set.pool import PoolOptions, pool_data_sets
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from neurrate.cli import main
from tests.support.captioned_bundle import (
    captioned_set,
    write_captioned_bundle,
    write_captioned_inputs,
)


@pytest.fixture(scope="module")
def inputs(tiny_llava, tmp_path_factory):
    """Return a folder with a bundle, a data set whose held-out frames are repeated, and a model."""
    folder = tmp_path_factory.mktemp("pooling")
    write_captioned_inputs(folder, tiny_llava, held_out="middle")
    return folder


def _words(inputs: Path, out: Path, question: str = "pooling") -> list[str]:
    words = ["evaluate", question, str(inputs / "bundle"), str(inputs / "data"), "--out", str(out)]
    options = ["--windows", "60", "--workers", "1", "--device", "cpu"]
    return [*words, *options, "--sentence-model", str(inputs / "bert")]


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    """Return the folder of results."""
    out = tmp_path_factory.mktemp("results")
    assert main(_words(inputs, out)) == 0
    return out


def _table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_measure_is_given_for_each_population(results):
    """Intact, exchanged and their difference, which is that of the two."""
    rows = _table(results, "pooling-differences")
    names = ["all", "area:CA1", "area:LGd", "area:VISp", "cell_type:PV"]
    for measure in ("lead", "cosine", "correlation"):
        of_measure = [row for row in rows if row["measure"] == measure]
        assert [row["population"] for row in of_measure] == names
        for row in of_measure:
            less = float(row["exchanged"]) - float(row["intact"])
            assert float(row["difference"]) == pytest.approx(less, abs=1e-9)
            assert float(row["difference_low"]) <= less <= float(row["difference_high"])
    assert {row["exchange"] for row in _table(results, "pooling-exchanges")} == set("01234")
    assert [row["differences"] for row in _table(results, "pooling-null")] == ["25"] * 3
    assert (results / "pooling-differences.svg").is_file()


def test_exchanges_are_made_once(inputs, results, monkeypatch, capsys):
    """Five data sets lie below the results; the same command takes them again."""
    folders = sorted((results / "exchanged").iterdir())
    assert len(folders) == 5
    patches = (inputs / "data" / "patches.safetensors").stat().st_ino
    assert all((folder / "patches.safetensors").stat().st_ino == patches for folder in folders)
    before = (results / "pooling-differences.csv").read_bytes()
    monkeypatch.setattr("evaluation.questions.exchanged.pool_data_sets", None)
    assert main(_words(inputs, results)) == 0
    assert (results / "pooling-differences.csv").read_bytes() == before
    assert "3 times each" in capsys.readouterr().out


def test_frames_without_repeats_are_refused(tiny_llava, tmp_path, capsys):
    """One held-out repeat cannot be exchanged, and the message says what to hold out."""
    write_captioned_inputs(tmp_path, tiny_llava)
    assert main(_words(tmp_path, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "--split middle" in error
    assert "--held-out 2" in error
    assert not (tmp_path / "out" / "exchanged").exists()


@pytest.fixture(scope="module")
def pooled(tiny_llava, tmp_path_factory):
    """Return the same of two sessions that are pooled."""
    folder = tmp_path_factory.mktemp("pooled")
    small = captioned_set(tiny_llava, held_out="middle")
    for at, name in enumerate(("mouse1", "mouse2")):
        counts = np.roll(small.counts, at, axis=1)
        training_data = small.training_data.model_copy(update={"session_id": name})
        write_prepared(folder / name, replace(small, counts=counts, training_data=training_data))
    pool_data_sets(PoolOptions((folder / "mouse1", folder / "mouse2"), folder / "data"))
    write_captioned_bundle(folder / "bundle", load_prepared(folder / "data"))
    write_captioned_inputs(folder / "one", tiny_llava)
    (folder / "bert").symlink_to(folder / "one" / "bert")
    return folder


def test_growth_of_a_pool_is_drawn_by_session(pooled, tmp_path, capsys):
    """Each session has a line of its own, and as many units of all are compared with it."""
    assert main(_words(pooled, tmp_path, "scaling")) == 0
    fits = [row["population"] for row in _table(tmp_path, "scaling-fits")]
    assert fits == ["all", "cell_type:PV", "session:mouse1", "session:mouse2"]
    rows = _table(tmp_path, "scaling-sessions")
    assert [(row["session"], row["units"]) for row in rows] == [
        (name, units) for name in ("mouse1", "mouse2") for units in ("3", "10")
    ]
    assert "10 units of all sessions have a lead" in capsys.readouterr().out


def test_sessions_are_no_areas(pooled, tmp_path):
    """Regions and types compare areas and cell types alone."""
    assert main(_words(pooled, tmp_path, "regions-and-types")) == 0
    rows = _table(tmp_path, "regions-and-types-similarity")
    assert not any("session:" in row["one"] + row["other"] for row in rows)


def test_a_pool_is_exchanged_within_its_sessions(pooled, tmp_path, capsys):
    """Sessions are populations, and the exchanged data sets keep them."""
    assert main(_words(pooled, tmp_path)) == 0
    names = {row["population"] for row in _table(tmp_path, "pooling-differences")}
    assert {"session:mouse1", "session:mouse2"} < names
    (folder, *_) = (tmp_path / "exchanged").iterdir()
    assert len(load_facts(folder).sessions) == 2
    assert "units of different sessions were never together" in capsys.readouterr().out
