"""The demo of the simulated animal: unseen scenes, true captions and scores, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.manifest import Manifest
from evaluation.demo_plan import GREY_S, POPULATIONS, SHOWN
from simulation.captions import parse
from simulation.scenes.movie import random_movie
from simulation.seeds import UNSEEN_DEMO

SECONDS = 5
"""A second of grey, then two scenes."""

LAG_NS = 100_000_000
"""Of both encoders."""


def demo(folder: Path, *words: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Run a demo of a few seconds to its end; return what it printed, and its scores."""
    out = folder / "demo.json"
    command = [
        sys.executable, "-m", "neurrate.cli", "demo", "--seconds", str(SECONDS),
        "--json", str(out), *words,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(out.read_text())
    assert numbers["spikes_sent"] == numbers["spikes_received"] == numbers["spikes_binned"] > 0
    scores: dict[str, dict[str, float]] = numbers["scores"]
    return done.stdout, scores


def check_truth(output: str) -> None:
    """Compare the captions beside the narrations with the scenes that were drawn."""
    movie = random_movie("natural_movie_unseen", seed=UNSEEN_DEMO, n_scenes=2)
    lines = [line for line in output.splitlines() if " | truth: " in line]
    for line in lines:
        frame_s = float(line.partition(" s ")[0]) - LAG_NS / 1e9
        frame = int((frame_s - GREY_S) * 30)
        if min(frame % 60, 60 - frame % 60) < 3:
            continue  # a dropped frame or two may lie between the clock and the movie
        said = parse(line.rpartition(" | truth: ")[2])
        assert said.kinds == movie.facts(frame).kinds, line
        assert said.light == movie.facts(frame).light, line
    assert len(lines) > len(POPULATIONS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_population_is_scored_against_the_scenes_that_were_shown(
    animal_bundle: Manifest, tiny_llava: Path, tmp_path: Path
):
    """Captions come from the source over its socket, and each population has its score."""
    words = ("--bundle", str(animal_bundle.folder), "--model", str(tiny_llava))
    output, scores = demo(tmp_path, *words, "--populations", ",".join(POPULATIONS))
    assert list(scores) == list(POPULATIONS)
    assert all(0 <= one["object_f1"] <= 1 and one["n"] >= 3 for one in scores.values())
    check_truth(output)
    assert "Objects named, against the true captions" in output
    assert output.index("object F1") < output.index("Every one of")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_with_nothing_given_sees(tmp_path: Path):
    """Trained weights: everything together names more of what is there than the control."""
    output, scores = demo(tmp_path)
    assert list(scores) == list(SHOWN)
    check_truth(output)
    assert scores["all"]["object_f1"] > scores["shuffled"]["object_f1"]
