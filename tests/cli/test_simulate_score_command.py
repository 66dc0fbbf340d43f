"""The score's parts that start no process: who narrates, which scenes, which words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.population import Population, Unit
from evaluation.narrations.narrators import N_SUBSETS, POPULATIONS, populations_of, subsets_of
from evaluation.narrations.scenes import ScoreWorld
from evaluation.trial import TrialPlan, daemon_arguments, source_arguments
from neurrate import simulate_score_command
from neurrate.cli import main
from neurrate.simulate_score_command import _command
from simulation.cortex.days import TRAINING_SCENE_FRAMES as SCENE_FRAMES
from simulation.scenes.movie import random_movie
from simulation.seeds import SEEN
from tests.support.tiny_bundle import tiny_population

AREAS = ("VISp", "LGd", "CA1", "VISl")


def _population(n_units):
    return Population([Unit(str(row), area=AREAS[row % 4]) for row in range(n_units)])


@pytest.mark.parametrize("seed", sorted(SEEN))
def test_scenes_that_were_learned_from_are_not_scored(seed, capsys):
    """The report says that nobody has seen its scenes, so those of a training are refused."""
    assert main(["simulate", "score", "--no-sbert", "--seed", str(seed)]) == 2
    assert f"got {seed}" in capsys.readouterr().err


def test_populations_are_those_that_the_bundle_has():
    """A cell type without a unit is left out; everything, and both controls, are always there."""
    assert set(populations_of(_population(40))) == {
        "all", "VISp", "LGd", "CA1", "shuffled", "silent",
    }  # fmt: skip
    assert set(POPULATIONS) - set(populations_of(tiny_population())) == {"VIP"}


def test_subsets_are_nested_visual_and_of_their_size():
    """Of each random order the first 30 hold the first 10; no unit is blind to the movie."""
    population = _population(200)
    subsets = subsets_of(population, seed=1)
    assert list(subsets) == [10, 30, 100, 150]
    sizes = {}
    for number, by_name in subsets.items():
        for name, expression in by_name.items():
            selection = population.select(name, expression)
            assert selection.n_units == number
            heard = np.flatnonzero(selection.mask)
            assert all(population.units[row].area != "CA1" for row in heard)
            sizes[name] = set(heard.tolist())
    for order in range(N_SUBSETS):
        assert sizes[f"visual10-{order}"] < sizes[f"visual30-{order}"] < sizes["visual-all"]
    assert sizes["visual10-0"] != sizes["visual10-1"]
    assert subsets == subsets_of(population, seed=1)
    assert subsets != subsets_of(population, seed=2)


def test_names_of_subsets_are_settings_that_the_daemon_takes(tmp_path):
    """The daemon's settings have these populations, in this order."""
    from daemon.service.settings_loader import load_settings

    named = populations_of(_population(200))
    for subsets in subsets_of(_population(200), seed=0).values():
        named |= subsets
    plan = TrialPlan("s.nwb", tmp_path, "llava", named, 81, narrator_mode="sequential")
    words = daemon_arguments(plan, "tcp://127.0.0.1:5570")
    texts = [word for at, word in enumerate(words) if words[at - 1] == "--set"]
    settings = load_settings(
        file=None, environ={}, overrides=dict(text.split("=", 1) for text in texts)
    ).settings
    assert list(settings.populations.items()) == list(named.items())
    assert settings.narrator.mode == "sequential"
    assert settings.window.stride_bins == 81
    assert not settings.http.enabled


def test_piece_of_a_recording_is_asked_for_in_seconds(tmp_path):
    """Only a replay of a part says how long it is."""
    plan = TrialPlan("s.nwb", tmp_path, "llava", {"all": "all"})
    assert "--seconds" not in source_arguments(plan)
    assert source_arguments(replace(plan, seconds=20.0))[-2:] == ["--seconds", "20.0"]


def test_frame_on_the_screen_is_that_of_the_movie(tmp_path):
    """A time within a frame gives that frame, also at its first and last nanosecond."""
    movie = random_movie("m", seed=5, n_scenes=2, frames_per_scene=SCENE_FRAMES)
    start_ns = 1_000_000_000 + 33_361_193 * np.arange(movie.n_frames)
    world = ScoreWorld(
        recording=tmp_path / "s.nwb",
        movie=movie,
        start_ns=start_ns[::SCENE_FRAMES],
        stop_ns=start_ns[::SCENE_FRAMES] + 33_361_193 * SCENE_FRAMES,
        frame_start_ns=start_ns,
    )
    expected = movie.frames(40, 41)[0]
    for time_ns in (start_ns[40], start_ns[41] - 1):
        np.testing.assert_array_equal(world.frame_at(int(time_ns)), expected)
    assert (world.frame_at(int(start_ns[41])) != expected).any()
    assert world.facts == tuple(scene.facts for scene in movie.scenes)


def test_command_can_be_typed_again(tmp_path):
    """The report's command has every argument that changes a number, quoted for a shell."""
    text = _command(tmp_path / "my bundle", "llava/", scenes=50, pairs=5, seed=3, sbert=False)
    assert f"'{tmp_path / 'my bundle'}'" in text
    assert text.endswith("--model llava/ --scenes 50 --pairs 5 --seed 3 --no-sbert")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--scenes", "1"], "--scenes"),
        (["--scenes", "5001"], "--scenes"),
        (["--pairs", "0"], "--pairs"),
        (["--seed", "-1"], "--seed"),
        ([], "nowhere"),
    ],
)
def test_bad_arguments_are_refused_at_once(words, named, tmp_path, capsys):
    """One scene has no other to be compared with; a bundle must be there."""
    folder = tmp_path / "nowhere"
    assert main(["simulate", "score", "--no-sbert", "--bundle", str(folder), *words]) == 2
    assert named in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("missing", ["scipy", "matplotlib"])
def test_what_is_needed_at_the_end_is_asked_for_at_the_start(
    missing, tmp_path, monkeypatch, capsys
):
    """A missing package is named before ten minutes of work, not after them."""
    monkeypatch.setattr(
        simulate_score_command, "find_spec", lambda name: None if name == missing else object()
    )
    words = ["--no-sbert", "--bundle", str(tmp_path), "--markdown", str(tmp_path / "page.md")]
    assert main(["simulate", "score", *words]) == 3
    assert f"needs {missing}" in capsys.readouterr().err


def test_bundle_of_another_animal_is_refused_at_once(tiny_bundle, tmp_path, capsys):
    """Units that the simulated animal has not are named before anything is drawn."""
    words = ["simulate", "score", "--no-sbert", "--bundle", str(tiny_bundle.folder)]
    assert main([*words, "--json", str(tmp_path / "scores.json")]) == 2
    assert "12 units" in (error := capsys.readouterr().err)
    assert "950900" in error
    assert not (tmp_path / "scores.json").exists()
