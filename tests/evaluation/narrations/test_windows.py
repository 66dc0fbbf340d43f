"""Which window describes which scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.binning import BinRate
from contracts.errors import MisuseError
from contracts.window import WindowSpec
from evaluation.narrations.windows import MAX_LATENCY_NS, frame_ns, scene_windows, with_stride

SPEC = WindowSpec(rate=BinRate(120), n_bins=20, stride_bins=8, lag_ns=100_000_000)


@given(
    first=st.integers(0, 10**11),
    lengths=st.lists(st.integers(10**9, 1_100_000_000), min_size=1, max_size=20),
    stride=st.integers(1, 40),
)
def test_window_hears_its_scene_alone(first, lengths, stride):
    """No chosen window holds a spike that answers another scene, wherever scenes lie."""
    spec = WindowSpec(rate=BinRate(120), n_bins=20, stride_bins=stride, lag_ns=100_000_000)
    edges = first + np.concatenate([[0], np.cumsum(lengths)])
    for seq, start, stop in zip(
        scene_windows(spec, edges[:-1], edges[1:]), edges[:-1], edges[1:], strict=True
    ):
        begins = spec.rate.start_ns(int(seq) * stride)
        ends = spec.rate.start_ns(int(seq) * stride + 20)
        assert begins - MAX_LATENCY_NS >= start
        assert ends <= stop
        assert start <= frame_ns(spec, int(seq)) < stop


@given(first=st.integers(0, 10**10), n=st.integers(1, 30))
def test_longest_stride_misses_no_scene(first, n):
    """With the stride made for the shortest scene each scene has its window."""
    scene_ns = 1_000_835_790
    spec = with_stride(SPEC, scene_ns)
    start = first + scene_ns * np.arange(n)
    assert len(scene_windows(spec, start, start + scene_ns)) == n
    assert spec.stride_bins > 70


def test_window_nearest_to_the_middle_is_chosen():
    """Of the clean windows of a scene, the one that describes its middle frame."""
    start, stop = 5_000_000_000, 7_000_000_000
    (seq,) = scene_windows(SPEC, np.array([start]), np.array([stop]))
    stride_ns = SPEC.rate.start_ns(SPEC.stride_bins)
    assert abs(frame_ns(SPEC, int(seq)) - 6_000_000_000) <= stride_ns / 2 + 1


def test_scene_that_is_too_short_is_refused():
    """A scene shorter than latency and window cannot be scored, and is not passed over."""
    with pytest.raises(MisuseError, match="too short"):
        with_stride(SPEC, 300_000_000)
    with pytest.raises(MisuseError, match="holds no window"):
        scene_windows(SPEC, np.array([0]), np.array([300_000_000]))
