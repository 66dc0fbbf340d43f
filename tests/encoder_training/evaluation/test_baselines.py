"""Baselines: they find what is there, choose on validation, and look at their own units alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as ScikitRidge

from encoder_training.data_set.training_set import measure_scaling, thinned
from encoder_training.evaluation.baselines import FITS, BaselineData
from encoder_training.evaluation.baselines import ridge as ridge_module
from encoder_training.evaluation.baselines.decoder import MeanPatches, mixed
from encoder_training.evaluation.frame_space import fit_frame_space
from encoder_training.losses import measure_targets
from tests.support.prepared import prepared_set


def training_of(prepared, *, units=None) -> BaselineData:
    """Return what baselines learn from."""
    data, parts = prepared.windows(100_000_000)
    targets = measure_targets(data, parts.train, normalise=True)
    selected = np.ones(data.n_units, np.bool_) if units is None else units
    return BaselineData(
        data,
        parts.train,
        parts.validation,
        measure_scaling(data, parts.train),
        selected,
        fit_frame_space(data.targets, targets),
    )


@pytest.fixture(scope="module")
def training() -> BaselineData:
    """Return a movie of which every frame was shown in training."""
    return training_of(prepared_set())


def skill(decoder, training: BaselineData) -> float:
    """Return the share of the mean's squared error that is explained on validation."""
    counts = training.data.counts_of(training.validation)
    true = training.data.targets_of(training.validation)
    mean = MeanPatches(training.data.targets, training.train_frames).patches(counts)
    missed = np.square(decoder.patches(counts) - true).sum() / np.square(mean - true).sum()
    return 1 - float(missed)


@pytest.mark.parametrize("name", list(FITS))
def test_a_baseline_reads_the_planted_code(name, training):
    """Each explains most of the patches, and weights sum to 1."""
    decoder = FITS[name](training)
    assert decoder.name == name
    assert skill(decoder, training) > 0.6
    weights = decoder.weights(training.data.counts_of(training.validation[:5]))
    assert weights.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-4)


@pytest.mark.parametrize("name", list(FITS))
def test_a_baseline_of_blind_units_knows_the_mean(name):
    """Through CA1, which does not see the movie, nothing is explained and nothing made up."""
    prepared = prepared_set()
    ca1 = prepared.population.select("area:CA1").mask
    training = training_of(prepared, units=ca1)
    decoder = FITS[name](training)
    assert -0.1 < skill(decoder, training) < 0.1
    counts = training.data.counts_of(training.validation[:4])
    others = counts.copy()
    others[:, :, ~ca1] = 200
    assert (decoder.patches(counts) == decoder.patches(others)).all()


@pytest.mark.parametrize("name", ["naive Bayes", "kNN"])
def test_a_decision_is_among_the_candidates(name, training):
    """A frame that may not be is not decoded; where no known frame may be, none is."""
    decoder = FITS[name](training)
    counts = training.data.counts_of(training.validation[:6])
    may_be = np.zeros((6, len(training.data.targets)), np.bool_)
    may_be[:5, 40:50] = True
    frame = decoder.frames(counts, may_be)
    assert frame is not None
    assert ((frame[:5] >= 40) & (frame[:5] < 50)).all()
    assert frame[5] == -1


@pytest.mark.parametrize("max_side", [4000, 30])
def test_ridge_is_ridge(max_side, training, monkeypatch):
    """Primal and dual give what scikit-learn's ridge on the patches themselves gives."""
    monkeypatch.setattr(ridge_module, "MAX_SIDE", max_side)
    parts = training.parts(2)
    solved = ridge_module._solve(training, parts)
    rows = training.train if max_side == 4000 else thinned(training.train, max_side)
    strength = 0.3
    reference = ScikitRidge(alpha=strength * float(solved.values.mean())).fit(
        parts.z(training.data.counts_of(rows)),
        training.data.targets_of(rows).reshape(len(rows), -1),
    )
    own = ridge_module.Ridge(training, solved, strength)
    counts = training.data.counts_of(rows[:20])
    expected = reference.predict(parts.z(counts))
    assert own.patches(counts).reshape(20, -1) == pytest.approx(expected, abs=2e-3)


def test_sums_over_parts_are_counts():
    """Twelve bins in parts of three: sums by hand, and z-scores of the training windows."""
    training = training_of(prepared_set())
    counts = np.arange(12, dtype=np.uint8)[None, :, None].repeat(24, axis=2)
    parts = training.parts(4)
    assert parts.sums(counts).reshape(4, 24)[:, 0].tolist() == [3, 12, 21, 30]
    expected = (3 - 3 * training.scaling.mean[0]) / (np.sqrt(3) * training.scaling.std[0])
    assert parts.z(counts)[0, 0] == pytest.approx(expected, rel=1e-5)


def test_mixtures_are_weighted_means(monkeypatch):
    """Two frames, a quarter and three quarters, in blocks of one frame."""
    monkeypatch.setattr("encoder_training.evaluation.baselines.decoder.BLOCK_NUMBERS", 1)
    targets = np.array([[[0, 0]], [[9, 9]], [[4, 8]]], np.float16)
    found = mixed(np.array([[0.25, 0.75]], np.float32), targets, np.array([0, 2]))
    assert found.tolist() == [[[3, 6]]]


def test_frame_space_keeps_angles(training, monkeypatch):
    """Few frames span their space: cosines there are those of the whole grids."""
    targets = measure_targets(training.data, training.train, normalise=True)
    patches = training.data.targets[:7].astype(np.float32)
    whole = ((patches - targets.patch_mean) / targets.std).reshape(7, -1)
    assert training.space.of(patches) == pytest.approx(training.space.coordinates[:7], abs=1e-2)
    found = training.space.coordinates[:7] @ training.space.coordinates[:7].T
    assert found == pytest.approx(whole @ whole.T, rel=1e-2, abs=1e-2)
    monkeypatch.setattr("encoder_training.evaluation.frame_space.BLOCK_BYTES", 1)
    again = fit_frame_space(training.data.targets, targets)
    assert np.abs(again.coordinates) == pytest.approx(np.abs(training.space.coordinates), abs=1e-2)
