"""The Poisson evidence: it is the log likelihood ratio that counts and rates give, unit by unit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import poisson

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from encoder_training.data_set.training_set import Scaling, TrainingSet, measure_scaling
from encoder_training.evidence.network import EvidenceEncoder, EvidenceSizes, part_sums
from encoder_training.evidence.poisson import (
    N_FOLDS,
    PRIOR,
    SMALLEST_MEAN,
    ChoosingWindows,
    PoissonSums,
    ShownAnchors,
    choose_parts,
    folds_of,
)
from encoder_training.model import EncoderSpec

N_UNITS, N_ANCHORS = 5, 4
EDGES = {1: (0, 10), 2: (0, 5, 10), 4: (0, 2, 5, 7, 10)}
"""Of the parts of ten bins."""


def recording(rate, anchor, group, *, seed=0) -> TrainingSet:
    """Return windows side by side, of `rate` (n_windows, n_bins, n_units), spikes per bin."""
    n_windows, n_bins, n_units = rate.shape
    margin = np.zeros((2, n_units), dtype=np.uint8)
    counts = np.random.default_rng(seed).poisson(rate).astype(np.uint8).reshape(-1, n_units)
    return TrainingSet(
        population=Population([Unit(str(unit)) for unit in range(n_units)]),
        window=WindowSpec(BinRate(120), n_bins=n_bins, stride_bins=n_bins, lag_ns=0),
        counts=np.concatenate([margin, counts, margin]),
        first_bin=2 + np.arange(n_windows) * n_bins,
        frame=anchor,
        targets=np.zeros((int(anchor.max()) + 1, 1, 2), dtype=np.float16),
        group=group,
    )


def shown_by(data: TrainingSet, rows=None) -> ShownAnchors:
    """Return the windows where each frame is an anchor."""
    rows = np.arange(data.n_windows) if rows is None else rows
    n_anchors = len(data.targets)
    places = np.random.default_rng(1).normal(size=(n_anchors, 3)).astype(np.float32)
    fold = folds_of(data.group)[rows]
    return ShownAnchors(data, rows, places, places, data.frame[rows], fold)


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    """Return 60 windows of four anchors, whose rates change in time; one unit never fires."""
    rng = np.random.default_rng(2)
    anchor = rng.integers(N_ANCHORS, size=60)
    anchor[:3] = N_ANCHORS - 1  # shown in the first group and in no other
    anchor[3:] = np.minimum(anchor[3:], N_ANCHORS - 2)
    rate = rng.gamma(1.0, 1.0, size=(N_ANCHORS, 10, N_UNITS))
    rate[..., 3] = 0
    return recording(rate[anchor], anchor, np.repeat(np.arange(20), 3))


@pytest.fixture(scope="module")
def scaling(data) -> Scaling:
    """Return the scale of the counts."""
    return measure_scaling(data, np.arange(data.n_windows))


def in_parts(counts, n_parts) -> np.ndarray:
    """Return spikes in each part, shape (n, n_parts, n_units)."""
    edges = EDGES[n_parts]
    return np.stack(
        [counts[:, a:b].sum(axis=1, dtype=np.float64) for a, b in pairwise(edges)], axis=1
    )


def ratio_by_brute_force(data, train, counts, mask, n_parts) -> np.ndarray:
    """Return log likelihood ratios of every anchor, by the Poisson law alone."""
    sums = in_parts(data.counts_of(train), n_parts)
    mean = np.maximum(sums.mean(axis=0), SMALLEST_MEAN)
    found = np.zeros((len(counts), N_ANCHORS))
    for anchor in range(N_ANCHORS):
        mine = sums[data.frame[train] == anchor]
        rate = (mine.sum(axis=0) + PRIOR * mean) / (len(mine) + PRIOR)
        spikes = in_parts(counts, n_parts)
        ratio = poisson.logpmf(spikes, rate) - poisson.logpmf(spikes, mean)
        found[:, anchor] = (ratio.sum(axis=1) * mask).sum(axis=1)
    return found


def features(counts, mask, scaling, n_parts) -> np.ndarray:
    """Return what the network sums of masked z-scores."""
    z = (counts - scaling.mean) / scaling.std * mask[:, np.newaxis]
    return np.asarray(part_sums(10, n_parts).numpy() @ z).reshape(len(z), -1)


@pytest.mark.parametrize("without", [None, 0, 3])
@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_evidence_is_the_log_likelihood_ratio(n_parts, without, data, scaling):
    """Linear in z-scores and in the mask, it is what Poisson probabilities of the counts give."""
    shown = shown_by(data)
    evidence = PoissonSums(shown).evidence(scaling, n_parts, without=without)
    rng = np.random.default_rng(5)
    counts = rng.poisson(1.5, size=(20, 10, N_UNITS))
    mask = (rng.random((20, N_UNITS)) < 0.6).astype(float)
    train = np.flatnonzero(shown.fold != (-1 if without is None else without))
    expected = ratio_by_brute_force(data, train, counts, mask, n_parts)
    found = features(counts, mask, scaling, n_parts) @ evidence.gain + mask @ evidence.offset
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 1


def test_network_weighs_it_by_the_gain_of_each_unit(data, scaling):
    """The network's logits are these ratios, times the same first gain for all units."""
    sizes = EvidenceSizes(
        n_bins=10, n_parts=2, n_anchors=N_ANCHORS, n_latents=3, n_gaussian=2, n_dims=2, width=4
    )
    network = EvidenceEncoder(EncoderSpec.tiny(N_UNITS, PatchGrid(1, 1, 2)), sizes)
    evidence = PoissonSums(shown_by(data)).evidence(scaling, 2)
    counts, mask = data.counts_of(np.arange(9)), np.ones((9, N_UNITS))
    expected = ratio_by_brute_force(data, np.arange(60), counts, mask, 2)
    x, *rest = (
        network.unit_gain.new_tensor(array)
        for array in (features(counts, mask, scaling, 2), mask, evidence.gain, evidence.offset)
    )
    found = network.poisson(x, *rest).detach().numpy()
    np.testing.assert_allclose(found, 0.25 * expected, rtol=1e-3, atol=1e-3)


