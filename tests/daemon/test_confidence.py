"""The daemon's confidence: that of training, None where nothing is known, and files refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from contracts.confidence import CHANCE
from contracts.embedding import PatchEmbedding
from contracts.errors import ManifestError
from contracts.manifest import CONFIDENCE, CONFIDENCE_ARRAYS, Manifest
from contracts.window import Window
from daemon.confidence import ConfidenceEstimator, load_confidence, load_confidence_of
from encoder_training.confidence.window_features import activity_of
from encoder_training.data_set.training_set import Scaling, TrainingSet
from tests.support.confidence import add_confidence, confidence_model
from tests.support.tiny_bundle import TINY_GRID, tiny_windows, write_stub_bundle

EXPRESSIONS = {"all": "all", "few": "ids:950900|950903", "shuffled": "shuffled", "silent": "silent"}


@pytest.fixture
def bundle(tmp_path: Path) -> Manifest:
    """Return a bundle with a calibration."""
    write_stub_bundle(tmp_path / "bundle")
    return add_confidence(tmp_path / "bundle", confidence_model())


def _estimator(manifest: Manifest) -> ConfidenceEstimator:
    model = load_confidence(manifest)
    assert model is not None
    return ConfidenceEstimator(model, manifest, _selections(manifest))


def _selections(manifest: Manifest):
    return [manifest.population.select(*item) for item in EXPRESSIONS.items()]


def _embedding(window: Window, population: str = "all", **changes) -> PatchEmbedding:
    patches = np.random.default_rng(5).normal(size=(TINY_GRID.n_patches, TINY_GRID.dim))
    made = PatchEmbedding(window, population, 12, TINY_GRID, patches.astype(np.float32))
    return replace(made, **changes)


@pytest.mark.parametrize("population", list(EXPRESSIONS))
def test_the_probability_is_that_of_training(bundle, population):
    """Files written by training give the number that training computes, control by control."""
    (window,) = tiny_windows(1, seed=4)
    embedding = _embedding(window, population)
    selection = bundle.population.select(population, EXPRESSIONS[population])
    n_bins = window.spec.n_bins
    data = TrainingSet(
        population=bundle.population,
        window=window.spec,
        counts=np.pad(window.counts.astype(np.uint8), ((2, 2), (0, 0))),
        first_bin=np.array([2]),
        frame=np.array([0]),
        targets=np.zeros((1, TINY_GRID.n_patches, TINY_GRID.dim), np.float16),
        group=np.array([0]),
    )
    assert data.counts_of(np.array([0])).shape[1] == n_bins
    scaling = Scaling(bundle.unit_mean, bundle.unit_std)
    activity = activity_of(data.counts_of(np.array([0])), scaling)[:, selection.order()]
    model = confidence_model()
    features = model.features.of(
        embedding.patches[None], activity, selection.mask[None].astype(np.float32)
    )
    expected = float(model.probability(features)[0])
    assert CHANCE < expected < 1
    assert _estimator(bundle).of(embedding) == pytest.approx(expected, rel=1e-5)


def test_populations_differ_by_their_units(bundle):
    """The same grid is not as sure through other units, or through their spikes in other rows."""
    (window,) = tiny_windows(1, seed=4)
    found = [_estimator(bundle).of(_embedding(window, name)) for name in EXPRESSIONS]
    assert len(set(found)) == len(EXPRESSIONS)


def test_units_that_are_not_sent_count_for_nothing(bundle):
    """With all but the two of a population absent, "all" is as sure as that population."""
    (window,) = tiny_windows(1, seed=4)
    absent = ~bundle.population.select("few", EXPRESSIONS["few"]).mask
    lacking = replace(window, absent_units=absent)
    estimator = _estimator(bundle)
    found = estimator.of(_embedding(lacking))
    assert found == pytest.approx(estimator.of(_embedding(window, "few")))
    assert found != pytest.approx(estimator.of(_embedding(window)))


def test_a_population_of_which_nothing_is_sent_has_none(bundle):
    """The grid is that of no spikes at all."""
    (window,) = tiny_windows(1)
    assert _estimator(bundle).of(_embedding(window, n_absent=12)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_patches_that_are_no_number_have_none(bundle, value):
    """Nor have patches so large that their square is not finite."""
    (window,) = tiny_windows(1)
    embedding = _embedding(window)
    embedding.patches[0, 0] = value
    assert _estimator(bundle).of(embedding) is None


def test_a_bundle_without_calibration_has_none(tmp_path):
    """Whatever is decoded."""
    manifest = write_stub_bundle(tmp_path / "bundle")
    assert load_confidence(manifest) is None
    (window,) = tiny_windows(1)
    assert load_confidence_of(manifest, _selections(manifest))(_embedding(window)) is None


def test_the_two_files_belong_together(bundle):
    """One that is listed alone is refused."""
    del bundle.model.sha256[CONFIDENCE_ARRAYS]
    with pytest.raises(ManifestError, match="belong together"):
        load_confidence(bundle)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 3}, "is of version 3, this build reads 1 and 2"),
        ({"features": ["length"]}, "must have the features length, strength, shortfall"),
        (
            {"chance": 0.2},
            "cosine, match, misfit and 0.2",
        ),
        ({"weight": [1.0]}, "weight must have 6 numbers, got 1"),
        ({"spread": [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]}, "spread must be above 0"),
        ({"offset": "high"}, "cannot be read"),
        ({"more": 1}, "cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_refused(bundle, change, problem):
    """The sentence says what is wrong with it."""
    path = bundle.folder / CONFIDENCE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ManifestError, match=problem):
        load_confidence(bundle)


@pytest.mark.parametrize(
    ("name", "array", "problem"),
    [
        ("place", np.array([64]), "place must be one or more patches"),
        ("place", np.array([0.5]), "place must be one or more patches"),
        ("patch_mean", np.zeros((1, 64), np.float32), "patch_mean must be finite numbers"),
        ("inverse_std", np.full(64, np.nan, np.float32), "inverse_std must be finite numbers"),
        ("component", np.zeros((3, 3), np.float32), r"component must be .* of shape \(64, 3\)"),
        ("response", np.zeros((3, 11), np.float32), r"response must be .* of shape \(3, 12\)"),
    ],
)
def test_arrays_of_another_encoder_are_refused(bundle, name, array, problem):
    """Each has the shape that the grid and the units ask for, in finite numbers."""
    path = bundle.folder / CONFIDENCE_ARRAYS
    save_file({**load_file(path), name: array}, path)
    with pytest.raises(ManifestError, match=problem):
        load_confidence(bundle)


def test_a_file_that_is_cut_is_refused(bundle):
    """As an error about the bundle, not as one of a library."""
    path = bundle.folder / CONFIDENCE_ARRAYS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ManifestError, match="cannot be read"):
        load_confidence(bundle)


def test_a_file_of_version_1_weighs_three_features(bundle):
    """A bundle of an older program says what it said: the later features have no weight."""
    path = bundle.folder / CONFIDENCE
    file = json.loads(path.read_text())
    without = [*file["weight"][:3], 0.0, 0.0, 0.0]
    path.write_text(json.dumps({**file, "weight": without}))
    expected = load_confidence(bundle)
    first = {name: file[name][:3] for name in ("features", "centre", "spread", "weight")}
    path.write_text(json.dumps({**file, **first, "version": 1}))
    found = load_confidence(bundle)
    assert expected is not None
    assert found is not None
    features = np.random.default_rng(0).normal(size=(20, 6))
    assert found.probability(features) == pytest.approx(expected.probability(features))
