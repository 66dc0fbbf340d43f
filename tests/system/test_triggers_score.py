"""A dry run of rules through whole processes: what was planted is found, and nothing is fired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contracts.manifest import Manifest, load_manifest, sha256_of, write_manifest
from contracts.window import Window
from daemon.encoders.auto import load_encoder
from daemon.triggers.probes import ConceptProbes
from neurrate.cli import main
from tests.support.nwb_files import label_columns, write_presentations, write_units
from tests.support.tiny_bundle import TINY_SPEC, tiny_population
from tests.support.triggers import write_probes

SECONDS = 40.0
BUSY_HZ, QUIET_HZ = 60.0, 5.0
THERE = ((5.0, 7.0), (11.0, 13.0), (21.0, 23.0), (29.5, 31.5))

RULES = """
[triggers.car_seen]
when = 'probe "car" of all > 0.5 for 2 windows'
release = 0.3
sinks = ["file"]

[triggers.dog_said]
when = 'narration of all says "dog"'

[triggers.never_shown]
when = 'probe "dark" of all > 0.5'

[sinks.file]
kind = "command"
command = ["sh", "-c", "cat > OUT"]
"""


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the bundle a probe that tells busy windows from quiet ones."""
    folder = tmp_path_factory.mktemp("planted") / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    encoder = load_encoder(tiny_bundle, [tiny_bundle.population.select("all")], device="cpu")
    rng = np.random.default_rng(0)
    busy, quiet = (
        np.array(
            [encoder.encode([_window(rng, rate_hz)])[0].patches.mean(axis=0) for _ in range(40)]
        )
        for rate_hz in (BUSY_HZ, QUIET_HZ)
    )
    apart = busy.mean(axis=0) - quiet.mean(axis=0)
    middle = float((busy.mean(axis=0) + quiet.mean(axis=0)) @ apart / 2)
    scale = 8 / float(apart @ apart)
    ones = np.ones((1, 2), np.float32)
    probes = ConceptProbes(
        ("car", "dark"),
        ("all",),
        np.stack([apart, -apart]).astype(np.float32),
        np.array([-middle, middle], np.float32),
        scale * ones,
        0 * ones,
    )
    write_probes(folder, probes)
    hashes = {**tiny_bundle.model.sha256}
    hashes["probes.safetensors"] = sha256_of(folder / "probes.safetensors")
    write_manifest(folder, tiny_bundle.model.model_copy(update={"sha256": hashes}))
    return load_manifest(folder).folder


def _window(rng: np.random.Generator, rate_hz: float) -> Window:
    counts = rng.poisson(rate_hz / TINY_SPEC.rate.bins_per_s, (TINY_SPEC.n_bins, 12))
    return Window(TINY_SPEC, 0, counts.astype(np.uint16))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds in which every unit fires twelve times as fast while a car is shown."""
    rng = np.random.default_rng(1)
    units = tiny_population().units
    ms = np.arange(0, SECONDS, 0.001)
    is_there = np.any([(ms >= a) & (ms < b) for a, b in THERE], axis=0)
    rate_hz = np.where(is_there, BUSY_HZ, QUIET_HZ)
    trains = [ms[rng.random(len(ms)) < rate_hz / 1000] + 0.0005 for _ in units]
    path = write_units(
        tmp_path_factory.mktemp("planted") / "session.nwb",
        trains,
        ids=[int(unit.unit_id) for unit in units],
        columns=label_columns(units),
    )
    start_s = np.arange(0, SECONDS, 0.5)
    cars = [any(a <= start < b for a, b in THERE) for start in start_s.tolist()]
    write_presentations(
        path,
        "movie_presentations",
        start_time=start_s,
        stop_time=start_s + 0.5,
        frame=np.arange(len(start_s), dtype=np.float64),
        caption=["A car passes." if each else "A quiet street." for each in cars],
    )
    return path


def test_a_planted_concept_is_found(
    bundle: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Each stretch of the captions is hit once; no sink hears of it; the picture is there."""
    out, picture, rules = (tmp_path / name for name in ("out.json", "rules.png", "rules.toml"))
    rules.write_text(RULES.replace("OUT", str(tmp_path / "fired")))
    words = ["triggers", "score", str(planted), "--bundle", str(bundle), "--rules", str(rules)]
    words += ["--set", "narrator.backend=retrieval", "--json", str(out), "--picture", str(picture)]
    assert main(words) == 0
    report = json.loads(out.read_text())
    assert report["counters"]["windows"] == report["counters"]["encoded"] > 400
    car, said, dark = report["rules"]
    assert car["events_s"] == [list(span) for span in THERE]
    assert (car["n_hits"], car["n_misses"], car["n_false_alarms"]) == (4, 0, 0)
    assert car["luck"]["p"] < 0.01
    assert 0 < car["heard_after_s"]["p50"] < 0.4
    assert car["n_triggers_published"] == car["n_triggers_again"] == car["n_triggers_same"]
    assert said["n_triggers_published"] == said["n_triggers_again"] == said["n_triggers_same"]
    assert "no caption of the recording says 'dog'" in said["not_scored"]
    assert "'dark'" in dark["not_scored"]
    assert dark["n_triggers"] > 3
    assert not (tmp_path / "fired").exists()
    assert picture.stat().st_size > 10_000
    told, progress = capsys.readouterr()
    tenths = [f"triggers: windows scored once more: {10 * n} %" for n in range(1, 11)]
    lines = [line.partition(", ")[0] for line in progress.splitlines()]  # without what is left
    assert [line for line in lines if line in tenths] == tenths
    for text in ("Scores, with 95 % intervals", "car_seen", "Not scored: dog_said", "0.300 s"):
        assert text in told


def test_a_file_of_truth_wins(bundle: Path, planted: Path, tmp_path: Path):
    """With --truth the captions do not count, and a part of the recording may be played."""
    out, truth, rules = (tmp_path / name for name in ("out.json", "truth.csv", "rules.toml"))
    rules.write_text("[triggers.car_seen]\nwhen = 'probe \"car\" of all > 0.5'\n")
    truth.write_text("start_s,stop_s,concept\n11,13,car\n17,18,car\n21,23,car\n")
    words = ["triggers", "score", str(planted), "--bundle", str(bundle), "--rules", str(rules)]
    words += ["--truth", str(truth), "--start", "10", "--seconds", "15", "--json", str(out)]
    assert main(words) == 0
    report = json.loads(out.read_text())
    (car,) = report["rules"]
    assert report["truth"] == str(truth)
    assert (car["n_events"], car["n_hits"], car["n_misses"]) == (3, 2, 1)
    assert [each for each in car["triggers_s"] if each < 10] == []
