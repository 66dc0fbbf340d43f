"""The compiled loops give the bits of SciPy and NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, sosfilt

from stream_sources.online_sorter.filter_kernels import filter_sections, subtract_median


@pytest.mark.parametrize("n_channels", [1, 2, 7, 64])
def test_sections_are_those_of_scipy(n_channels):
    """Samples and state are equal to the last bit, whatever the state was before."""
    rng = np.random.default_rng(n_channels)
    samples = (rng.normal(size=(500, n_channels)) * 100).astype(np.float32)
    sections = butter(3, (300, 6000), btype="bandpass", output="sos", fs=30_000).astype(np.float32)
    state = rng.normal(size=(3, 2, n_channels)).astype(np.float32)
    expected, expected_state = sosfilt(sections, samples, axis=0, zi=state)
    filter_sections(samples, sections, state)
    np.testing.assert_array_equal(samples, expected)
    np.testing.assert_array_equal(state, expected_state)


@settings(deadline=None, max_examples=150)
@given(
    n_channels=st.integers(1, 60),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]),
    offset=st.sampled_from([0.0, -5.0, 3e3, -1e6]),
    n_values=st.sampled_from([1, 2, 5, 0]),
    seed=st.integers(0, 1000),
)
def test_the_median_is_that_of_numpy(n_channels, scale, offset, n_values, seed):
    """Odd and even counts, equal and few values, tiny and large ones, jumps between rows."""
    rng = np.random.default_rng(seed)
    shape = (12, n_channels)
    drawn = rng.integers(0, n_values, size=shape) if n_values else rng.normal(size=shape)
    rows = (drawn * scale + rng.permutation(12)[:, None] * offset).astype(np.float32)
    expected = rows - np.median(rows, axis=1, keepdims=True)
    subtract_median(rows)
    np.testing.assert_array_equal(rows, expected)
