"""The test over pairs, its intervals, its false positives, and the power of an experiment."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from evaluation.clips.effects import Mentions, effects_of, swapped
from evaluation.clips.power import GIVEN, NUMBERS, power_curve
from evaluation.clips.statistics import difference_interval, sign_flip_p
from evaluation.questions.chance import LEVEL


def test_of_whole_differences_it_is_the_exact_test_of_mcnemar():
    """Pairs that differ are fair coins; pairs that do not differ count for nothing."""
    pairs = np.random.default_rng(1).integers(-1, 2, (20, 30)).astype(float)
    expected = [
        binomtest(int((row > 0).sum()), int((row != 0).sum()), alternative="greater").pvalue
        for row in pairs
    ]
    assert sign_flip_p(pairs) == pytest.approx(expected, abs=1e-12)


def test_of_mean_differences_it_counts_every_order_of_signs():
    """As scipy does one by one."""
    rng = np.random.default_rng(2)
    pairs = np.clip(rng.integers(-5, 8, (5, 11)) / 6, -1, 1)
    expected = [
        permutation_test(
            (row,), np.sum, permutation_type="samples", alternative="greater", n_resamples=10_000
        ).pvalue
        for row in pairs
    ]
    assert sign_flip_p(pairs) == pytest.approx(expected, abs=1e-12)


def test_no_difference_is_no_evidence():
    """A narrator that says the same to both clips has p = 1, and so has one that errs."""
    assert sign_flip_p(np.zeros((2, 9))).tolist() == [1, 1]
    assert sign_flip_p(-np.ones((1, 9)))[0] == pytest.approx(1)
    assert sign_flip_p(np.ones((1, 5)))[0] == pytest.approx(1 / 32)


@pytest.mark.parametrize(
    ("up", "down"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.1), (0.9, 0.02), (0.4, 0.4)]
)
@pytest.mark.parametrize("n_pairs", [10, 20, 50])
def test_interval_of_a_difference_holds_the_truth_as_often_as_it_says(up, down, n_pairs):
    """At least 92 % of 2,000 experiments, also where all pairs are equal."""
    drawn = np.random.default_rng(n_pairs).random((2_000, n_pairs))
    pairs = np.where(drawn < up, 1.0, np.where(drawn < up + down, -1.0, 0.0))
    found = [difference_interval(row) for row in pairs]
    assert np.mean([one.low <= up - down <= one.high for one in found]) > 0.92


def _mentions(
    rng: np.random.Generator, narrator: str, effect: float, n_pairs: int = 24
) -> Mentions:
    """Return rates of three windows each; the feature raises that of its clip."""
    chance = np.array([0.3 + effect, 0.3])
    rates = rng.binomial(3, np.broadcast_to(chance, (n_pairs, 2))) / 3
    return Mentions("car", narrator, rates, 6 * n_pairs)


def test_exchanged_labels_have_no_effect():
    """An effect that is there vanishes, and p < 0.05 is no more frequent than 0.05."""
    rng = np.random.default_rng(3)
    effects = effects_of([_mentions(rng, name, 0.6) for name in ("all", "VISp", "LGd")])
    assert max(effect.p_holm for effect in effects) < 0.001
    labels = swapped(effects, seed=4)
    assert np.abs(labels.mean_difference).max() < 0.03
    assert labels.is_rejected.shape == (3, 200)
    for n_rejected in labels.is_rejected.sum(axis=1).tolist():
        assert binomtest(n_rejected, 200).proportion_ci(method="wilson").low <= LEVEL
    assert binomtest(int(labels.any_holm.sum()), 200).proportion_ci(method="wilson").low <= LEVEL


def test_where_nothing_is_decoded_one_in_twenty_is_found():
    """Over 400 experiments without an effect, whose rates of mention are those of chance."""
    rng = np.random.default_rng(5)
    p = [effects_of([_mentions(rng, "all", 0.0)])[0].p for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < LEVEL) < 0.08


def test_what_a_control_does_too_is_not_seen():
    """Two narrators that mention it alike: each is far from chance, neither is above the other."""
    rng = np.random.default_rng(6)
    both, control = effects_of([_mentions(rng, name, 0.5) for name in ("all", "shuffled")])
    assert both.p_holm < LEVEL
    assert both.p_over_controls > LEVEL
    assert not both.is_seen
    assert np.isnan(control.p_over_controls)
    (alone,) = effects_of([both.mentions])
    assert alone.is_seen


def test_pairs_without_a_narration_are_left_out():
    """A pair of which one clip was not narrated says nothing."""
    rates = np.array([[1.0, 0.0]] * 6 + [[1.0, np.nan]])
    (effect,) = effects_of([Mentions("car", "all", rates, 13)])
    assert effect.p == pytest.approx(1 / 64)
    assert effect.difference.value == 1


def test_power_is_that_of_the_binomial_test():
    """Where a share of the pairs differs, and always for the feature."""
    pairs = np.array([1.0] * 5 + [0.0] * 5)
    curve = power_curve(pairs, seed=1)
    rng = np.random.default_rng(7)
    for n in (8, 12, 20):
        expected = np.mean(0.5 ** rng.binomial(n, 0.5, 20_000) < LEVEL)
        assert curve.power[NUMBERS.index(n)] == pytest.approx(expected, abs=0.08)
    assert curve.pairs_needed is not None
    assert 10 <= curve.pairs_needed <= 16


def test_smaller_effects_need_more_pairs():
    """The given differences, with the spread of what was observed; none at all is never found."""
    pairs = np.random.default_rng(8).choice([-1.0, 0.0, 0.5, 1.0], 30)
    needed = [power_curve(pairs, given, seed=2).pairs_needed or 1_000 for given in GIVEN]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] < 40 < needed[0]
    nothing = power_curve(np.zeros(20), seed=3)
    assert (nothing.pairs_needed, max(nothing.power)) == (None, 0)
