"""Windows that are drawn together: held-out groups, or runs of movie time."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.window import WindowSpec
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.evaluation.bootstrap import draw_groups, interval
from encoder_training.evaluation.movie_runs import bootstrap_groups, movie_runs, run_seconds
from encoder_training.evaluation.movie_time import MovieTime, movie_time
from tests.support.prepared import prepared_set, thinned_targets

LAG_NS = 100_000_000


def drawn_with(prepared: PreparedSet):
    """Return what its test windows are drawn with."""
    data, parts = prepared.windows(LAG_NS)
    return bootstrap_groups(data, parts.test, movie_time(prepared))


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
    group, what = bootstrap_groups(data, parts.test, movie_time(prepared))
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
    assert all(len(np.unique(group[frame == number])) == 1 for number in np.unique(frame))


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


def test_sequences_are_cut_by_themselves_and_pictures_stand_alone():
    """Two sequences of 2.5 s and 0.3 s are two runs and one; pictures without a time, one each."""
    at_s = np.concatenate([np.arange(25) / 10, 10 + np.arange(3) / 10, [np.nan] * 2])
    time = MovieTime(np.repeat([0, 1], [28, 2]), at_s, {"a": 0.1})
    frame = np.tile(np.arange(30), 2)
    run = movie_runs(frame, time, 1.0)
    assert np.bincount(run[:30]).tolist() == [13, 12, 3, 1, 1]
    assert (run[:30] == run[30:]).all()
