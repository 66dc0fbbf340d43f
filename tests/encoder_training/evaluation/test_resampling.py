"""Intervals: groups are drawn, not windows."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.window import WindowSpec
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.evaluation.movie_time import MovieTime, movie_time
from encoder_training.evaluation.resampling import (
    Draws,
    Interval,
    draw_groups,
    interval,
    movie_runs,
    run_seconds,
    runs,
)
from encoder_training.evaluation.results import PairedDifference
from tests.support.prepared import prepared_set, thinned_targets

LAG_NS = 100_000_000


def drawn_with(prepared: PreparedSet):
    """Return what its test windows are drawn with."""
    data, parts = prepared.windows(LAG_NS)
    return runs(data, parts.test, movie_time(prepared))


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


def test_one_held_out_repeat_is_cut_into_runs():
    """Four seconds, of which the first windows are missing, are three runs in their order."""
    group, what = drawn_with(prepared_set(n_frames=120))
    assert np.unique(group).tolist() == [0, 1, 2]
    assert (np.diff(group) >= 0).all()
    assert what == "runs of 1 s of movie time from 1 held-out group"


def test_many_groups_stay_as_they_are():
    """Twelve chunks of frames are enough to draw from."""
    prepared = prepared_set(n_frames=180, held_out="middle")
    data, parts = prepared.windows(LAG_NS)
    group, what = runs(data, parts.test, movie_time(prepared))
    assert (group == data.group[parts.test]).all()
    assert what == "held-out groups"


@pytest.mark.parametrize("every", [1, 2])
def test_repeats_of_a_chunk_are_one_draw(every):
    """Six seconds held out in each of twelve repeats are six draws, not seventy-two."""
    prepared = prepared_set(
        n_frames=900, n_repeats=12, frames_per_scene=30, held_out="middle", units_each=1
    )
    prepared = thinned_targets(prepared, every)
    data, parts = prepared.windows(LAG_NS)
    group, what = drawn_with(prepared)
    assert what == "runs of 1 s of movie time from 6 held-out groups"
    assert len(np.unique(group)) == 6
    frame = data.frame[parts.test]
    assert all(len(np.unique(group[frame == each])) == 1 for each in np.unique(frame))


def test_an_interval_is_as_wide_as_the_movie_is_short():
    """What is hard in one second is hard in all its repeats: more of them are no more certain."""
    widths = []
    for n_repeats in (4, 16):
        prepared = prepared_set(
            n_frames=450, n_repeats=n_repeats, frames_per_scene=30, held_out="middle", units_each=1
        )
        data, parts = prepared.windows(LAG_NS)
        hard = (data.frame[parts.test] // 30 % 2).astype(np.float64)
        found = interval(draw_groups(drawn_with(prepared)[0], seed=0).ratio(hard))
        widths.append(found.high - found.low)
    assert min(widths) > 0.6
    assert widths[0] == pytest.approx(widths[1], abs=0.05)


def test_runs_are_no_shorter_than_a_window_and_its_lag():
    """A window of a second that describes what was shown half a second before needs 1.5 s."""
    assert run_seconds(WindowSpec(BinRate(120), 120, 8, 500_000_000)) == 1.5
    assert run_seconds(WindowSpec(BinRate(120), 12, 8, 100_000_000)) == 1


def test_stretches_are_cut_by_themselves_and_pictures_stand_alone():
    """Two stretches of 2.5 s and 0.3 s are two runs and one; pictures without a time, one each."""
    at_s = np.concatenate([np.arange(25) / 10, 10 + np.arange(3) / 10, [np.nan] * 2])
    time = MovieTime(np.repeat([0, 1], [28, 2]), at_s, {"a": 0.1})
    frame = np.tile(np.arange(30), 2)
    run = movie_runs(frame, time, 1.0)
    assert np.bincount(run[:30]).tolist() == [13, 12, 3, 1, 1]
    assert (run[:30] == run[30:]).all()


def test_a_single_group_is_no_sample():
    """All draws would be alike: the score has no interval, and nothing is said to be ahead."""
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
