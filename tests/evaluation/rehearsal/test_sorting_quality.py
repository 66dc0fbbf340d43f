"""Sortings against planted spikes."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.rehearsal.sorting_quality import sorting_quality

RATE_HZ = 30_000.0


def test_each_planted_unit_is_compared_with_its_best_partner():
    """Of three planted units one is found whole, one by half, and one not at all."""
    rng = np.random.default_rng(1)
    first, second, third = (np.sort(rng.choice(3_000_000, 400, False)) for _ in range(3))
    found = [second[::2], first + 3, np.sort(rng.choice(3_000_000, 400, False))]
    quality = sorting_quality([first, second, third], found, rate_hz=RATE_HZ, measured_on="all")
    assert (quality.n_planted, quality.n_units, quality.n_found) == (3, 3, 1)
    assert quality.median_agreement == pytest.approx(0.5, abs=0.02)
    assert quality.recall == pytest.approx(0.5, abs=0.05)


def test_a_sorting_without_units_finds_nothing():
    """And is no error."""
    quality = sorting_quality([np.arange(0, 9000, 300)], [], rate_hz=RATE_HZ, measured_on="all")
    assert (quality.n_found, quality.median_agreement, quality.recall) == (0, 0.0, 0.0)
