"""Matched and shuffled scores, and their intervals, against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from subscribers.dashboard.running_score import RunningScore, ScoreSummary


def summary_of(*narrations: tuple[str, set[str], set[str]]) -> ScoreSummary:
    score = RunningScore()
    for caption, named, shown in narrations:
        score.add(caption, named, shown)
    return score.summary(np.random.default_rng(0))


def test_words_that_are_right_score_better_than_by_chance():
    """Each names its own thing alone: 1 matched, 0 against every other caption."""
    things = ("car", "dog", "tree", "bus")
    summary = summary_of(*((thing, {thing}, {thing}) for thing in things for _ in range(3)))
    assert (summary.n, summary.n_captions) == (12, 4)
    assert (summary.matched, summary.matched_low, summary.matched_high) == (1.0, 1.0, 1.0)
    assert summary.shuffled == 0.0


def test_words_that_are_always_the_same_score_as_by_chance():
    """A car in every sentence, shown in every second scene: matched and shuffled overlap."""
    shown = [{"car"}, {"dog"}] * 4
    summary = summary_of(*((str(n), {"car"}, one) for n, one in enumerate(shown)))
    assert summary.matched == pytest.approx(0.5)
    assert summary.shuffled == pytest.approx(0.5)
    assert summary.matched_low is not None
    assert summary.matched_high is not None
    assert summary.matched_low < 0.5 < summary.matched_high


def test_shuffled_leaves_out_the_own_caption():
    """Three captions: what is right by chance is counted over the two others."""
    summary = summary_of(
        ("a", {"car"}, {"car"}), ("b", {"car"}, {"car", "dog"}), ("c", {"dog"}, {"tree"})
    )
    right = (1 + 0) / 2 + (1 + 0) / 2 + (0 + 1) / 2
    named, shown = 3, (2 + 1) / 2 + (1 + 1) / 2 + (1 + 2) / 2
    assert summary.shuffled == pytest.approx(2 * right / (named + shown))


def test_few_captions_have_no_interval():
    """And nothing to name has no score."""
    summary = summary_of(("a", {"car"}, {"car"}))
    assert (summary.matched, summary.matched_low, summary.shuffled) == (1.0, None, None)
    empty = summary_of(("a", set(), set()))
    assert empty.matched is None
