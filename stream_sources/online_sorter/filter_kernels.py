"""The two loops over all samples, compiled: a third of the time of SciPy's and NumPy's.

Both give the same bits as ``scipy.signal.sosfilt`` and ``numpy.median``
(``tests/stream_sources/online_sorter/test_filter_kernels.py``), and leave the lock of the
interpreter while they run. Imported where they are used: numba takes half a second.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from stream_sources.online_sorter.compiled_cache import cached

FEW = 8
"""Values around the median that are sorted, once all others are known to be beyond them."""


# Counting in any order gives the same whole number, and lets the processor count in parallel.
@cached(numba.njit(nogil=True, fastmath={"reassoc"}))
def _count_below(row: Any, value: Any) -> int:
    n = np.float32(0)
    for i in range(row.shape[0]):
        n += np.float32(1) if row[i] < value else np.float32(0)
    return int(n)


@cached(numba.njit(nogil=True))
def _median_of(row: Any, guess: Any, near: Any) -> Any:
    n = row.shape[0]
    first, second = (n - 1) // 2, n // 2
    # Wide enough to differ from the guess, however large that is.
    width = max(np.float32(1), np.float32(1e-3) * abs(guess))
    low, high = guess - width, guess + width
    below, under = _count_below(row, low), _count_below(row, high)
    while below > first:
        width *= np.float32(4)
        low -= width
        below = _count_below(row, low)
    while under <= second and high < np.inf:  # NaN must not hold up everything
        width *= np.float32(4)
        high += width
        under = _count_below(row, high)
    while under - below > FEW:
        middle = np.float32(0.5) * (low + high)
        n_below = _count_below(row, middle)
        if not low < middle < high or first < n_below <= second:
            break
        if n_below <= first:
            low, below = middle, n_below
        else:
            high, under = middle, n_below
    n_near = 0
    for i in range(n):
        near[n_near] = row[i]  # without a branch: it is written over if it is not near
        n_near += int((row[i] >= low) & (row[i] < high))
    for i in range(1, n_near):
        value, j = near[i], i - 1
        while j >= 0 and near[j] > value:
            near[j + 1] = near[j]
            j -= 1
        near[j + 1] = value
    return np.float32(0.5) * (near[first - below] + near[second - below])


@cached(numba.njit(nogil=True))
def subtract_median(samples: Any) -> None:
    """Take the median of all channels from each sample, in place.

    Parameters
    ----------
    samples : array, shape (n_samples, n_channels), float32
        Finite.
    """
    near = np.empty(samples.shape[1] + 1, dtype=np.float32)
    median = np.float32(0)
    for i in range(samples.shape[0]):
        median = _median_of(samples[i], median, near)  # the one before is a good guess
        samples[i] -= median


@cached(numba.njit(nogil=True))
def filter_sections(samples: Any, sections: Any, state: Any) -> None:
    """Filter samples in place by second-order sections.

    Parameters
    ----------
    samples : array, shape (n_samples, n_channels), float32
    sections : array, shape (n_sections, 6), float32
    state : array, shape (n_sections, 2, n_channels), float32
        That of ``sosfilt``; carried on.
    """
    for i in range(samples.shape[0]):
        row = samples[i]
        for k in range(sections.shape[0]):
            b0, b1, b2, _, a1, a2 = sections[k]
            z0, z1 = state[k, 0], state[k, 1]
            for channel in range(row.shape[0]):
                value = row[channel]
                result = b0 * value + z0[channel]
                z0[channel] = b1 * value - a1 * result + z1[channel]
                z1[channel] = b2 * value - a2 * result
                row[channel] = result
