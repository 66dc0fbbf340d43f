"""How far apart a population narrates, and the populations of random units beside it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from contracts.population import Selection
from evaluation.questions.apart import FEWEST_RANDOM, apart, pair_leads, random_divisions

N_WINDOWS, DIM = 300, 8


def _narrations(noise: float, *, seed: int) -> np.ndarray:
    """Return vectors of length one: what all populations see, and noise of their own."""
    seen = np.random.default_rng(0).normal(size=(N_WINDOWS, DIM))
    values = seen + noise * np.random.default_rng(seed).normal(size=seen.shape)
    vectors: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return vectors


def test_the_one_that_sees_less_is_apart():
    """Of four the noisiest; the others are nearer to each other than to it."""
    leads = pair_leads([_narrations(noise, seed=1 + noise) for noise in (1, 1, 1, 4)])
    found = [float(apart(leads, at).mean()) for at in range(4)]
    assert found[3] > 0.2
    assert max(found[:3]) < 0
    # Mean of three pairs among the others less that of three pairs with it
    means = leads.mean(axis=2)
    among = np.mean([means[0, 1], means[0, 2], means[1, 2]])
    assert found[3] == pytest.approx(among - means[3, :3].mean())


def test_equal_narrations_of_other_windows_are_no_lead():
    """Populations that say one sentence always have only that in common."""
    same = np.tile(_narrations(1, seed=1)[:1], (N_WINDOWS, 1))
    assert pair_leads([same, same]) == pytest.approx(0)


def test_units_are_divided_as_the_populations_share_them():
    """As many populations of one size, without a unit in common, from the units of the kind."""
    masks = np.zeros((3, 40), np.bool_)
    masks[0, :12] = masks[1, 12:20] = masks[2, 20:35] = True
    groups = [Selection(f"area:{at}", "units", mask) for at, mask in enumerate(masks)]
    divisions = random_divisions(groups, 8, seed=3)
    assert len(divisions) * 3 >= FEWEST_RANDOM
    for division in divisions:
        assert [one.n_units for one in division] == [8, 8, 8]
        assert not any((one.mask & other.mask).any() for one, other in combinations(division, 2))
        assert not np.any([one.mask[35:] for one in division])
    assert len({one.name for division in divisions for one in division}) == 3 * len(divisions)
    assert (divisions[0][0].mask != divisions[1][0].mask).any()
