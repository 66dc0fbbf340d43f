"""Sentences that tell their population apart, and sentences that do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from evaluation.questions import text_classifier
from evaluation.questions.chance import Positions, block_draws
from evaluation.questions.text_classifier import classify

N = 100
POSITIONS = Positions(np.arange(N), np.zeros(N, np.int64))
DRAWS = block_draws(POSITIONS, 5.0, n_draws=200)
THINGS = ("car", "dog", "tree", "bird")


def _slow_sentences(rng: np.random.Generator) -> list[str]:
    """Return sentences that stay the same for ten windows."""
    return [f"A {THINGS[thing]}." for thing in rng.integers(4, size=N // 10).repeat(10)]


def test_words_of_one_population_tell_it_apart():
    """Every sentence is given to its population, with the smallest p."""
    texts = {name: [f"A {thing}."] * N for name, thing in zip("abc", THINGS, strict=False)}
    found = classify(texts, POSITIONS, DRAWS)
    assert found.accuracy.value == 1
    assert found.confusion == pytest.approx(np.eye(3))
    assert found.p == pytest.approx(0.001)
    assert found.null.mean() == pytest.approx(1 / 3, abs=0.05)


def test_the_same_sentences_are_at_chance():
    """Populations that always say the same cannot be told apart."""
    same = _slow_sentences(np.random.default_rng(0))
    found = classify({"a": same, "b": same}, POSITIONS, DRAWS)
    assert found.p > 0.05


def test_slow_sentences_hold_the_level(monkeypatch):
    """Populations that draw from the same sentences are called different one time in twenty."""
    monkeypatch.setattr(text_classifier, "N_PERMUTATIONS", 39)
    rng = np.random.default_rng(1)
    n = 100
    p = [
        classify({name: _slow_sentences(rng) for name in "ab"}, POSITIONS, DRAWS, seed=trial).p
        for trial in range(n)
    ]
    assert np.sum(np.array(p) <= 0.05) <= binom.ppf(0.999, n, 0.05)


def test_a_permutation_keeps_names_within_a_block():
    """Neighbouring windows of a block have the same names, each once."""
    block = np.arange(12) // 4
    orders = text_classifier._orders(np.random.default_rng(0), 3, block)
    assert (np.sort(orders, axis=1) == np.arange(3)[:, None]).all()
    for first in (0, 4, 8):
        assert (orders[:, :, first : first + 4] == orders[:, :, first : first + 1]).all()
