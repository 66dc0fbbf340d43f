"""Tests on labels that have nothing to do with the narrations, and on some that do."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom

from evaluation.questions.chance import LEVEL, Positions
from evaluation.questions.false_positives import Growth, run_tests

N, DIM, N_SHUFFLES = 120, 12, 60
POSITIONS = Positions(np.arange(N), np.zeros(N, np.int64))


def _slow_vectors(rng: np.random.Generator) -> np.ndarray:
    """Return vectors of length one that change slowly."""
    values = lfilter([1], [1, -0.95], rng.normal(size=(N + 300, DIM)), axis=0)[300:]
    vectors: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return vectors


@pytest.fixture(scope="module")
def rejected():
    """Return how often each test sees an effect in unrelated slow sentences."""
    rng = np.random.default_rng(0)
    found: Counter[str] = Counter()
    for shuffle in range(N_SHUFFLES):
        labels = _slow_vectors(rng)
        growth = Growth(_slow_vectors(rng) - _slow_vectors(rng), POSITIONS, np.arange(N))
        found.update(run_tests(_slow_vectors(rng), labels, POSITIONS, 1.0, seed=shuffle))
        found.update(growth.run(labels, seed=shuffle))
    return found


@pytest.mark.parametrize("test", ["mean cosine, shifts", "correlation, shifts", "slope, shifts"])
def test_shifts_hold_their_level(rejected, test):
    """Slow sentences and slow captions without a relation have none, but for one in twenty."""
    assert rejected[test] <= binom.ppf(0.999, N_SHUFFLES, LEVEL)


@pytest.mark.parametrize(
    "test",
    [
        "mean cosine, any order",
        "correlation, any order",
        "slope, any order",
        "interval of the lead, frames",
    ],
)
def test_tests_of_independent_frames_do_not(rejected, test):
    """Those that take frames for independent see effects that are not there."""
    assert rejected[test] > binom.ppf(0.999, N_SHUFFLES, LEVEL)


def test_an_effect_is_seen_by_every_test():
    """Narrations that are the captions with noise are related, whoever asks."""
    rng = np.random.default_rng(1)
    shown = _slow_vectors(rng)
    found = run_tests(shown + 0.1 * rng.normal(size=shown.shape), shown, POSITIONS, 1.0)
    assert all(found.values())
