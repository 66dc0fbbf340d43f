"""Movie time: which answers are near, what chance is, and the period of what was shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoder_training.evaluation.movie_time import MovieTime, movie_time
from tests.support.prepared import FRAME_NS, prepared_set, thinned_targets


def seconds(*times_s: float) -> MovieTime:
    """Return frames of one movie at these times."""
    return MovieTime(np.zeros(len(times_s), np.int64), np.array(times_s), {"a": 1.0})


def test_within_a_second_counts_its_edge():
    """One second is near, more is not; nothing is near to a frame that was not decoded."""
    time = seconds(0, 1.0, 2.5)
    near = time.is_near(np.array([0, 0, 1, -1, 2]), np.array([1, 2, 2, 0, 2]))
    assert near.tolist() == [True, False, False, False, True]


def test_chance_counts_the_candidates():
    """Of frames at 0, 0.5, 1.4 and 5 s, two, three, two and one are within a second."""
    chance = seconds(0, 0.5, 1.4, 5).chance(np.array([0, 1, 2, 3, 3]))
    assert chance.tolist() == [0.5, 0.75, 0.5, 0.25, 0.25]


def test_chance_of_answers_is_that_of_any_order():
    """Who always says the same frame scores no more than that frame's share of the windows."""
    time = seconds(0, 5, 10)
    true = np.array([0, 0, 1, 2])
    same = np.zeros(4, np.int64)
    assert time.chance_of_answers(same, true).tolist() == [0.5] * 4
    assert time.is_near(same, true).mean() == time.chance_of_answers(same, true).mean()
    assert time.chance_of_answers(true, true).tolist() == [0.5, 0.5, 0.25, 0.25]


def test_pictures_without_an_order_have_no_time():
    """Only the frame itself is right where the next picture is not the next frame."""
    nowhere = MovieTime(np.zeros(3, np.int64), np.full(3, np.nan), {})
    assert nowhere.is_near(np.array([0, 0]), np.array([0, 1])).tolist() == [True, False]
    assert nowhere.chance(np.array([1])).tolist() == [1 / 3]


def test_the_period_is_read_off_the_presentations():
    """The movie has the period it was shown with; shuffled frames have none."""
    prepared = prepared_set()
    time = movie_time(prepared)
    assert time.period_s == {"natural_movie_one": pytest.approx(FRAME_NS / 1e9)}
    assert time.time_s[30] == pytest.approx(30 * FRAME_NS / 1e9)
    order = np.random.default_rng(0).permutation(len(prepared.shown.frame))
    shown = replace(prepared.shown, frame=prepared.shown.frame[order])
    mixed = movie_time(replace(prepared, shown=shown))
    assert mixed.period_s == {}
    assert np.isnan(mixed.time_s).all()


@pytest.mark.parametrize("every", [2, 5])
def test_the_period_is_that_of_frames_where_few_are_targets(every):
    """Presentations between two targets show none: the period and the times stay the same."""
    time = movie_time(thinned_targets(prepared_set(), every))
    assert time.period_s == {"natural_movie_one": pytest.approx(FRAME_NS / 1e9)}
    assert time.time_s[3] == pytest.approx(3 * every * FRAME_NS / 1e9)
    near = time.is_near(np.array([0, 0]), np.array([30 // every - 1, 30 // every]))
    assert near.tolist() == [True, False]
