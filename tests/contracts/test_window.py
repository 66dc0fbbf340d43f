"""Windows: their grid, their times, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.binning import BinRate
from contracts.errors import MisuseError
from contracts.window import MAX_WINDOW_BINS, Window, WindowSpec

SPEC = WindowSpec(BinRate(120), n_bins=20, stride_bins=10, lag_ns=50_000_000)


def _window(first_bin: int) -> Window:
    return Window(SPEC, first_bin, np.zeros((20, 3), dtype=np.uint16))


@pytest.mark.parametrize(
    ("n_bins", "stride_bins", "says"),
    [
        (0, 1, "n_bins must be 1 to 100,000, got 0"),
        (MAX_WINDOW_BINS + 1, 1, "n_bins must be 1 to 100,000, got 100001"),
        (1, 0, "stride_bins must be 1 to 100,000, got 0"),
        (1, MAX_WINDOW_BINS + 1, "stride_bins must be 1 to 100,000, got 100001"),
    ],
)
def test_illegal_spec_does_not_exist(n_bins, stride_bins, says):
    """Windows without bins, without a stride, or of absurd length are refused."""
    with pytest.raises(MisuseError, match=says):
        WindowSpec(BinRate(120), n_bins, stride_bins)


def test_durations():
    """The paper's window is a sixth of a second."""
    assert pytest.approx(1 / 6) == SPEC.duration_s
    assert pytest.approx(1 / 12) == SPEC.stride_s


@given(st.integers(1, 1000), st.integers(-(10**12), 10**12))
def test_windows_start_at_multiples_of_the_stride(stride_bins, bin_index):
    """The first start from a bin on is the smallest multiple of the stride that is not before."""
    spec = WindowSpec(BinRate(120), n_bins=5, stride_bins=stride_bins)
    start = spec.first_start_at_or_after(bin_index)
    assert start % stride_bins == 0
    assert bin_index <= start < bin_index + stride_bins


def test_times_of_a_window():
    """Start, stop and frame follow from the grid and the lag, in session nanoseconds."""
    window = _window(120)
    assert window.seq == 12
    assert window.start_ns == 1_000_000_000
    assert window.stop_ns == 1_166_666_667
    assert window.frame_ns == 1_116_666_667
    assert _window(-10).seq == -1


def test_detached_counts_are_its_own():
    """A detached window does not change when the ring moves on."""
    window = _window(0)
    kept = window.detached()
    window.counts[:] = 7
    assert not kept.counts.any()
    assert kept.spec is window.spec
