"""Anchors: frames of training, each once, or clusters of them."""

from __future__ import annotations

import numpy as np
import pytest

from encoder_training.evidence import anchors as anchors_module
from encoder_training.evidence.anchors import choose_anchors, nearest


def by_brute_force(points, anchors) -> np.ndarray:
    """Return the squared distance of every point to every anchor, in double precision."""
    difference = points[:, np.newaxis].astype(np.float64) - anchors.astype(np.float64)
    distance: np.ndarray = np.square(difference).sum(axis=-1)
    return distance


def test_few_frames_are_anchors_themselves():
    """Frames of training are, others are not; these have the nearest of them."""
    coordinates = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    frames = np.arange(0, 30, 2)
    anchors, closest = choose_anchors(coordinates, frames, seed=0)
    assert np.array_equal(np.unique(anchors, axis=0), np.unique(coordinates[frames], axis=0))
    assert np.array_equal(anchors[closest[frames]], coordinates[frames])
    assert np.array_equal(closest, by_brute_force(coordinates, anchors).argmin(axis=1))


@pytest.mark.parametrize("n_latents", [3, 17, 64])
def test_equal_frames_are_one_anchor(n_latents):
    """A still picture is one candidate, however many frames it lasts."""
    scenes = np.random.default_rng(1).normal(size=(37, n_latents)).astype(np.float32)
    coordinates = np.concatenate([scenes.repeat(3, axis=0), scenes])
    anchors, closest = choose_anchors(coordinates, np.arange(len(coordinates)), seed=0)
    assert len(anchors) == 37
    assert np.array_equal(anchors[closest], coordinates)


@pytest.fixture
def few_anchors(monkeypatch):
    """Let more than eight frames be many."""
    monkeypatch.setattr(anchors_module, "MAX_ANCHORS", 8)


@pytest.fixture
def many_frames():
    """Return a hundred frames about eight places, and the place of each."""
    rng = np.random.default_rng(2)
    place = rng.integers(8, size=100)
    places = 10 * rng.normal(size=(8, 6))
    return (places[place] + 0.1 * rng.normal(size=(100, 6))).astype(np.float32), place


@pytest.mark.usefixtures("few_anchors")
def test_many_frames_are_clustered(many_frames):
    """There are no more anchors than allowed, and each frame has its nearest."""
    coordinates, place = many_frames
    train = np.arange(80)
    anchors, closest = choose_anchors(coordinates, train, seed=3)
    assert 2 <= len(anchors) <= 8
    assert np.array_equal(np.unique(closest[train]), np.arange(len(anchors)))
    assert np.array_equal(closest, by_brute_force(coordinates, anchors).argmin(axis=1))
    for one in range(8):  # frames that are alike are not told apart
        assert len(np.unique(closest[place == one])) == 1


@pytest.mark.usefixtures("few_anchors")
def test_same_seed_same_clusters(many_frames):
    """Clusters are a function of frames and seed."""
    coordinates, _ = many_frames
    first, again = (choose_anchors(coordinates, np.arange(100), seed=3) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def test_nearest_of_more_points_than_a_block():
    """Blocks meet without a gap."""
    rng = np.random.default_rng(4)
    points, anchors = (rng.normal(size=(n, 3)).astype(np.float32) for n in (4100, 7))
    assert np.array_equal(nearest(points, anchors), by_brute_force(points, anchors).argmin(axis=1))
