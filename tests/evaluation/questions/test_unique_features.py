"""A feature that one population alone decodes is found, and names that mean nothing find none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom

from contracts.errors import UserError
from evaluation.questions.chance import (
    Positions,
    correlation_table,
    correlation_tests,
    shift_test,
)
from evaluation.questions.unique_features import following, name_blocks, slopes, uniqueness

N, N_FEATURES = 240, 30
POSITIONS = Positions(np.arange(N), np.repeat([0, 1], (160, 80)))
LAGS = (10, 10)
"""From which on the series of `_slow` are nearly unrelated."""

BLOCK = name_blocks(POSITIONS, LAGS)


def _slow(rng: np.random.Generator, n_features: int = N_FEATURES) -> np.ndarray:
    """Return series of positive activations whose neighbours are alike."""
    noise: np.ndarray = lfilter([1], [1, -0.8], rng.normal(size=(N + 100, n_features)), axis=0)
    positive: np.ndarray = np.maximum(noise[100:], 0)
    return positive


def _populations(rng: np.random.Generator, shown: np.ndarray) -> dict[str, np.ndarray]:
    """Return three that follow what was shown a little, all in the same way."""
    return {name: 0.3 * shown + _slow(rng) for name in "abc"}


def test_a_planted_feature_is_unique_by_following():
    """Population b alone follows feature 7, and nothing else is anybody's own."""
    rng = np.random.default_rng(0)
    shown = _slow(rng)
    found = _populations(rng, shown)
    found["b"][:, 7] += 2 * shown[:, 7]
    one = uniqueness({name: slopes(of, shown) for name, of in found.items()}, [], BLOCK)
    assert np.argwhere(one.is_unique).tolist() == [[1, 7]]
    assert one.mean[1, 7] > 2
    r, p, follows = following(found["b"][:, [7]], shown[:, [7]], POSITIONS)
    assert r[0] > 0.7
    assert p[0] < 0.01
    assert follows[0]


def test_a_bias_is_unique_by_magnitude_alone():
    """A constant activation is large, does not follow, and has no slope."""
    rng = np.random.default_rng(1)
    shown = _slow(rng)
    found = _populations(rng, shown)
    found["c"][:, 3] = 20
    by_magnitude = uniqueness(found, [], BLOCK)
    assert by_magnitude.is_unique[2, 3]
    by_slope = uniqueness({name: slopes(of, shown) for name, of in found.items()}, [], BLOCK)
    assert not by_slope.is_unique[2, 3]
    assert not following(found["c"][:, [3]], shown[:, [3]], POSITIONS)[2].any()


def test_a_control_that_has_it_too_takes_it_away():
    """What the silent control decodes is nobody's own."""
    rng = np.random.default_rng(2)
    found = _populations(rng, _slow(rng))
    found["c"][:, 3] = 20
    silent = np.zeros((N, N_FEATURES))
    silent[:, 3] = 30
    assert not uniqueness(found, [silent], BLOCK).is_unique[2, 3]


@pytest.mark.parametrize("measure", ["magnitude", "following"])
def test_names_that_mean_nothing_have_no_features(measure):
    """Of populations that are alike, one test in twenty finds any unique feature."""
    rng = np.random.default_rng(3)
    n_tests, n_any = 100, 0
    for _ in range(n_tests):
        shown = _slow(rng)
        found = {
            name: of if measure == "magnitude" else slopes(of, shown)
            for name, of in _populations(rng, shown).items()
        }
        n_any += bool(uniqueness(found, [], BLOCK, n_permutations=99).is_unique.any())
    assert n_any <= binom.ppf(0.999, n_tests, 0.05)


def test_permuted_names_find_a_feature_one_time_in_twenty():
    """The permutations themselves are the count that shuffled names give."""
    rng = np.random.default_rng(4)
    one = uniqueness(_populations(rng, _slow(rng)), [], BLOCK)
    assert np.mean(one.by_permutation > 0) <= 0.06


def test_many_correlations_are_those_of_one_by_one():
    """Columns are tested as `shift_test` tests each; a constant one has p = 1."""
    rng = np.random.default_rng(5)
    one, other = _slow(rng, 4), _slow(rng, 4)
    other[:, 0] += one[:, 0]
    one[:, 3] = 1
    r, p = correlation_tests(one, other, POSITIONS, seed=6)
    for column in range(4):
        test = shift_test(correlation_table(one[:, column], other[:, column]), POSITIONS, seed=6)
        assert r[column] == pytest.approx(test.value, abs=1e-9)
        assert p[column] == pytest.approx(test.p, abs=1e-12)
    assert p[0] < 0.01
    assert p[3] == 1


def test_blocks_are_of_one_movie_and_long_enough():
    """Twelve blocks of two lags, of which none spans two movies; fewer than five are refused."""
    assert np.bincount(BLOCK).tolist() == [20] * 12
    for block in range(12):
        assert len(set(POSITIONS.movie[block == BLOCK])) == 1
    with pytest.raises(UserError, match="5 parts of the movies"):
        name_blocks(POSITIONS, (40, 20))
