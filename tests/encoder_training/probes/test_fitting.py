"""Concept probes: planted words are found, blind units find none, and probabilities mean it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from contracts.errors import UserError
from encoder_training.evaluation.bootstrap import Draws
from encoder_training.probes.calibration import areas_under_curve, log_loss, platt, reliability, roc
from encoder_training.probes.concepts import choose_concepts, label_frames, words_of
from encoder_training.probes.fitting import fit_probes, load_probes, save_probes
from encoder_training.probes.probe_files import FittedProbes
from encoder_training.training import TrainingResult
from tests.support.planted import LAG_NS, planted_scenes, train_briefly
from tests.support.prepared import GRID, WORDS


@pytest.fixture(scope="module")
def prepared():
    """Return a movie of 107 scenes whose captions name what units follow."""
    return planted_scenes()


@pytest.fixture(scope="module")
def trained(prepared) -> TrainingResult:
    """Return an encoder after a short training."""
    return train_briefly(prepared)


def probes_of(prepared, trained, **options) -> FittedProbes:
    """Fit probes at the lag of training."""
    data, parts = prepared.windows(LAG_NS)
    return fit_probes(prepared, data, parts, trained.encoder, trained.scaling, **options)


@pytest.fixture(scope="module")
def probes(prepared, trained) -> FittedProbes:
    """Return probes of the words that captions name."""
    return probes_of(prepared, trained)


def test_planted_words_are_found(probes):
    """All units and those that see tell each word; CA1 does not."""
    assert set(WORDS) <= set(probes.concepts)
    for word in WORDS:
        assert probes.of(word).auc.value > 0.75
        assert probes.of(word).auc.low > 0.65
        assert 0.3 < probes.of(word, "area:CA1").auc.value < 0.7
    assert probes.auc[0, probes.concepts.index("car")] == pytest.approx(probes.of("car").auc.value)


def test_calibration_makes_probabilities_better(probes):
    """The log loss falls, over all populations and most through blind units."""
    before, after = (
        np.array([getattr(probes.of(word, "area:CA1"), name) for word in WORDS])
        for name in ("log_loss_uncalibrated", "log_loss")
    )
    assert after.mean() < before.mean()
    gains = [t.log_loss_uncalibrated - t.log_loss for t in probes.tested if t.concept in WORDS]
    assert np.mean(gains) > 0
    everyone = [probes.of(word) for word in WORDS]
    assert all(test.calibration_error < 0.2 for test in everyone)
    assert (probes.scale >= 0).all()


def test_a_probability_is_what_the_daemon_computes(probes):
    """Weights on the mean patch, then the population's scale and offset, then a sigmoid."""
    mean_patch = np.random.default_rng(0).normal(size=(3, GRID.dim)).astype(np.float32)
    at = probes.populations.index("area:VISp")
    expected = expit(
        probes.scale[at] * (mean_patch @ probes.weight.T + probes.bias) + probes.offset[at]
    )
    assert probes.probability(mean_patch, "area:VISp") == pytest.approx(expected)


def test_probes_come_back_from_their_files(probes, tmp_path):
    """Everything is read as it was written, and written as the same bytes again."""
    save_probes(probes, tmp_path)
    again = load_probes(tmp_path)
    for name in ("weight", "bias", "scale", "offset", "auc"):
        assert (getattr(again, name) == getattr(probes, name)).all()
        assert getattr(again, name).dtype == np.float32
    assert (again.concepts, again.populations) == (probes.concepts, probes.populations)
    assert again.tested == probes.tested
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "probes.json": 0o644, "probes.safetensors": 0o644,
    }  # fmt: skip
    first = (tmp_path / "probes.safetensors").read_bytes()
    save_probes(again, tmp_path)
    assert (tmp_path / "probes.safetensors").read_bytes() == first


def test_files_of_something_else_are_refused(tmp_path):
    """The sentence names the folder."""
    with pytest.raises(UserError, match=r"must hold probes\.safetensors"):
        load_probes(tmp_path)


def test_the_same_seed_gives_the_same_probes(prepared, trained):
    """And a named list is what is probed, in its order."""
    options = {"concepts": ["tree", "cars"], "max_windows": 200, "max_population_windows": 50}
    one, other = (probes_of(prepared, trained, **options) for _ in range(2))
    assert (one.of("tree").n, one.of("tree", "area:VISp").n) == (200, 50)
    assert one.concepts == ("tree", "cars")
    assert (one.weight == other.weight).all()
    assert one.tested == other.tested


