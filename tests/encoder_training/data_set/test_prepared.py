"""Windows of a prepared set: which frames they describe, and what is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import UserError
from encoder_training.data_set.counting import CountedIntervals
from encoder_training.data_set.prepare import _seen_in_training
from encoder_training.data_set.prepared import Role
from tests.support.prepared import prepared_set


def test_rows_of_bins_lie_end_to_end():
    """A bin that is not counted has no row; the others follow each other."""
    spans = CountedIntervals(np.array([10, 20]), np.array([13, 22]))
    assert spans.n_rows == 5
    assert spans.rows_of(np.array([9, 10, 12, 13, 19, 20, 21, 22])).tolist() == [
        -1, 0, 2, -1, -1, 3, 4, -1,
    ]  # fmt: skip


@pytest.mark.parametrize("held_out", ["repeats", "middle"])
def test_parts_share_no_bin(held_out):
    """Training, validation and test never see the same bin, jitter included."""
    data, parts = prepared_set(held_out=held_out).windows(100_000_000)

    def bins_of(rows, margin):
        first = data.first_bin[rows]
        reach = np.arange(-margin, data.window.n_bins + margin)
        return set((first[:, None] + reach).ravel().tolist())

    train = bins_of(parts.train, data.margin_bins)
    validation, test = bins_of(parts.validation, 0), bins_of(parts.test, 0)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_no_window_crosses_a_join_of_repeats():
    """Each window lies, from its lag before its first bin on, within one repeat."""
    prepared = prepared_set()
    data, _ = prepared.windows(100_000_000)
    rate, shown = data.window.rate, prepared.shown
    starts_ns = np.array([rate.start_ns(int(b)) for b in data.first_bin]) - 100_000_000
    stops_ns = np.array([rate.start_ns(int(b) + data.window.n_bins) for b in data.first_bin])
    for repeat in range(6):
        of_repeat = shown.block == repeat
        inside = data.group == repeat
        assert inside.any()
        assert (starts_ns[inside] >= shown.start_ns[of_repeat].min()).all()
        assert (stops_ns[inside] <= shown.stop_ns[of_repeat].max()).all()


def test_windows_keep_clear_of_invalid_stretches():
    """An interval that the recording calls invalid takes every window that touches it."""
    prepared = prepared_set()
    data, _ = prepared.windows(100_000_000)
    start_ns = int(prepared.shown.start_ns[40])
    fewer, _ = replace(prepared, invalid_ns=np.array([[start_ns, start_ns + 1]])).windows(
        100_000_000
    )
    lost = set(data.first_bin.tolist()) - set(fewer.first_bin.tolist())
    rate = data.window.rate
    touching = {
        first
        for first in data.first_bin.tolist()
        if rate.start_ns(first - 2) - 100_000_000 < start_ns + 1
        and rate.start_ns(first + data.window.n_bins + 2) > start_ns
    }
    assert lost == touching
    assert lost


def test_test_frames_that_are_all_seen_in_training_are_noted():
    """Held-out repeats have a note on what to compare, held-out frames have none."""
    (note,) = _seen_in_training(*prepared_set().windows(100_000_000))
    assert note.startswith("all 83 test frames are also shown in training")
    assert _seen_in_training(*prepared_set(held_out="middle").windows(100_000_000)) == ()


def test_a_role_without_windows_is_refused():
    """Evaluation needs test windows; the error names which are missing and what to do."""
    prepared = prepared_set()
    role = np.where(prepared.shown.role == Role.TEST, Role.TRAIN, prepared.shown.role)
    shown = replace(prepared.shown, role=role.astype(np.int8))
    with pytest.raises(UserError, match="no window is left for test"):
        replace(prepared, shown=shown).windows(100_000_000)
