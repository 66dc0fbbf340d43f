"""Ratios over scenes, their intervals and their chance."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import MisuseError
from evaluation.scores import (
    Tally,
    corrected,
    derangements,
    difference,
    draw_scenes,
    pooled,
    rate_interval,
    score,
)


def _answers(n_right, n):
    right = np.zeros(n)
    right[:n_right] = 1
    return Tally(right, np.ones(n), chance=0.25)


def test_interval_is_that_of_a_binomial():
    """For yes-or-no answers the bootstrap is a binomial, whose quantiles are known."""
    from scipy.stats import binom

    found = score(_answers(160, 200), draw_scenes(200, seed=3))
    expected = binom.ppf([0.025, 0.975], 200, 0.8) / 200
    assert found.value == 0.8
    assert found.n == 200
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.0051)


def test_interval_of_a_rate_is_that_of_wilson():
    """Of answers yes or no; it is not empty where all agree."""
    from scipy.stats import binomtest

    rates = np.array([1.0] * 7 + [0.0] * 3)
    expected = binomtest(7, 10).proportion_ci(method="wilson")
    found = rate_interval(rates)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0.7 < rate_interval(np.ones(10)).low < 1


def test_correction_puts_chance_at_zero_and_perfection_at_one():
    """The corrected score and its interval are the raw ones on another scale."""
    found = score(_answers(160, 200), draw_scenes(200))
    assert found.corrected == pytest.approx((0.8 - 0.25) / 0.75)
    assert found.corrected_low == pytest.approx((found.low - 0.25) / 0.75)
    assert corrected(0.25, 0.25) == 0
    assert corrected(1.0, 0.25) == 1
    assert np.isnan(corrected(1.0, 1.0))


def test_interval_covers_the_truth_as_often_as_it_says():
    """Of 200 samples of a known rate, the interval holds it in about 95 of 100."""
    rng = np.random.default_rng(5)
    draws = draw_scenes(150, n_draws=1000)
    n_covered = 0
    for _ in range(200):
        found = score(Tally((rng.random(150) < 0.6).astype(float), np.ones(150)), draws)
        n_covered += found.low <= 0.6 <= found.high
    assert 0.89 <= n_covered / 200 <= 0.99


def test_paired_difference_is_narrower_than_an_unpaired_one():
    """What both populations get wrong on the same scenes does not blur their difference."""
    rng = np.random.default_rng(6)
    right = (rng.random(300) < 0.5).astype(float)
    better = right.copy()
    better[np.flatnonzero(right == 0)[:30]] = 1
    draws = draw_scenes(300)
    one, other = Tally(better, np.ones(300)), Tally(right, np.ones(300))
    paired = difference(one, other, draws)
    assert paired.value == pytest.approx(0.1)
    assert paired.low > 0.06
    assert paired.high < 0.14
    unpaired = score(one, draws)
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_difference_with_itself_is_nothing():
    """A population does not differ from itself, in any draw."""
    tally = _answers(20, 50)
    same = difference(tally, tally, draw_scenes(50))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_score_that_no_scene_asks_for_is_no_number():
    """Zero questions give no score, and no error."""
    found = score(Tally(np.zeros(10), np.zeros(10)), draw_scenes(10))
    assert np.isnan(found.value)
    assert np.isnan(found.low)
    assert found.n == 0


def test_repeats_are_pooled_scene_by_scene():
    """Two subsets of units over the same scenes give the score of both, not two scores."""
    both = pooled([_answers(10, 40), _answers(30, 40)])
    assert both.value == 0.5
    assert both.numerator.shape == (40,)
    assert both.chance == 0.25


def test_draws_keep_the_number_of_scenes():
    """Each draw has as many scenes as there are; the same seed gives the same draws."""
    draws = draw_scenes(30, seed=1, n_draws=100).times
    assert (draws.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(draws, draw_scenes(30, seed=1, n_draws=100).times)
    assert (draws != draw_scenes(30, seed=2, n_draws=100).times).any()


def test_derangements_leave_nothing_in_place():
    """No scene is ever compared with itself, and every other place is equally likely."""
    orders = derangements(4, seed=0, n_draws=9000)
    assert not (orders == np.arange(4)).any()
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    # There are nine derangements of four things.
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert counts.size == 9
    assert counts.min() > 850
    assert counts.max() < 1150


@pytest.mark.parametrize(
    "call",
    [
        lambda: derangements(1),
        lambda: draw_scenes(0),
        lambda: score(_answers(1, 3), draw_scenes(4)),
    ],
)
def test_misuse_is_refused(call):
    """One scene has no other scene; draws belong to a number of scenes."""
    with pytest.raises(MisuseError):
        call()
