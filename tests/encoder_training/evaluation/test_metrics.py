"""Scores of patches and of frames, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from encoder_training.evaluation.metrics import (
    patch_cosines,
    patch_errors,
    share_among_best,
    similarities,
    true_ranks,
)


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


def test_the_chance_of_being_among_the_best_is_exact():
    """Two better: of the best 2.5 half a place is left. All alike: 2.5 of 5, whatever the frame."""
    similarity = np.array([[0.9, 0.8, 0.7, 0.1, 0.0], [0.3] * 5], np.float32)
    assert share_among_best(similarity, np.array([2, 4]), 2.5).tolist() == [0.5, 0.5]
    assert share_among_best(similarity, np.array([0, 0]), 2.5).tolist() == [1.0, 0.5]
    assert share_among_best(similarity, np.array([3, 1]), 0.5).tolist() == [0.0, 0.1]
