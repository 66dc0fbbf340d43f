"""The linear-Gaussian model: moments give the planted map and its noise."""

from __future__ import annotations

import numpy as np
import pytest

from encoder_training.evidence.gaussian import SMALLEST_NOISE, GaussianModel, GaussianMoments

N_UNITS, N_PARTS, N_WINDOWS = 6, 2, 20_000
SCALE = np.array([5.0, 2.0, 0.5])
WEIGHT = np.random.default_rng(0).normal(size=(3, N_PARTS * N_UNITS)) / SCALE[:, np.newaxis]
NOISE = np.random.default_rng(1).uniform(0.5, 3, N_PARTS * N_UNITS)


@pytest.fixture(scope="module")
def moments() -> GaussianMoments:
    """Return the moments of windows that the model made, added in three parts."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=(N_WINDOWS, 3)) * SCALE
    x = y @ WEIGHT + np.sqrt(NOISE) * rng.normal(size=(N_WINDOWS, len(NOISE)))
    found = GaussianMoments(N_PARTS * N_UNITS, 3)
    for some in (slice(0, 7), slice(7, 9_000), slice(9_000, None)):
        found.add(x[some].astype(np.float32), y[some].astype(np.float32))
    return found


@pytest.fixture(scope="module")
def model(moments) -> GaussianModel:
    """Return the model that is fitted to them, almost without a ridge."""
    fitted: GaussianModel = moments.model(N_UNITS, 1e-6)
    return fitted


def test_planted_map_is_recovered(model):
    """The gain of a feature is its weight over its noise, components in standard deviations."""
    expected = (WEIGHT * SCALE[:, np.newaxis] / NOISE).T
    assert model.gain.shape == expected.shape
    np.testing.assert_allclose(model.gain, expected, rtol=0.05, atol=0.02)
    np.testing.assert_allclose(model.scale, SCALE, rtol=0.02)


def test_planted_precision_is_recovered(model):
    """A unit adds W W' / noise, summed over its parts and no other unit's."""
    weight = (WEIGHT * SCALE[:, np.newaxis]).reshape(3, N_PARTS, N_UNITS)
    for unit in range(N_UNITS):
        expected = sum(
            np.outer(weight[:, part, unit], weight[:, part, unit]) / NOISE[part * N_UNITS + unit]
            for part in range(N_PARTS)
        )
        found = model.precision[unit].reshape(3, 3)
        np.testing.assert_allclose(found, expected, rtol=0.06, atol=0.04)


def test_ridge_shrinks_each_component_by_its_share(moments, model):
    """A ridge of 1 halves the weights, whatever the component's scale, and adds to the noise."""
    ridged = moments.model(N_UNITS, 1.0)
    ratio = (ridged.gain / model.gain)[np.abs(model.gain) > 0.3]
    assert (ratio < 0.53).all()
    assert (ridged.scale == model.scale).all()


def test_tempering_makes_less_sure(model):
    """Gains and precisions shrink alike, and the deviations of the components stay."""
    tempered = model.tempered(0.25)
    np.testing.assert_allclose(tempered.gain, model.gain / 4)
    np.testing.assert_allclose(tempered.precision, model.precision / 4)
    assert (tempered.scale == model.scale).all()
    assert tempered.gain.dtype == tempered.precision.dtype == np.float32


def test_what_is_explained_without_noise_stays_finite():
    """A feature that is a component has the smallest noise there is."""
    y = np.random.default_rng(3).normal(size=(100, 2)).astype(np.float32)
    moments = GaussianMoments(2, 2)
    moments.add(y, y)
    gain = np.diagonal(moments.model(2, 0.0).gain)
    np.testing.assert_allclose(gain, y.std(axis=0) / SMALLEST_NOISE, rtol=0.02)