def test_evidence_without_a_fold_knows_nothing_of_it(data, scaling):
    """Other spikes in its windows change the evidence of the others, and not its own."""
    shown = shown_by(data)
    counts = data.counts.copy()
    for first in data.first_bin[shown.fold == 2]:
        counts[first : first + 10] += 9
    other = shown_by(replace(data, counts=counts))
    for without, is_same in ((2, True), (1, False), (None, False)):
        before, after = (
            PoissonSums(one).evidence(scaling, 2, without=without) for one in (shown, other)
        )
        assert np.array_equal(before.gain, after.gain) == is_same
        assert np.array_equal(before.offset, after.offset) == is_same


def test_an_anchor_of_one_fold_is_unseen_without_it(data, scaling):
    """It is no candidate then: it has no evidence, and its frame another nearest anchor."""
    shown = shown_by(data)
    sums = PoissonSums(shown)
    assert sums.evidence(scaling, 1).is_seen.all()
    evidence = sums.evidence(scaling, 1, without=0)
    assert evidence.is_seen.tolist() == [True, True, True, False]
    assert not evidence.gain[:, -1].any()
    assert not evidence.offset[:, -1].any()
    closest = shown.nearest_of(evidence.is_seen)
    assert closest[:-1].tolist() == [0, 1, 2]
    distance = np.square(shown.anchors[:-1] - shown.places[-1]).sum(axis=1)
    assert closest[-1] == distance.argmin()


def test_a_recording_of_one_group_is_never_without_it(data, scaling):
    """There is nothing to leave out, so all of it counts."""
    shown = shown_by(replace(data, group=np.full(data.n_windows, 7)))
    assert not shown.fold.any()
    sums = PoissonSums(shown)
    whole, left_out = sums.evidence(scaling, 4), sums.evidence(scaling, 4, without=0)
    assert np.array_equal(whole.gain, left_out.gain)
    assert np.array_equal(whole.offset, left_out.offset)
    assert left_out.is_seen.all()


@pytest.mark.parametrize("n_groups", [1, 2, 4, 5, 6, 13])
def test_folds_are_runs_of_whole_groups(n_groups):
    """Neighbouring groups are in one fold, folds are of like size, and no number is left out."""
    group = np.random.default_rng(n_groups).permutation(np.repeat(3 * np.arange(n_groups) + 2, 4))
    fold = folds_of(group)
    of_group = [np.unique(fold[group == one]) for one in np.unique(group)]
    assert all(len(one) == 1 for one in of_group)
    numbers = np.concatenate(of_group)
    assert (np.diff(numbers) >= 0).all()
    n_each = np.bincount(numbers)
    assert len(n_each) == min(N_FOLDS, n_groups)
    assert n_each.min() >= 1
    assert n_each.max() - n_each.min() <= 1


def parts_chosen(shape) -> int:
    """Return the parts for windows whose rate over bins is `shape`, (n_anchors, n_bins)."""
    anchor = np.tile(np.arange(len(shape)), 30)
    rate = np.repeat(np.asarray(shape)[anchor][:, :, np.newaxis], 3, axis=2)
    data = recording(rate, anchor, np.repeat(np.arange(10), len(anchor) // 10))
    every = np.arange(data.n_windows)
    shown, of_units = shown_by(data), measure_scaling(data, every)
    z = ((data.counts_of(every) - of_units.mean) / of_units.std).astype(np.float32)
    windows = ChoosingWindows(every, z, np.ones((len(every), 3), np.float32))
    return choose_parts(shown, PoissonSums(shown), of_units, windows)


def test_constant_rates_need_one_part():
    """Where anchors differ by their rates alone, finer timing is noise."""
    assert parts_chosen([[rate] * 12 for rate in (0.3, 0.8, 2.0)]) == 1


def test_halves_that_differ_need_two_parts():
    """Anchors of equal counts, early or late, are told apart by halves; quarters add nothing."""
    assert parts_chosen([[2.0] * 6 + [0.2] * 6, [0.2] * 6 + [2.0] * 6, [1.1] * 12]) == 2


def test_quarters_that_differ_need_four_parts():
    """What is equal in halves may differ in quarters."""
    early = [2.0, 2.0, 2.0, 0.2, 0.2, 0.2]
    assert parts_chosen([2 * early, 2 * early[::-1], [1.1] * 12]) == 4


def test_a_window_of_one_bin_has_one_part():
    """There are no more parts than bins."""
    assert parts_chosen([[0.3], [2.0]]) == 1
