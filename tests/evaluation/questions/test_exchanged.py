"""Residual correlations, and what an exchange of repeats does to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoder_training.data_set.pool import PoolOptions, pool_data_sets
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from evaluation.questions.exchanged import residual_correlation
from tests.support.prepared import prepared_set

LAG_NS = 50_000_000
N_FRAMES, N_TIMES, N_UNITS = 200, 6, 30
POSITION = np.repeat(np.arange(N_FRAMES), N_TIMES)
ALL = np.ones(N_UNITS, np.bool_)


def planted(shared: float, *, seed: int = 0) -> np.ndarray:
    """Return spikes that follow the frame, with a correlation of what is left of it."""
    rng = np.random.default_rng(seed)
    noise = np.sqrt(shared) * rng.normal(size=(len(POSITION), 1))
    noise = noise + np.sqrt(1 - shared) * rng.normal(size=(len(POSITION), N_UNITS))
    evoked = rng.normal(size=(N_FRAMES, N_UNITS))[POSITION]
    spikes: np.ndarray = np.round(100 + 30 * evoked + 10 * noise).astype(np.int64)
    return spikes


@pytest.mark.parametrize("shared", [0.0, 0.1, 0.4])
def test_the_correlation_is_that_which_was_planted(shared):
    """Frames evoke most of the variance, and add nothing."""
    found = residual_correlation(planted(shared), POSITION, [ALL]).mean()
    assert found == pytest.approx(shared, abs=0.02)


def test_pairs_are_of_one_session():
    """Two sessions without anything shared between them have their own correlation."""
    spikes = np.concatenate([planted(0.4), planted(0.4, seed=1)], axis=1)
    first = np.arange(2 * N_UNITS) < N_UNITS
    within = residual_correlation(spikes, POSITION, [first, ~first]).mean()
    every = residual_correlation(spikes, POSITION, [np.ones_like(first)]).mean()
    assert within == pytest.approx(0.4, abs=0.03)
    assert every == pytest.approx(0.2, abs=0.03)


def test_silent_units_are_no_pair():
    """A unit without spikes changes nothing; one unit alone has no correlation."""
    spikes = np.concatenate([planted(0.4), np.zeros((len(POSITION), 5), np.int64)], axis=1)
    every = np.ones(N_UNITS + 5, np.bool_)
    assert np.array_equal(
        residual_correlation(spikes, POSITION, [every]),
        residual_correlation(planted(0.4), POSITION, [ALL]),
    )
    assert np.isnan(residual_correlation(spikes, POSITION, [every & (np.arange(35) == 3)])).all()


def shared_gain_set() -> PreparedSet:
    """Return a session whose units share a gain from window to window."""
    small = prepared_set(n_frames=120, n_repeats=6, held_out="middle", units_each=6)
    rng = np.random.default_rng(3)
    gain = np.repeat(rng.random(len(small.counts) // 12 + 1) < 0.5, 12)[: len(small.counts)]
    return replace(small, counts=small.counts * (1 + 2 * gain[:, np.newaxis]).astype(np.uint8))


def correlation_of(prepared: PreparedSet) -> float:
    """Return the mean residual correlation of its windows."""
    data, _ = prepared.windows(LAG_NS)
    spikes = data.counts_of(np.arange(data.n_windows)).sum(axis=1, dtype=np.int64)
    return float(residual_correlation(spikes, data.frame, [np.ones(data.n_units, np.bool_)]).mean())


def test_an_exchange_removes_what_units_share(tmp_path):
    """A shared gain correlates units as recorded, not after an exchange, nor after a second one."""
    write_prepared(tmp_path / "data", shared_gain_set())
    before = load_prepared(tmp_path / "data")
    once = pool_data_sets(PoolOptions((tmp_path / "data",), tmp_path / "once", True, 1)).data
    again = pool_data_sets(PoolOptions((tmp_path / "once",), tmp_path / "again", True, 2)).data
    assert correlation_of(before) > 0.1
    assert correlation_of(once) == pytest.approx(0, abs=0.02)
    assert correlation_of(again) == pytest.approx(0, abs=0.02)


def test_an_exchange_keeps_what_each_unit_answers(tmp_path):
    """The mean spikes of a frame over its repeats stay, but for the bins at their borders."""
    write_prepared(tmp_path / "data", shared_gain_set())
    pool_data_sets(PoolOptions((tmp_path / "data",), tmp_path / "once", True, 1))
    means = []
    for name in ("data", "once"):
        data, _ = load_prepared(tmp_path / name).windows(LAG_NS)
        spikes = data.counts_of(np.arange(data.n_windows)).sum(axis=1, dtype=np.float64)
        sums = np.zeros((len(data.targets), data.n_units))
        np.add.at(sums, data.frame, spikes)
        means.append(sums)
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.97
