"""Pulses of a bit, however the samples are cut into blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sources.rigs.spikeglx.sync_pulses import PulseReader


def pulses_of(is_high: list[bool]) -> list[tuple[int, int]]:
    """Return them by looking at each sample."""
    pulses, since = [], None
    for sample, (before, now) in enumerate(itertools.pairwise(is_high), start=1):
        if now and not before:
            since = sample
        if before and not now and since is not None:
            pulses.append((since, sample))
    return pulses


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_any_cut_gives_the_same_pulses(is_high: list[bool], cuts: list[int]):
    """The pulses of the whole; one that was high at first, or is high at the end, is none."""
    words = np.where(is_high, 64 - 32768, 0b1011_1111).astype(np.int16)  # other bits too
    edges = [0, *sorted(min(cut, len(words)) for cut in cuts), len(words)]
    reader = PulseReader(6)
    found = [
        pulse
        for start, stop in itertools.pairwise(edges)
        for pulse in reader.take(start, words[start:stop])
    ]
    assert found == pulses_of(is_high)


@pytest.mark.parametrize("bit", [0, 15])
def test_the_outer_bits_are_read(bit: int):
    """Numbers are signed, and bit 15 is the sign."""
    words = np.array([0, 1 << bit, 0], dtype=np.uint16).view(np.int16)
    assert PulseReader(bit).take(10, words) == [(11, 12)]
