"""The causal filter: the same samples by chunks, and the band that it should have."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sources.online_sorter.causal_filter import CausalFilter, causal_recording
from stream_sources.online_sorter.templates import Preprocessing
from tests.support.ground_truth import ground_truth

RATE_HZ = 30_000.0


def noise(n_samples=900, n_channels=5):
    """Return noise with a large offset on each channel."""
    rng = np.random.default_rng(1)
    offsets = np.linspace(-3000, 3000, n_channels)
    return (rng.normal(size=(n_samples, n_channels)) * 20 + offsets).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=20),
    reference=st.sampled_from(["median", "none"]),
)
def test_chunks_are_filtered_as_the_whole(lengths, reference):
    """Any cutting gives the same samples, to the last bit."""
    preprocessing = Preprocessing(reference=reference)
    voltages = noise(sum(lengths))
    by_chunks, whole = (CausalFilter(preprocessing, RATE_HZ) for _ in range(2))
    edges = np.cumsum([0, *lengths])
    pieces = [by_chunks.apply(voltages[a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole.apply(voltages))


def test_after_a_reset_nothing_is_left_of_before():
    """A filter that begins anew gives what a new one gives."""
    used = CausalFilter(Preprocessing(), RATE_HZ)
    used.apply(noise() * 50)
    used.reset()
    np.testing.assert_array_equal(
        used.apply(noise()), CausalFilter(Preprocessing(), RATE_HZ).apply(noise())
    )


def test_an_offset_is_no_spike():
    """Constant voltages of thousands of microvolts are 0 from the first sample on."""
    constant = np.broadcast_to(np.array([-4000, 0, 5000], dtype=np.float32), (300, 3))
    filtered = CausalFilter(Preprocessing(reference="none"), RATE_HZ).apply(constant.copy())
    assert np.abs(filtered).max() < 0.5


@pytest.mark.parametrize(("hz", "low", "high"), [(30, 0, 0.05), (1500, 0.9, 1.1), (12_000, 0, 0.1)])
def test_the_band_passes(hz, low, high):
    """A tone within the band keeps its size, and others are taken away."""
    t = np.arange(6000) / RATE_HZ
    tone = np.sin(2 * np.pi * hz * t).astype(np.float32)[:, None]
    filtered = CausalFilter(Preprocessing(reference="none"), RATE_HZ).apply(tone)
    assert low <= np.abs(filtered[3000:]).max() <= high


def test_the_median_of_all_channels_is_taken():
    """What all channels share is gone, and the median of each sample is 0."""
    shared = np.random.default_rng(2).normal(size=(900, 1)) * 300
    filtered = CausalFilter(Preprocessing(), RATE_HZ).apply((noise() + shared).astype(np.float32))
    alone = CausalFilter(Preprocessing(), RATE_HZ).apply(noise())
    np.testing.assert_allclose(np.median(filtered, axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(filtered, alone, atol=0.1)


def test_the_lazy_recording_has_the_same_samples():
    """Templates are estimated from what the online filter gives, but for rounding."""
    recording = ground_truth().recording
    online = CausalFilter(Preprocessing(), RATE_HZ).apply(
        recording.get_traces(start_frame=0, end_frame=20_000, return_in_uV=True)
    )
    lazy = causal_recording(recording, Preprocessing())
    np.testing.assert_allclose(
        lazy.get_traces(start_frame=9_000, end_frame=20_000), online[9_000:], atol=0.05
    )
