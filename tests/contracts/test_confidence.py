"""The features of confidence against values by hand, and its probability."""

import numpy as np
import pytest

from contracts.confidence import (
    CHANCE,
    SMALLEST_SQUARE,
    SMALLEST_STRENGTH,
    ConfidenceModel,
    WindowFeatures,
    guessed_sigmoid,
)

PATCH_MEAN = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


@pytest.fixture
def features() -> WindowFeatures:
    """Return features of a grid of three patches, of which two are looked at, and two units."""
    return WindowFeatures(
        place=np.array([0, 2]),
        patch_mean=PATCH_MEAN,
        inverse_std=np.array([1.0, 0.5], np.float32),
        component=np.array([[1.0], [0.0]], np.float32),
        response=np.array([[3.0, 4.0]], np.float32),
        inverse_noise=np.array([1.0, 2.0], np.float32),
    )


def _grid(first: tuple[float, float], third: tuple[float, float]) -> np.ndarray:
    return np.array([[first, (99.0, 99.0), third]], np.float32)


def test_features_by_hand(features):
    """Patches 0 and 2 are 2 above the mean in the first dimension: length 2, activity 6 and 8."""
    patches = _grid((3.0, 0.0), (2.0, 1.0))
    activity = np.array([[6.0, 0.0]], np.float32)
    found = features.of(patches, activity, np.ones((1, 2), np.float32))[0]
    assert found[0] == pytest.approx(np.log(2 + SMALLEST_SQUARE), rel=1e-6)
    assert found[1] == pytest.approx(np.log(10 + SMALLEST_STRENGTH), rel=1e-6)
    assert found[2] == pytest.approx(36 / 10 - 10, rel=1e-6)
    assert found[3] == pytest.approx(0.6, rel=1e-6)
    assert found[4] == pytest.approx(np.log(3.6 + SMALLEST_STRENGTH), rel=1e-6)
    assert found[5] == pytest.approx(np.log((8**2 + 1) / 3), rel=1e-6)


def test_the_second_dimension_counts_half(features):
    """It is divided by its standard deviation of 2, and the activity does not depend on it."""
    found = features.of(
        _grid((1.0, 2.0), (0.0, 3.0)), np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    )[0]
    assert found[0] == pytest.approx(np.log(0.5 + SMALLEST_SQUARE), rel=1e-6)
    assert found[1] == pytest.approx(np.log(SMALLEST_STRENGTH))


def test_a_masked_unit_predicts_nothing(features):
    """Without the second unit the activity is 6 long, and all of it is there: no shortfall."""
    mask = np.array([[1.0, 0.0]], np.float32)
    activity = np.array([[7.0, -50.0]], np.float32)
    found = features.of(_grid((3.0, 0.0), (2.0, 1.0)), activity, mask)[0]
    assert found[1] == pytest.approx(np.log(6 + SMALLEST_STRENGTH), rel=1e-6)
    assert found[2] == 0
    assert found[3] == pytest.approx(1, rel=1e-6)
    assert found[5] == pytest.approx(np.log((1 + 1) / 2), abs=1e-6)


def test_the_mean_grid_is_at_the_floor(features):
    """No length and no strength, and still finite."""
    patches = _grid((1.0, 0.0), (0.0, 1.0))
    found = features.of(patches, np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))[0]
    assert found[:2] == pytest.approx([np.log(SMALLEST_SQUARE), np.log(SMALLEST_STRENGTH)])
    assert found[2] == 0


def test_a_probability_never_falls_below_chance():
    """Far to the left it is the chance, far to the right 1, and rises between."""
    logit = np.array([-1e9, -3.0, 0.0, 3.0, 1e9])
    probability = guessed_sigmoid(logit)
    assert probability[0] == pytest.approx(CHANCE)
    assert probability[2] == pytest.approx((1 + CHANCE) / 2)
    assert probability[-1] == pytest.approx(1)
    assert (np.diff(probability) > 0).all()


def test_features_that_are_no_number_have_no_probability(features):
    """Infinity is refused as well as NaN, though a clipped logit would give a probability."""
    model = ConfidenceModel(features, np.zeros(3), np.ones(3), np.ones(3), 0.0)
    table = np.array([[0.0, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0], [0, 0, -np.inf]])
    assert np.isnan(model.probability(table)).tolist() == [False, True, True, True]
