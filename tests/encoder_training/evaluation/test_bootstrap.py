"""Intervals: groups are drawn, not items."""

from __future__ import annotations

import numpy as np
import pytest

from encoder_training.evaluation.bootstrap import Draws, Interval, draw_groups, interval
from encoder_training.evaluation.results import PairedDifference


def test_sums_and_medians_follow_the_draws():
    """Two groups, drawn once each, the first twice, the second twice."""
    draws = Draws(np.array([0, 0, 1]), np.array([[1, 1], [2, 0], [0, 2]], np.float32))
    values = np.array([1.0, 2.0, 6.0])
    assert draws.ratio(values).tolist() == [3, 3, 1.5, 6]
    assert draws.ratio(values, np.array([1.0, 1.0, 0.0])).tolist()[:3] == [4.5, 4.5, 1.5]
    assert np.isnan(draws.ratio(values, np.array([1.0, 1.0, 0.0]))[3])
    assert draws.median(values).tolist() == [2, 2, 1, 6]


def test_windows_of_a_group_are_drawn_together():
    """A score that is the same within groups is as unsure as the groups are few."""
    group = np.repeat(np.arange(4), 100)
    values = np.repeat([0.0, 0.0, 1.0, 1.0], 100)
    by_group = interval(draw_groups(group, seed=0).ratio(values))
    by_window = interval(draw_groups(np.arange(400), seed=0).ratio(values))
    assert by_group.value == by_window.value == 0.5
    assert (by_group.low, by_group.high) == (0, 1)
    assert by_window.high - by_window.low == pytest.approx(0.098, abs=0.01)  # 2 x 1.96 x 0.025


def test_the_same_seed_draws_the_same():
    """And another seed others."""
    group = np.arange(20)
    draws = [draw_groups(group, seed=seed).times for seed in (1, 1, 2)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_a_single_group_is_no_sample():
    """All draws would be alike: the score has no interval, and no method is ahead."""
    draws = draw_groups(np.zeros(5, np.int64), seed=0)
    for values in (draws.ratio(np.arange(5.0)), draws.median(np.arange(5.0))):
        found = interval(values)
        assert found.value == 2
        assert not found.is_known
    assert str(found) == "2.000 (no interval)"
    assert PairedDifference("kNN", "all", {"skill": found}).verdict("skill") == "no verdict"


def test_an_interval_says_what_it_holds():
    """Edges included; what has no meaning holds nothing."""
    assert Interval(0.5, 0.0, 1.0).holds(0)
    assert not Interval(0.5, 0.1, 1.0).holds(0)
    assert np.isnan(interval(np.array([np.nan, np.nan])).low)
