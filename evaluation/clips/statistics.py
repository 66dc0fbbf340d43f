"""Tests and intervals over pairs of clips. The pair is the unit: windows are averaged before.

Under the null a narration does not depend on which clip of its pair was shown, so that the
difference of a pair is as likely with the other sign. `sign_flip_p` counts all 2^n signs, which for
differences of -1, 0 and 1 is McNemar's exact test, one-sided.

References
----------
Fisher, The Design of Experiments, 1935, section 21: the test.
Pagano and Tritchler, Journal of the American Statistical Association 78, 1983: all signs at once,
by the characteristic function.
Agresti and Min, Statistics in Medicine 24, 2005: interval of a difference of matched rates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from encoder_training.evaluation.bootstrap import Interval
from evaluation.scores import Z

GRID = 60
"""Differences are rounded to its inverse. Means of up to six windows are exact, and the test is
exact in any case: the rounded differences are as symmetric under the null."""

MOST_VALUES = 1 << 22
"""Of a table of probabilities; more sets of pairs are tested in parts."""


def sign_flip_p(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p of sets of pairs: the share of signs whose sum is as large as that which was found.

    Parameters
    ----------
    differences : array, shape (n_sets, n_pairs), float64, -1 to 1

    Returns
    -------
    p : array, shape (n_sets,), float64
    """
    steps = np.rint(differences * GRID).astype(np.int64)
    magnitude = np.abs(steps)
    divisor = int(np.gcd.reduce(magnitude, axis=None)) if steps.size else 0
    if divisor == 0:
        return np.ones(len(steps))
    steps, magnitude = steps // divisor, magnitude // divisor
    # Twice the largest sum must fit, and sums are taken modulo the size.
    size = 1 << math.ceil(math.log2(2 * int(magnitude.sum(axis=1).max()) + 2))
    values = np.unique(magnitude[magnitude > 0])
    angle = 2 * np.pi * np.arange(size // 2 + 1) / size
    cosines = np.cos(np.outer(values, angle))
    at_once = max(1, MOST_VALUES // size)
    parts = [
        _tail(steps[first : first + at_once], values, cosines, size)
        for first in range(0, len(steps), at_once)
    ]
    least = 0.5 ** np.count_nonzero(steps, axis=1)
    return np.clip(np.concatenate(parts), least, 1.0)


def _tail(
    steps: NDArray[np.int64], values: NDArray[np.int64], cosines: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    magnitude = np.abs(steps)
    counts = np.stack([(magnitude == value).sum(axis=1) for value in values], axis=1).astype(float)
    # The characteristic function of a sum of independent signs is the product of their cosines.
    product = np.exp(counts @ np.log(np.abs(cosines)))  # no angle has a cosine of exactly 0
    is_negative = (counts @ (cosines < 0)) % 2 == 1
    null = np.fft.irfft(np.where(is_negative, -product, product), n=size, axis=1)
    from_zero = np.roll(null, size // 2, axis=1)
    tails = np.cumsum(from_zero[:, ::-1], axis=1)[:, ::-1]
    p: NDArray[np.float64] = tails[np.arange(len(steps)), size // 2 + steps.sum(axis=1)]
    return p


def difference_interval(differences: NDArray[np.float64]) -> Interval:
    """Return the mean difference with its 95 % interval.

    That of Agresti and Min adds half a pair to each of the four outcomes, so that twenty equal
    pairs have an interval as well, where a bootstrap has none.
    """
    n = len(differences) + 2
    mean = float(differences.sum()) / n
    variance = (float((differences**2).sum()) + 1) / n - mean**2
    half = Z * math.sqrt(variance / n)
    return Interval(float(differences.mean()), max(-1.0, mean - half), min(1.0, mean + half))
