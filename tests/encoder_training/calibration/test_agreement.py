"""Matching the spikes of two sortings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder_training.calibration.agreement import agreement, n_matches

RATE_HZ = 30_000.0


def test_a_constant_lag_is_no_disagreement():
    """The causal filter delays each unit by its own few samples."""
    first = np.arange(0, 30_000, 300)
    found = agreement(first, first + 7, rate_hz=RATE_HZ)
    assert (found.score, found.lag_samples) == (1.0, 7)


def test_missed_and_false_spikes_count():
    """Ten of a hundred are missed and twenty are false."""
    first = np.arange(0, 30_000, 300)
    second = np.sort(np.concatenate([first[10:], first[:20] + 150]))
    found = agreement(first, second, rate_hz=RATE_HZ)
    assert found.recall == pytest.approx(0.9)
    assert found.precision == pytest.approx(90 / 110)
    assert found.score == pytest.approx(90 / 120)


def test_a_spike_is_matched_once():
    """Two spikes near one are one match."""
    assert n_matches(np.array([100]), np.array([98, 101]), 12) == 1
    assert n_matches(np.array([98, 101]), np.array([100]), 12) == 1


@pytest.mark.parametrize("lengths", [(0, 0), (0, 3), (3, 0)])
def test_no_spikes_no_agreement(lengths):
    """Empty trains give 0, not an error."""
    first, second = (np.arange(n) * 1000 for n in lengths)
    assert agreement(first, second, rate_hz=RATE_HZ).score == 0.0


@given(
    st.lists(st.integers(0, 2000), max_size=12, unique=True),
    st.lists(st.integers(0, 2000), max_size=12, unique=True),
)
def test_matches_are_symmetric_and_at_most_all(first, second):
    """The number does not depend on which sorting comes first."""
    a, b = np.array(sorted(first), dtype=np.int64), np.array(sorted(second), dtype=np.int64)
    n = n_matches(a, b, 12)
    assert n == n_matches(b, a, 12)
    assert n <= min(len(a), len(b))
