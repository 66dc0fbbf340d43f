"""Scores of patches and of frames, against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoder_training.judging.metrics import (
    MovieTime,
    movie_time,
    patch_cosines,
    patch_errors,
    similarities,
    true_ranks,
)
from tests.support.prepared import FRAME_NS, prepared_set


def test_errors_are_means_over_all_numbers():
    """One window is off by 1 in one of four numbers, the other by 2 in all."""
    true = np.zeros((2, 2, 2), np.float32)
    predicted = np.array([[[1, 0], [0, 0]], [[2, 2], [2, 2]]], np.float32)
    assert patch_errors(predicted, true).tolist() == [0.25, 4.0]


def test_cosines_are_means_over_patches():
    """A patch that points the right way counts 1, one at a right angle or of no length 0."""
    true = np.array([[[1, 0], [0, 2], [3, 3], [1, 0]]], np.float32)
    predicted = np.array([[[5, 0], [1, 0], [0, 0], [-1, 0]]], np.float32)
    assert patch_cosines(predicted, true).tolist() == [0.0]
    assert patch_cosines(true, true).tolist() == pytest.approx([1.0])


def test_a_grid_that_is_the_mean_is_like_no_frame():
    """Cosines are those of the vectors; what is nearly the origin has no direction."""
    true = np.array([[2, 0], [0, 1], [-1, 0]], np.float32)
    found = similarities(np.array([[3, 0], [1, 1], [1e-9, 0]], np.float32), true)
    assert found[0].tolist() == [1, 0, -1]
    assert found[1] == pytest.approx([0.70711, 0.70711, -0.70711])
    assert found[2].tolist() == [0, 0, 0]


def test_ranks_share_ties():
    """The true frame is first, third, and one of three that are alike after one better."""
    similarity = np.array([[3, 2, 1, 0], [3, 2, 1, 0], [1, 2, 1, 1]], np.float32)
    ranks = true_ranks(similarity, np.array([0, 2, 0]))
    assert ranks.rank.tolist() == [1, 3, 3]
    assert ranks.top1.tolist() == [1, 0, 0]
    assert ranks.top5.tolist() == [1, 1, 1]
    alike = true_ranks(np.zeros((1, 10), np.float32), np.array([4]))
    assert (alike.rank[0], alike.top1[0], alike.top5[0]) == (5.5, 0.1, 0.5)


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
