"""What chance gives: each test holds its level on autocorrelated labels, where naive ones fail."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom

from encoder_training.evaluation.bootstrap import interval
from evaluation.questions.chance import (
    Positions,
    block_draws,
    block_length,
    correlation_table,
    minimal_lags,
    naive_p,
    p_value,
    shift_test,
)

LEVEL = 0.05
N_SHUFFLES = 200


def _positions(*lengths: int) -> Positions:
    movie = np.repeat(np.arange(len(lengths)), lengths)
    return Positions(np.arange(len(movie)), movie)


def _ar1(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    values: np.ndarray = lfilter([1], [1, -rho], rng.normal(size=n + 200))[200:]
    return values


def _n_rejected(test, *, rho: float, lengths: tuple[int, ...], seed: int = 0) -> int:
    """Count how often two unrelated series are called related."""
    rng = np.random.default_rng(seed)
    positions = _positions(*lengths)
    p = []
    for _ in range(N_SHUFFLES):
        one, other = (
            np.concatenate([_ar1(rng, n, rho) for n in lengths]) for _ in ("decoded", "shown")
        )
        p.append(test(correlation_table(one, other), positions))
    return int(np.sum(np.array(p) <= LEVEL))


MOST = int(binom.ppf(0.999, N_SHUFFLES, LEVEL))


@pytest.mark.parametrize("lengths", [(100,), (120, 80)])
def test_shifts_hold_their_level_where_naive_orders_do_not(lengths):
    """Labels that change slowly are called related no more often than one time in twenty."""
    shifted = _n_rejected(
        lambda table, at: shift_test(table, at, minimal_lags=[20] * len(lengths)).p,
        rho=0.9,
        lengths=lengths,
    )
    naive = _n_rejected(lambda table, _: naive_p(table, n_draws=99), rho=0.9, lengths=lengths)
    assert shifted <= MOST
    assert naive > 2 * MOST


def test_naive_orders_hold_their_level_where_neighbours_are_independent():
    """The naive test is wrong about autocorrelation alone."""
    assert _n_rejected(lambda table, _: naive_p(table, n_draws=99), rho=0, lengths=(100,)) <= MOST


def test_a_relation_is_found():
    """A shared slow signal has the smallest p there is, and lies above the band."""
    rng = np.random.default_rng(1)
    shared = _ar1(rng, 200, 0.9)
    found = shift_test(
        correlation_table(shared, shared + rng.normal(size=200)), _positions(200), minimal_lags=[20]
    )
    assert found.p == pytest.approx(1 / 200)
    assert found.value > found.band[1] > found.chance


def test_a_constant_narration_is_never_evidence():
    """All shifts give the same, whatever the rounding: p is 1."""
    likeness = np.random.default_rng(0).random((1, 50)).repeat(50, axis=0)
    assert shift_test(likeness, _positions(50)).p == 1


def test_movies_are_shifted_by_themselves():
    """Telling two movies apart, and nothing within them, is no evidence."""
    movie = np.repeat([0.0, 1.0], 40) + 1e-3 * np.random.default_rng(0).normal(size=80)
    rng = np.random.default_rng(2)
    other = np.repeat([0.0, 1.0], 40) + 1e-3 * rng.normal(size=80)
    table = correlation_table(movie, other)
    assert np.trace(table) > 0.99
    assert shift_test(table, _positions(40, 40)).p > LEVEL
    assert naive_p(table) <= LEVEL


def test_too_few_positions_have_no_p():
    """Nineteen alignments cannot reach 0.05, and nothing is claimed."""
    table = np.eye(19)
    assert np.isnan(shift_test(table, _positions(19)).p)
    assert shift_test(np.eye(20), _positions(20)).p == pytest.approx(0.05)


def test_p_counts_the_true_alignment():
    """The smallest p of n alignments is 1 / n."""
    assert p_value(2.0, np.array([2.0, 1, 1, 1])) == 0.25
    assert p_value(1.0, np.array([2.0, 1, 1, 1])) == 1


def test_windows_of_one_frame_are_one_position():
    """Repeats are added up; the order is that of the movie and not of the windows."""
    positions = Positions.of(np.array([0, 0, 0, 0]), np.array([9, 4, 9, 7]))
    assert positions.of_window.tolist() == [2, 0, 2, 1]
    assert positions.n_windows.tolist() == [1, 1, 2]
    assert positions.table(np.ones((4, 3)))[:, 0].tolist() == [1, 1, 2]
    assert positions.mean(np.array([1.0, 5, 3, 6])).tolist() == [5, 6, 2]


def test_minimal_lag_is_where_captions_change():
    """Captions that last for ten frames are unrelated after as many."""
    caption = np.arange(200) // 10
    likeness = (caption[:, None] == caption).astype(float)
    assert minimal_lags(likeness, _positions(200)) == (10,)
    assert minimal_lags(likeness, _positions(150, 50)) == (10, 10)


def test_block_intervals_cover_the_mean_of_a_slow_series():
    """Intervals of blocks hold the true mean as often as those of arch: 168 times in 200."""
    rng = np.random.default_rng(3)
    positions, covered, naive = _positions(300), 0, 0
    for trial in range(N_SHUFFLES):
        values = _ar1(rng, 300, 0.8)
        draws = block_draws(positions, block_length(values), seed=trial, n_draws=200)
        covered += interval(draws.ratio(values)).holds(0.0)
        single = block_draws(positions, 1.0, seed=trial, n_draws=200)
        naive += interval(single.ratio(values)).holds(0.0)
    assert covered >= 160
    assert naive < 0.65 * N_SHUFFLES


@pytest.mark.parametrize(
    ("rho", "expected"), [(0.0, 1.0), (0.5, 6.591150615782166), (0.9, 25.830875277165077)]
)
def test_block_length_is_that_of_arch(rho, expected):
    """The same numbers as `arch.bootstrap.optimal_block_length` of arch 8.0.0, but not below 1."""
    values = _ar1(np.random.default_rng(7), 400, rho)
    assert block_length(values) == pytest.approx(expected, rel=1e-6)


def test_block_draws_keep_each_movie_as_long_as_it_is():
    """Every draw has as many positions of each movie as the movie."""
    draws = block_draws(_positions(30, 50), 5.0, n_draws=20)
    assert (draws.times[:, :30].sum(axis=1) == 30).all()
    assert (draws.times[:, 30:].sum(axis=1) == 50).all()
