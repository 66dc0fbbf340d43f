"""The score through real processes: nothing is lost, and every mode narrates the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.manifest import Manifest
from evaluation.trial import QUEUE_MESSAGES, TrialPlan, run_trial
from neurrate.cli import main

STRIDE_BINS = 60


def test_replay_keeps_every_narration(
    recording: Path, tiny_bundle: Manifest, tiny_llava: Path, tmp_path: Path
):
    """Every window has a narration of every population; none is dropped."""
    populations = {"all": "all", "first": f"ids:{tiny_bundle.population.units[0].unit_id}"}
    plan = TrialPlan(
        str(recording), tiny_bundle.folder, str(tiny_llava), populations, STRIDE_BINS,
        narrator_mode="sequential", speed="max", seconds=8.0, queue_messages=QUEUE_MESSAGES,
    )  # fmt: skip
    whole = run_trial(plan, tmp_path / "whole", title="whole")
    numbers = sorted({seq for seq, _ in whole.narrations})
    assert numbers == list(range(len(numbers)))
    assert len(whole.narrations) == 2 * whole.n_windows == 2 * len(numbers)
    assert whole.n_dropped == 0
    part = replace(plan, narrator_mode="worker", seconds=4.0)
    again = run_trial(part, tmp_path / "again", title="again")
    assert again.narrations.keys() < whole.narrations.keys()
    for key, narration in again.narrations.items():
        assert narration.utterance.text == whole.narrations[key].utterance.text


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_score_of_random_weights_is_a_whole_report(animal_bundle: Manifest, tmp_path: Path):
    """Everything is there, the words are the same in each mode, and noise meets no target."""
    path, page = tmp_path / "scores.json", tmp_path / "scores.md"
    words = ["simulate", "score", "--bundle", str(animal_bundle.folder), "--no-sbert"]
    words += ["--scenes", "6", "--pairs", "1", "--json", str(path), "--markdown", str(page)]
    assert main(words) == 0
    report = json.loads(path.read_text())
    assert set(report["spikes"]) == {
        "all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "shuffled", "silent",
    }  # fmt: skip
    assert [int(number) for number in report["units"]][:4] == [10, 30, 100, 300]
    assert report["units"]["10"]["n_sentences"] == 18
    assert report["spikes"]["all"]["object_f1"] < 0.75
    assert {each["source"] for each in report["pairs"]} == {"true_patches", "spikes"}
    assert len(report["pairs"]) == 12
    for same in report["same_tokens"].values():
        assert same["is_same"], same
    assert not {each["name"]: each for each in report["targets"]}["all units: object F1"]["is_met"]
    assert "## Targets" in page.read_text()
    assert len(list((tmp_path / "images").iterdir())) == 3
