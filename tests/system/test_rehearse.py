"""The rehearsal, in its short form: every process real, from voltages to sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_rehearsal_goes_all_the_way(tmp_path: Path):
    """A rig's file grows, its spikes are sorted and narrated, and each step has its score."""
    out = tmp_path / "rehearsal.json"
    command = [sys.executable, "-m", "neurrate", "rehearse", "--quick", "--json", str(out)]
    command += ["--out", str(tmp_path / "page")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert list(found["scores"]) == ["true patches", "perfect spikes", "online sorting"]
    assert found["scores"]["true patches"]["all"]["object_f1"]["value"] > 0.8
    assert list(found["scores"]["online sorting"]) == ["all", "shuffled", "silent"]
    assert found["sorting"]["online sorting"]["n_found"] >= 4
    assert found["sorting"]["online sorting"]["measured_on"] == "the live minutes"
    # All of the recording was sorted once, live, and none of it was lost on the way.
    sorter = found["latency"]["sorter"]
    assert sorter["n_runs"] == 1
    assert sorter["n_gaps"] == 0
    assert sorter["n_spikes"] > 100
    assert found["latency"]["n_narrations"] > 0
    assert found["latency"]["sample_to_sentence_ms"]["p50"] > 0
    assert (tmp_path / "page" / "rehearsal.html").is_file()


@pytest.mark.parametrize(
    ("name", "sentence"), [("", "is there already"), ("file/new", "is a file. Name another folder")]
)
def test_a_folder_to_keep_things_in_must_be_new(tmp_path: Path, name: str, sentence: str):
    """And one that can be made, before anything is simulated."""
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "neurrate", "rehearse", "--keep", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
