"""Confidence on planted data: calibrated on new windows, and near chance where nothing is seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from contracts.confidence import CHANCE, guessed_sigmoid
from contracts.manifest import CONFIDENCE, CONFIDENCE_ARRAYS
from encoder_training.confidence import fitting
from encoder_training.confidence.confidence_files import save_confidence
from encoder_training.confidence.decoding import DecodedWindows
from encoder_training.confidence.fitting import fit_confidence
from encoder_training.confidence.guessed_sigmoid import fit_guessed_sigmoid
from encoder_training.confidence.results import (
    FittedConfidence,
    calibration_errors,
    selective_accuracy,
)
from encoder_training.confidence.window_features import learn_window_features
from encoder_training.data_set.training_set import measure_scaling
from encoder_training.evaluation.bootstrap import Draws
from encoder_training.evaluation.report_confidence import (
    confidence_section,
    write_confidence_figure,
)
from encoder_training.losses import measure_targets
from encoder_training.training import TrainingResult
from tests.support.planted import LAG_NS, planted_scenes, train_briefly


@pytest.fixture(scope="module")
def prepared():
    """Return a movie of 107 scenes that VISp and LGd follow, and CA1 does not."""
    return planted_scenes()


@pytest.fixture(scope="module")
def trained(prepared) -> TrainingResult:
    """Return an encoder after a short training."""
    return train_briefly(prepared)


def _fit(prepared, trained, **options) -> FittedConfidence:
    data, parts = prepared.windows(LAG_NS)
    return fit_confidence(prepared, data, parts, trained.encoder, trained.scaling, **options)


@pytest.fixture(scope="module")
def fitted(prepared, trained) -> FittedConfidence:
    """Return the calibration of the planted encoder."""
    return _fit(prepared, trained)


def test_confidence_means_what_it_says_on_new_windows(fitted):
    """The calibration error is small; the mean confidence of all units is how often it holds."""
    assert fitted.model is not None
    assert fitted.pooled is not None
    assert fitted.pooled.error.value < 0.08
    assert fitted.pooled.error.low <= fitted.pooled.error.value <= fitted.pooled.error.high
    everyone = fitted.of("all")
    assert everyone.right.value > 2.5 * CHANCE
    assert everyone.confidence.value == pytest.approx(everyone.right.value, abs=0.06)


@pytest.mark.parametrize("population", ["silent", "area:CA1"])
def test_what_sees_nothing_is_near_chance(fitted, population):
    """Its decodings are right by chance, and its confidence is not far above that."""
    blind = fitted.of(population)
    assert blind.right.holds(CHANCE)
    assert CHANCE <= blind.confidence.value < 0.18
    assert blind.confidence.value < fitted.of("all").confidence.value - 0.15


def test_shuffled_units_are_less_sure_than_their_length_says(prepared, trained, fitted):
    """Without the comparison with the spikes they would be as sure as all units are."""
    assert fitted.model is not None
    assert fitted.of("shuffled").right.holds(CHANCE)
    gap = fitted.of("all").confidence.value - fitted.of("shuffled").confidence.value
    assert gap > 0.05
    assert fitted.model.weight[2] > 0.1
    assert (fitted.model.weight > -0.2).all()


def test_the_surer_half_is_right_more_often(fitted):
    """By more than its interval; and all of them together are as often right as all are."""
    assert fitted.selective is not None
    assert fitted.selective.at_half.low > fitted.selective.of_all.value
    assert fitted.selective.right[-1] == pytest.approx(fitted.selective.of_all.value)
    assert fitted.selective.kept[-1] == 1


def test_the_same_seed_gives_the_same_calibration(prepared, trained):
    """Another one does not: populations and shuffled orders are drawn."""
    options = {"max_windows": 200, "max_population_windows": 50}
    one, again, other = (_fit(prepared, trained, seed=seed, **options) for seed in (3, 3, 4))
    assert one.model
    assert again.model
    assert other.model
    assert (one.model.weight == again.model.weight).all()
    assert one.to_json() == again.to_json()
    assert (one.model.weight != other.model.weight).any()
    assert one.of("all").n == 50


def test_one_group_of_validation_gives_no_calibration(prepared, trained, tmp_path):
    """Windows of one second of the movie: nothing is stored, and the report says why."""
    data, parts = prepared.windows(LAG_NS)
    one_second = parts.validation[data.frame[parts.validation] < 25]
    found = fit_confidence(
        prepared, data, replace(parts, validation=one_second), trained.encoder, trained.scaling,
        max_windows=100, max_population_windows=10,
    )  # fmt: skip
    assert found.model is None
    for name in (CONFIDENCE, CONFIDENCE_ARRAYS):
        (tmp_path / name).write_text("of an earlier run")
    save_confidence(found, tmp_path)
    assert list(tmp_path.iterdir()) == []
    text = "\n".join(confidence_section(found))
    assert "No calibration: validation windows are of one group" in text
    write_confidence_figure(tmp_path, found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("features", "right", "problem"),
    [
        (0.0, [1.0, 1.0], "every validation window is decoded right"),
        (0.0, [0.0, 0.0], "every validation window is decoded wrong"),
        (np.nan, [0.0, 1.0], "numbers that are not finite"),
        (0.0, [0.0, 1.0], ""),
    ],
)
def test_what_can_not_be_calibrated_is_said(features, right, problem):
    """One kind of outcome, or features that are no number."""
    learned = DecodedWindows(np.arange(2), np.full((2, 3), features), np.array(right))
    found = fitting._problem(learned, 10)
    assert problem in found
    assert bool(problem) == bool(found)


def test_a_sigmoid_above_chance_is_found_again():
    """Weights of 1.5 and 0 on standardized features; a constant feature keeps weight 0."""
    rng = np.random.default_rng(0)
    features = np.c_[rng.normal(5, 2, 40_000), rng.normal(size=40_000), np.full(40_000, 3.0)]
    probability = guessed_sigmoid(1.5 * (features[:, 0] - 5) / 2 - 1)
    right = (rng.random(40_000) < probability).astype(np.float64)
    _, spread, weight, offset = fit_guessed_sigmoid(features, right, n_independent=40_000)
    assert weight == pytest.approx([1.5, 0, 0], abs=0.08)
    assert offset == pytest.approx(-1, abs=0.08)
    assert (spread > 0).all()
    assert weight[2] == 0


def test_few_scenes_do_not_make_a_steep_sigmoid():
    """Hundreds of windows of two scenes are two examples."""
    features, right = np.repeat([[1.0], [-1.0]], 200, axis=0), np.repeat([1.0, 0.0], 200)
    few, many = (fit_guessed_sigmoid(features, right, n_independent=n)[2][0] for n in (2, 400))
    assert 0 < few < many - 1


def test_errors_by_hand():
    """0.05 and 0.1 apart in two bins of two: 0.075; a draw of the second group alone: 0.1."""
    probability = np.array([0.45, 0.45, 0.8, 0.8])
    right = np.array([1.0, 0.0, 1.0, 0.4])
    draws = Draws(np.array([0, 0, 1, 1]), np.array([[1, 1], [0, 2]], np.float32))
    found = calibration_errors(probability, right, draws)
    assert found == pytest.approx([0.075, 0.075, 0.1])


def test_the_surest_are_kept_first():
    """Of four, the surer two are right and the others not."""
    draws = Draws(np.arange(4), np.array([[1, 1, 1, 1], [0, 2, 0, 2]], np.float32))
    found = selective_accuracy(np.array([0.2, 0.9, 0.3, 0.8]), np.array([0.0, 1, 0, 1]), draws)
    assert found.kept == (0.25, 0.5, 0.75, 1.0)
    assert found.right == pytest.approx((1, 1, 2 / 3, 0.5))
    assert (found.at_half.value, found.of_all.value) == (1.0, 0.5)


def test_units_that_follow_the_movie_have_responses(prepared):
    """Those of VISp and LGd are predicted, and those of CA1 next to not."""
    data, parts = prepared.windows(LAG_NS)
    scaling = measure_scaling(data, parts.train)
    features = learn_window_features(
        data, parts.train, scaling, measure_targets(data, parts.train, normalise=True)
    )
    strength = np.linalg.norm(features.response, axis=0)
    is_blind = np.array([unit.area == "CA1" for unit in data.population.units])
    assert np.median(strength[~is_blind]) > 3 * np.median(strength[is_blind])
    assert features.patch_mean.astype(np.float16).astype(np.float32) == pytest.approx(
        features.patch_mean, abs=0
    )


def test_the_report_names_who_sees_nothing(fitted, tmp_path):
    """Figures of all windows, a row for each population, chance beside them, a picture."""
    text = "\n".join(confidence_section(fitted))
    assert f"expected calibration error {fitted.pooled.error}" in text
    assert f"{fitted.selective.at_half} of the surer half" in text
    assert f"silent {fitted.of('silent').confidence.value:.3f}" in text
    too_sure = [t for t in fitted.populations if t.confidence.value > t.right.high]
    named = [
        f"{test.population} ({test.confidence.value:.2f}, right {test.right.value:.2f})"
        for test in too_sure
    ]
    assert (f"**Too sure**: {', '.join(named)}." if named else "chance") in text
    for test in fitted.populations:
        assert f"| {test.n} | {test.confidence} | {test.right} | {test.error} |" in text
    assert "| *chance* | | | 0.100 | |" in text
    write_confidence_figure(tmp_path, fitted)
    assert (tmp_path / "confidence.png").read_bytes().startswith(b"\x89PNG")


def test_the_files_are_small_and_say_how_it_was_tested(fitted, tmp_path):
    """JSON for people and numbers, the same bytes each time."""
    save_confidence(fitted, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tree = json.loads(before[CONFIDENCE])
    assert tree["n_groups"] == fitted.n_groups
    assert tree["tested"]["pooled"]["error"]["value"] == pytest.approx(fitted.pooled.error.value)
    assert sum(len(content) for content in before.values()) < 100_000
    save_confidence(fitted, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