def test_a_concept_that_test_lacks_is_said_not_scored(prepared, trained):
    """Its area has no meaning."""
    data, parts = prepared.windows(LAG_NS)
    is_tested = np.zeros(len(prepared.frames.captions), np.bool_)
    is_tested[50:80] = True
    captions = [
        "" if tested else caption + " at night" * (row % 2)
        for row, (tested, caption) in enumerate(
            zip(is_tested, prepared.frames.captions, strict=True)
        )
    ]
    frames = replace(prepared.frames, captions=tuple(captions))
    even = parts.test[data.frame[parts.test] % 2 == 0]
    found = fit_probes(
        replace(prepared, frames=frames), data, replace(parts, test=even), trained.encoder,
        trained.scaling, concepts=["night", "car"],
    )  # fmt: skip
    assert not found.of("night").is_scored
    assert np.isnan(found.of("night").auc.value)
    assert found.of("night").n == len(even) - np.isin(data.frame[even], np.arange(50, 80)).sum()
    assert found.of("car").is_scored


def test_without_test_captions_nothing_is_scored(prepared, trained):
    """Frames are labelled in training and validation alone: probes, and no areas."""
    data, parts = prepared.windows(LAG_NS)
    found = fit_probes(
        prepared, data, replace(parts, test=parts.test[:0]), trained.encoder, trained.scaling,
        concepts=["car"], max_windows=50,
    )  # fmt: skip
    assert found.of("car").n == 0
    assert np.isnan(found.auc).all()


def test_words_that_tell_nothing_are_refused(prepared, trained):
    """A word that no training frame has cannot be learned."""
    with pytest.raises(UserError, match="zebra is in none"):
        probes_of(prepared, trained, concepts=["car", "zebra"])


def test_without_captions_there_are_no_probes(prepared, trained, tmp_path):
    """No words, no concepts: an empty set, which saves and loads."""
    frames = replace(prepared.frames, captions=("",) * len(prepared.frames.captions))
    none = probes_of(replace(prepared, frames=frames), trained)
    assert none.concepts == ()
    save_probes(none, tmp_path)
    assert load_probes(tmp_path).weight.shape == (0, GRID.dim)


def test_content_words_of_some_captions_are_concepts():
    """Stop words, rare words and words of every caption are not; plurals are their singular."""
    captions = (
        ["A car on the street"] * 11
        + ["Two cars and a dog, street"] * 10
        + ["Street"] * 9
        + ["street moon"]
    )
    assert choose_concepts(captions) == ("car", "dog")
    label = label_frames([*captions[:1], "Dogs", ""], ["cars", "dog"])
    assert label.tolist() == [[1, 0], [0, 1], [-1, -1]]
    assert label_frames(["A street with no cars", "No dog and a car"], ["car", "dog"]).tolist() == [
        [0, 0],
        [1, 0],
    ]
    assert words_of("Two men; a-frame houses") == {"two", "man", "a-frame", "house"}


def test_area_under_the_curve_counts_pairs():
    """Of six pairs, four are in order, one is tied, one is wrong: 4.5 / 6. Draws weigh them."""
    score = np.array([3.0, 2.0, 1.0, 2.0, 0.0])
    label = np.array([True, True, True, False, False])
    draws = Draws(
        np.arange(5), np.array([[1, 1, 1, 1, 1], [2, 0, 0, 1, 0], [1, 1, 0, 0, 0]], np.float32)
    )
    areas = areas_under_curve(score, label, draws)
    assert areas[:3].tolist() == pytest.approx([4.5 / 6, 4.5 / 6, 1.0])
    assert np.isnan(areas[3])
    alarms, hits = roc(score, label)
    assert alarms == (0, 0, 0.5, 0.5, 1)
    assert hits == pytest.approx((0, 1 / 3, 2 / 3, 1, 1))


def test_platt_finds_the_sigmoid():
    """Scale 2 and offset -1 are found again; a score that is the wrong way round is ignored."""
    rng = np.random.default_rng(0)
    score = rng.normal(size=20_000)
    label = rng.random(20_000) < expit(2 * score - 1)
    assert platt(score, label, n_independent=20_000) == pytest.approx((2, -1), abs=0.1)
    scale, offset = platt(-score, label, n_independent=20_000)
    assert scale == 0
    assert expit(offset) == pytest.approx(label.mean(), abs=0.01)


def test_few_scenes_do_not_turn_a_calibration():
    """Hundreds of windows of one scene are one example, and turn less of what was learned."""
    score = np.repeat([2.0, -2.0], 100)
    label = np.repeat([False, True], 100)
    few, many = (platt(score, label, n_independent=n)[0] for n in (1, 200))
    assert few > many + 0.1


def test_losses_and_errors_by_hand():
    """Two of four at 0.25 and two at 0.75, of which one and two come true."""
    probability = np.array([0.25, 0.25, 0.75, 0.75])
    label = np.array([True, False, True, True])
    assert log_loss(probability, label) == pytest.approx(-np.log(0.25 * 0.75**3) / 4)
    found = reliability(probability, label)
    assert (found.predicted, found.happened, found.n) == ((0.25, 0.75), (0.5, 1.0), (2, 2))
    assert found.error == pytest.approx(0.25)
