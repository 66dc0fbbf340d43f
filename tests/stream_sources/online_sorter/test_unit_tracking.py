"""A unit that changes or falls silent is named, by rules with margins."""

import numpy as np
import pytest

from stream_sources.online_sorter.blocks import VoltageBlock
from stream_sources.online_sorter.matching import FoundSpikes
from stream_sources.online_sorter.unit_tracking import MIN_WAVEFORMS, UnitTracker
from tests.support.sorter_templates import N_BEFORE, N_CHANNELS, small_templates

BLOCK, MARGIN = 30_000, 100
"""Blocks of one second."""

SPIKES_A_BLOCK = 5


def add_block(tracker, number, waveforms, *, silent=()):
    """Let each unit fire five times with its waveform in a second of small noise."""
    rng = np.random.default_rng(number)
    traces = rng.normal(size=(BLOCK + 2 * MARGIN, N_CHANNELS)).astype(np.float32) * 3
    start = number * BLOCK
    samples, units = [], []
    for row, waveform in enumerate(waveforms):
        if row in silent:
            continue
        for turn in range(SPIKES_A_BLOCK):
            at = 1_000 + 5_000 * turn + 1_000 * row
            traces[MARGIN + at - N_BEFORE : MARGIN + at + 90 - N_BEFORE] += waveform
            samples.append(start + at)
            units.append(row)
    order = np.argsort(samples)
    found = FoundSpikes(np.array(samples)[order], np.array(units)[order], 0)
    return tracker.add(VoltageBlock(start, start + BLOCK, traces), MARGIN, found)


def test_units_as_calibrated_are_not_lost():
    """Similarity and amplitude are 1 and the rate is what came; nothing is named."""
    templates = small_templates(rates_hz=np.full(3, 5.0))
    tracker = UnitTracker(templates)
    changes = [one for n in range(30) for one in add_block(tracker, n, templates.waveforms_uv)]
    assert changes == []
    for state in tracker.states():
        assert state.n_spikes == 30 * SPIKES_A_BLOCK
        assert state.rate_hz == pytest.approx(5.0)
        assert state.similarity == pytest.approx(1.0, abs=0.01)
        assert state.amplitude == pytest.approx(1.0, abs=0.02)
        assert state.lost == ""


def test_a_unit_that_halves_is_seen_and_kept():
    """A smaller waveform of the same shape is a smaller amplitude, not another unit."""
    templates = small_templates(rates_hz=np.full(3, 5.0))
    tracker = UnitTracker(templates)
    for number in range(30):
        assert add_block(tracker, number, templates.waveforms_uv * 0.5) == []
    assert tracker.states()[0].amplitude == pytest.approx(0.5, abs=0.02)


def test_a_changed_unit_is_lost_and_comes_back():
    """Another waveform under the same id is named once, and once more when it is as before."""
    templates = small_templates(rates_hz=np.full(3, 5.0))
    tracker = UnitTracker(templates)
    other = templates.waveforms_uv.copy()
    other[1] = np.roll(other[1], 15, axis=0)
    changes = [one for n in range(60) for one in add_block(tracker, n, other)]
    assert [(one.row, "waveform" in one.lost) for one in changes] == [(1, True)]
    assert tracker.n_lost == 1
    assert [bool(state.lost) for state in tracker.states()] == [False, True, False]
    back = [one for n in range(60, 200) for one in add_block(tracker, n, templates.waveforms_uv)]
    assert [(one.row, one.lost) for one in back] == [(1, "")]
    assert tracker.n_lost == 0


def test_a_silent_unit_is_lost_and_comes_back():
    """A unit of 5 spikes a second that no longer fires is named; slow units are not judged."""
    templates = small_templates(rates_hz=np.array([5.0, 0.2, 5.0]))
    tracker = UnitTracker(templates)
    for number in range(10):
        add_block(tracker, number, templates.waveforms_uv)
    changes = [
        (number, one)
        for number in range(10, 600)
        for one in add_block(tracker, number, templates.waveforms_uv, silent=(0, 1))
    ]
    ((when, change),) = changes
    assert (change.row, change.lost) == (0, "it hardly fires")
    assert 60 < when < 500
    back = [one for n in range(600, 700) for one in add_block(tracker, n, templates.waveforms_uv)]
    assert [(one.row, one.lost) for one in back] == [(0, "")]


def test_few_waveforms_are_not_judged():
    """Before enough spikes nothing is said of the shape."""
    templates = small_templates()
    tracker = UnitTracker(templates)
    n_blocks = (MIN_WAVEFORMS - 1) // 4
    changes = [c for n in range(n_blocks) for c in add_block(tracker, n, -templates.waveforms_uv)]
    assert changes == []
    assert [state.similarity for state in tracker.states()] == [None, None, None]
    assert np.isnan(tracker.similarity).all()
