"""The data set: counts as serving counts them, and a split that leaks nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.binning import BinRate
from contracts.errors import MisuseError, UserError
from encoder_training.data_set import training_set as dataset
from encoder_training.data_set.counting import count_bins
from encoder_training.data_set.training_set import (
    STD_FLOOR,
    draw_validation_groups,
    measure_scaling,
    split,
)
from tests.encoder_training.support import BINS_PER_SCENE, planted


@pytest.fixture(scope="module")
def data():
    """Return the planted recording."""
    return planted(n_scenes=20)


def test_spikes_outside_the_recording_are_not_counted():
    """Those before zero and after the last bin are left out, and each other is in its bin."""
    rate = BinRate(10)
    spike_ns = np.array([-1, 0, 10**8 - 1, 10**8, 2 * 10**8 - 1, 2 * 10**8])
    unit_index = np.array([0, 0, 1, 1, 0, 1])
    counts = count_bins(spike_ns, unit_index, n_units=2, rate=rate, n_bins=2)
    assert counts.dtype == np.uint8
    assert counts.tolist() == [[1, 1], [1, 1]]


def test_windows_are_cut_where_they_start(data):
    """A window holds its bins, moved by its shift, and a target is that of its frame."""
    rows, shift = np.array([4, 0, 7]), np.array([1, -2, 0])
    found = data.counts_of(rows, shift)
    for counts, row, moved in zip(found, rows, shift, strict=True):
        first = data.first_bin[row] + moved
        assert np.array_equal(counts, data.counts[first : first + 8])
    assert found.shape == (3, 8, 18)
    assert data.targets_of(rows).shape == (3, 4, 6)
    assert np.array_equal(data.targets_of(rows)[2], data.targets[2].astype(np.float32))


def test_targets_may_be_mapped_from_a_file(data, tmp_path):
    """A memory map of targets serves as they do."""
    mapped = np.lib.format.open_memmap(tmp_path / "t.npy", "w+", np.float16, data.targets.shape)
    mapped[:] = data.targets
    mapped.flush()
    read = replace(data, targets=np.load(tmp_path / "t.npy", mmap_mode="r"))
    rows = np.arange(10)
    assert np.array_equal(read.targets_of(rows), data.targets_of(rows))


def test_split_leaks_nothing(data):
    """No group and no bin of validation is in training, the margin included."""
    # The last of three windows in each scene reaches into the next one.
    moved = data.first_bin + 6 * (np.arange(data.n_windows) % 3 == 2)
    reaching = replace(data, first_bin=np.minimum(moved, 20 * BINS_PER_SCENE - 10))
    groups = draw_validation_groups(reaching, 0.25, seed=3)
    parts = split(reaching, groups)

    def bins(rows, margin):
        first = reaching.first_bin[rows]
        return {b for f in first for b in range(f - margin, f + 8 + margin)}

    assert len(groups) == 5
    assert not set(reaching.group[parts.train]) & set(reaching.group[parts.validation])
    assert not bins(parts.train, 2) & bins(parts.validation, 0)
    assert set(reaching.group[parts.validation]) == set(groups)
    n_apart = len(parts.train) + len(parts.validation)
    assert reaching.n_windows - 10 <= n_apart < reaching.n_windows


def test_split_needs_two_sides(data):
    """One group cannot be split, nor can all of them be held out."""
    alone = replace(data, group=np.zeros_like(data.group))
    with pytest.raises(UserError, match="two groups"):
        draw_validation_groups(alone, 0.5, seed=0)
    with pytest.raises(UserError, match="got 0 and 60"):
        split(data, np.arange(20))


def test_groups_are_drawn_by_seed(data):
    """The same seed holds the same groups out; one group stays on each side."""
    draw = [draw_validation_groups(data, 0.3, seed=seed).tolist() for seed in (5, 5, 6)]
    assert draw[0] == draw[1] != draw[2]
    assert len(draw_validation_groups(data, 0.001, seed=0)) == 1
    assert len(draw_validation_groups(data, 0.999, seed=0)) == 19


def test_scaling_is_of_training_bins_alone(data, monkeypatch):
    """Bins that no training window holds have no say, and each of the others has one."""
    monkeypatch.setattr(dataset, "BLOCK_BINS", 50)
    rows = split(data, np.arange(10, 20)).train
    louder = data.counts.copy()
    louder[10 * BINS_PER_SCENE :] += 100
    found = measure_scaling(replace(data, counts=louder), rows)
    bins = sorted({b for f in data.first_bin[rows] for b in range(f, f + 8)})
    used = data.counts[bins].astype(np.float64)
    assert np.allclose(found.mean, used.mean(axis=0), rtol=1e-6)
    assert np.allclose(found.std, used.std(axis=0), rtol=1e-6)


def test_silent_units_are_not_divided_by_zero(data):
    """A unit that never fires in training has the floor for its standard deviation."""
    counts = data.counts.copy()
    counts[:, 3] = 0
    found = measure_scaling(replace(data, counts=counts), np.arange(30))
    assert found.std[3] == np.float32(STD_FLOOR)
    assert found.mean[3] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"counts": np.zeros((480, 3), np.uint8)}, r"\(n_bins, 18\)"),
        ({"counts": np.zeros((480, 18), np.int64)}, "int64"),
        ({"group": np.zeros(3, np.int64)}, "a group each"),
        ({"margin_bins": 5}, "must lie within"),
        ({"targets": np.zeros((3, 4, 6), np.float16)}, "rows of targets"),
    ],
)
def test_what_does_not_fit_is_refused(data, change, words):
    """Arrays that are not of one recording are our own mistake."""
    with pytest.raises(MisuseError, match=words):
        replace(data, **change)
