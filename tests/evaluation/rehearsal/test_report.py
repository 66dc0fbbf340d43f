"""What a rehearsal reports: losses between steps, controls, and numbers that JSON can hold."""

from __future__ import annotations

import json

import pytest

from evaluation.rehearsal.page import write_rehearsal_page
from evaluation.rehearsal.report import Rehearsal, StepScores, assemble_rehearsal
from evaluation.rehearsal.sorting_quality import SortingQuality
from simulation.captions import caption
from simulation.scenes.movie import random_movie

SCENES = random_movie("m", seed=5, n_scenes=12).scenes


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    """Score three steps: all is right, half is right, and half is right and half missing."""
    facts = [scene.facts for scene in SCENES]
    right = [caption(one, 0) for one in facts]
    half = [text if row % 2 else "" for row, text in enumerate(right)]
    wrong = [*right[1:], right[0]]
    quality = SortingQuality(10, 9, 8, 0.9, 0.95, "the whole session")
    online = SortingQuality(10, 9, 8, 0.9, 0.95, "the live minutes")
    return assemble_rehearsal(
        facts,
        {
            "true patches": StepScores({"all": right}, None),
            "perfect spikes": StepScores({"all": right, "shuffled": wrong}, quality),
            "online sorting": StepScores({"all": half, "shuffled": wrong}, online),
        },
        seed=0,
        command="neurrate rehearse --quick",
        facts={
            "is_simulated": True,
            "n_planted_units": 10,
            "n_channels": 16,
            "calibration_minutes": 0.4,
            "live_minutes": 0.2,
            "n_train_scenes": 40,
            "n_test_scenes": 12,
            "sorter": "lupin",
            "n_scenes_without_live_narration": 6,
        },
        latency={
            "sample_to_spikes_ms": {"p50": 80.0, "p95": 90.0, "p99": 91.0, "max": 92.0, "n": 12},
            "sample_to_trigger_ms": None,
            "sample_to_sentence_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0, "n": 12},
        },
        seconds={"a part": 1.5},
    )


def test_each_step_is_compared_with_the_one_before(rehearsal):
    """Nothing is lost where sentences are equal; a missing sentence is a loss."""
    losses = rehearsal.losses
    assert losses["lost from true patches to perfect spikes"].value == 0.0
    assert losses["lost from perfect spikes to online sorting"].value > 0.2
    assert rehearsal.leads["perfect spikes"].value > 0.5
    assert "true patches" not in rehearsal.leads


def test_the_json_states_what_it_is_of(rehearsal):
    """That it is simulated, its sizes, each score with interval and chance."""
    document = json.loads(json.dumps(rehearsal.to_json(), allow_nan=False))
    assert document["is_simulated"] is True
    assert document["sorting"]["online sorting"]["n_found"] == 8
    score = document["scores"]["perfect spikes"]["all"]["object_f1"]
    assert score["value"] == 1.0
    assert score["ci"] == [1.0, 1.0]
    assert 0 < score["chance"] < 1
    assert document["latency"]["sample_to_trigger_ms"] is None


def test_each_sorting_states_the_part_of_the_session_it_is_measured_on(rehearsal):
    """In the table and in the JSON: agreement in the templates' own minutes is not that of live."""
    document, rows = rehearsal.to_json()["sorting"], rehearsal.sorting_rows()
    assert [row["measured on"] for row in rows] == [one["measured_on"] for one in document.values()]
    assert [row["measured on"] for row in rows] == ["the whole session", "the live minutes"]


def test_the_page_has_every_table_and_its_picture(rehearsal, tmp_path):
    """One file, with what is not known as a dash."""
    write_rehearsal_page(tmp_path / "r.html", rehearsal, picture_path=tmp_path / "r.png")
    page = (tmp_path / "r.html").read_text()
    assert "A simulated animal, not a recording: 10 units on 16 channels" in page
    assert "6 of them had no live narration" in page
    assert "data:image/png;base64," in page
    assert "<td>to a trigger</td><td>-</td>" in page
