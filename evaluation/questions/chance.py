"""What chance gives when neighbours depend on each other: circular shifts, and drawn blocks.

Every test here is of one form. A *table* holds, for each position of the movies and each other one,
how well what was decoded at the first fits what was shown at the second; the statistic is the sum
of its diagonal. A shift by k moves the decoded sequence against the shown one, which goes round
from the end of a movie to its beginning: both keep their autocorrelation, and only their relation
is lost. A correlation is the table of products, a slope over populations the weighted sum of their
tables.

Positions are frames, not windows: a frame that was shown twenty times is one position.

References
----------
Harris, Nonsense correlations in neuroscience, bioRxiv 2020.11.29.402719: why naive tests fail.
Politis and Romano, JASA 1994: the stationary bootstrap. Politis and White, Econometric Reviews
2004, corrected by Patton, Politis and White 2009: its block length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from encoder_training.evaluation.bootstrap import N_DRAWS, Draws

LEVEL = 0.05
"""Of p-values, and of the rate of false discoveries (Benjamini and Hochberg 1995)."""

MOST_SHIFTS = 2000
"""Combinations of shifts, one of each movie; more are drawn at random from all there are."""

FEWEST_SHIFTS = 20
"""With fewer no p-value can be 0.05 or less."""

UNLIKE = 0.1
"""Captions are unrelated where their mean similarity has fallen to this share of the way from that
of equal captions to that of captions far apart."""

SHIFTS_STREAM, BLOCKS_STREAM = 11, 12
"""Random streams of a seed."""


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The frames of some windows, in the order of each movie."""

    of_window: NDArray[np.int64]  # (n_windows,): the position of each window's frame
    movie: NDArray[np.int64]  # (n_positions,): never falling

    @classmethod
    def of(cls, movie: NDArray[np.int64], number: NDArray[np.int64]) -> Positions:
        """Order the frames of windows; `movie` and `number` are of shape (n_windows,)."""
        frames, of_window = np.unique(
            np.stack([movie, number], axis=1), axis=0, return_inverse=True
        )
        return cls(of_window.reshape(-1).astype(np.int64), frames[:, 0].astype(np.int64))

    def __len__(self) -> int:
        return len(self.movie)

    @property
    def n_windows(self) -> NDArray[np.int64]:
        """Windows of each position."""
        return np.bincount(self.of_window, minlength=len(self))

    @property
    def first_window(self) -> NDArray[np.int64]:
        """One window of each position."""
        return np.unique(self.of_window, return_index=True)[1].astype(np.int64)

    @property
    def movies(self) -> list[NDArray[np.int64]]:
        """The positions of each movie."""
        return [np.flatnonzero(self.movie == movie) for movie in np.unique(self.movie)]

    def table(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum scores, of shape (n_windows, n_positions), over the windows of each position."""
        table = np.zeros((len(self), scores.shape[1]))
        np.add.at(table, self.of_window, scores)
        return table

    def mean(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Average values of windows over those of each position."""
        return np.bincount(self.of_window, weights=values, minlength=len(self)) / self.n_windows


@dataclass(frozen=True, slots=True, eq=False)
class ShiftTest:
    """A statistic, and what it is in other alignments; p is NaN if there are too few of these."""

    value: float
    null: NDArray[np.float64]  # (n_shifts,): at shifts of the minimal lag or more, of each movie
    p: float  # One-sided: the share of all shifts, zero among them, that give as much or more
    n_shifts: int  # That p is of

    @property
    def chance(self) -> float:
        """The mean over the far shifts."""
        return float(self.null.mean()) if self.null.size else math.nan

    @property
    def band(self) -> tuple[float, float]:
        """Where 95 % of the far shifts lie."""
        if not self.null.size:
            return (math.nan, math.nan)
        low, high = np.quantile(self.null, (0.025, 0.975))
        return float(low), float(high)


def shift_test(
    table: NDArray[np.float64],
    positions: Positions,
    *,
    minimal_lags: Sequence[int] = (),
    seed: int = 0,
) -> ShiftTest:
    """Compare the alignment of a table, shape (n_positions, n_positions), with its shifts.

    Each movie is shifted by itself: narrations that merely tell one movie from another are no
    evidence for frames. p is of every shift, near ones too: leaving these out would reject true
    nulls two or three times too often (docs/decisions/0042-statistics-of-evaluate.md). Only the
    level and the band of chance leave out those nearer than the minimal lag of each movie, in
    positions: all but 0 if omitted.
    """
    sums = [_sums_by_shift(table[np.ix_(rows, rows)]) for rows in positions.movies]
    value = float(sum(of_movie[0] for of_movie in sums))
    every = _combined(sums, [np.arange(len(of_movie)) for of_movie in sums], seed=seed)
    far = [
        np.arange(lag, len(of_movie) - lag + 1)
        if len(of_movie) >= 2 * lag
        else np.zeros(1, np.int64)  # too short to be moved
        for of_movie, lag in zip(sums, minimal_lags or [1] * len(sums), strict=True)
    ]
    is_moved = any(len(shifts) > 1 for shifts in far)
    null = _combined(sums, far, seed=seed) if is_moved else np.empty(0)
    p = p_value(value, every) if len(every) >= FEWEST_SHIFTS else math.nan
    return ShiftTest(value, null, p, len(every))


def alignments(positions: Positions, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the position that each one is compared with, under every shift, the true one first.

    Shape (n_shifts, n_positions): the shifts of `shift_test`, for a statistic that is no sum of a
    diagonal. Shifts near the true one are among them.
    """
    sizes = [len(rows) for rows in positions.movies]
    if math.prod(sizes) <= MOST_SHIFTS:
        shifts = np.array(list(itertools.product(*map(range, sizes))))
    else:
        rng = np.random.default_rng([seed, SHIFTS_STREAM])
        drawn = np.stack([rng.integers(size, size=MOST_SHIFTS) for size in sizes], axis=1)
        shifts = np.concatenate([np.zeros((1, len(sizes)), np.int64), drawn])
    orders = np.empty((len(shifts), len(positions)), np.int64)
    for at, rows in enumerate(positions.movies):
        moved = (np.arange(len(rows)) + shifts[:, at, np.newaxis]) % len(rows)
        orders[:, rows] = rows[moved]
    return orders


def out_of_place(
    positions: Positions, minimal_lags: Sequence[int], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the positions after each movie is shifted by a random lag, shape (n_positions,).

    By its minimal lag or more in either direction; a movie too short for that stays as it is.
    """
    order = np.arange(len(positions))
    for rows, lag in zip(positions.movies, minimal_lags, strict=True):
        if len(rows) >= 2 * lag:
            order[rows] = np.roll(rows, int(rng.integers(lag, len(rows) - lag + 1)))
    return order


def p_value(value: float, every: NDArray[np.float64]) -> float:
    """Return the share of alignments that give as much as the true one, which counts itself.

    `every` holds all alignments, the true one among them, or a draw of them.
    """
    # Equal sentences give equal sums but for rounding, and these must not count as less.
    scale = max(1.0, float(np.abs(every).max()))
    others = np.count_nonzero(every >= value - 1e-9 * scale)
    return min(1.0, max(1, int(others)) / len(every))


def is_rejected(p: ArrayLike) -> NDArray[np.bool_]:
    """Say which hypotheses are rejected by themselves: p is `LEVEL` or less; none without p.

    So 20 alignments can reject, of which the true one is the best.
    """
    rejected: NDArray[np.bool_] = np.asarray(p, np.float64) <= LEVEL
    return rejected


def is_discovered(p: ArrayLike) -> NDArray[np.bool_]:
    """Say which hypotheses are rejected at `LEVEL` false discoveries; none without p."""
    from scipy.stats import false_discovery_control

    values = np.array(p, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    found: NDArray[np.bool_] = np.zeros(len(values), np.bool_)
    if known.size:
        found[known] = is_rejected(false_discovery_control(values[known]))
    return found


def naive_p(table: NDArray[np.float64], *, seed: int = 0, n_draws: int = 999) -> float:
    """Return p as if positions were independent: over random orders. For comparison alone."""
    n = len(table)
    rng = np.random.default_rng([seed, SHIFTS_STREAM])
    value = float(np.trace(table))
    rows = np.arange(n)
    drawn = [float(table[rows, rng.permutation(n)].sum()) for _ in range(n_draws)]
    return p_value(value, np.array([value, *drawn]))


def minimal_lags(likeness: NDArray[np.floating], positions: Positions) -> tuple[int, ...]:
    """Return from which distance on captions are unrelated, in positions, for each movie.

    `likeness`, shape (n_positions, n_positions), is the similarity of the captions. The first
    distance at which its mean lies less than `UNLIKE` of the way from far to equal; half of the
    movie if there is none.
    """
    lags = []
    for rows in positions.movies:
        sums = _sums_by_shift(likeness[np.ix_(rows, rows)].astype(np.float64)) / len(rows)
        half = max(1, len(sums) // 2)
        far = float(np.median(sums))
        share = (sums[: half + 1] - far) / max(sums[0] - far, 1e-12)
        below = np.flatnonzero(share < UNLIKE)
        lags.append(int(below[0]) if below.size else half)
    return tuple(lags)


def block_draws(
    positions: Positions, length: float, *, seed: int = 0, n_draws: int = N_DRAWS
) -> Draws:
    """Draw blocks of neighbouring positions, of lengths that are geometric with a mean `length`.

    Each movie by itself, as long as it is; its end is followed by its beginning. A position is
    drawn with all its windows.
    """
    rng = np.random.default_rng([seed, BLOCKS_STREAM])
    times = np.zeros((n_draws, len(positions)), np.float32)
    for rows in positions.movies:
        n = len(rows)
        step = np.arange(n)
        is_new = rng.random((n_draws, n)) < 1 / max(length, 1.0)
        is_new[:, 0] = True
        begun = np.maximum.accumulate(np.where(is_new, step, 0), axis=1)
        start = rng.integers(n, size=(n_draws, n))
        drawn = (np.take_along_axis(start, begun, axis=1) + step - begun) % n
        flat = (np.arange(n_draws)[:, np.newaxis] * n + drawn).reshape(-1)
        times[:, rows] = np.bincount(flat, minlength=n_draws * n).reshape(n_draws, n)
    return Draws(positions.of_window, times)


def block_length(values: NDArray[np.floating]) -> float:
    """Return the mean length of blocks that suits a series, after Politis and White.

    At least 1, at most three times the root of its length or a third of it. The numbers are those
    of the library arch.
    """
    n = len(values)
    x = np.asarray(values, np.float64) - np.mean(values)
    if n < 16 or not x.any():
        return 1.0
    n_close = max(5, int(math.log10(n)))
    most = min(n - 2, math.ceil(math.sqrt(n)) + n_close)
    products = np.array([x[lag:] @ x[: n - lag] for lag in range(most + 1)])
    norms = [(x[lag + 1 :] @ x[lag + 1 :]) * (x[: -lag - 1] @ x[: -lag - 1]) for lag in range(most)]
    is_small = np.abs(products[:most]) < 2 * math.sqrt(math.log10(n) / n) * np.sqrt(norms)
    small = [at for at in range(most - n_close + 1) if is_small[at : at + n_close].all()]
    last = min(2 * max(small[0], 1), most) if small else most
    lags, covariance = np.arange(1, last + 1), products / n
    weight = np.minimum(1, 2 * (1 - lags / last))
    slope = 2 * float((weight * lags * covariance[lags]).sum())
    level = covariance[0] + 2 * float((weight * covariance[lags]).sum())
    if level <= 0:
        return 1.0
    length = (slope**2 / level**2) ** (1 / 3) * n ** (1 / 3)
    return float(min(max(1.0, length), math.ceil(min(3 * math.sqrt(n), n / 3))))


def correlation_table(
    one: NDArray[np.floating], other: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the table of a correlation: its diagonal sums to Pearson's r. Zeros for a constant."""
    scaled = []
    for values in (one, other):
        centred = np.asarray(values, np.float64) - np.mean(values)
        norm = float(np.linalg.norm(centred))
        scaled.append(centred / norm if norm > 1e-12 else 0 * centred)
    return np.outer(scaled[0], scaled[1])


def correlation_tests(
    one: NDArray[np.floating], other: NDArray[np.floating], positions: Positions, *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate columns, shape (n_positions, n), with those of the same place.

    Returns r and p of each, as `shift_test` of their `correlation_table` gives them, but at once.
    """
    scaled = []
    for values in (one, other):
        centred = np.asarray(values, np.float64) - values.mean(axis=0)
        norm = np.linalg.norm(centred, axis=0)
        scaled.append(np.where(norm > 1e-12, centred / np.maximum(norm, 1e-12), 0))
    sums = [
        np.fft.irfft(
            np.conj(np.fft.rfft(scaled[0][rows], axis=0)) * np.fft.rfft(scaled[1][rows], axis=0),
            n=len(rows),
            axis=0,
        )
        for rows in positions.movies
    ]
    shifts = [np.arange(len(of_movie)) for of_movie in sums]
    p = np.full(one.shape[1], math.nan)
    for at in range(len(p)):
        every = _combined([of_movie[:, at] for of_movie in sums], shifts, seed=seed)
        if len(every) >= FEWEST_SHIFTS:
            p[at] = p_value(float(sum(of_movie[0, at] for of_movie in sums)), every)
    r: NDArray[np.float64] = np.einsum("nf,nf->f", *scaled)
    return r, p


def _sums_by_shift(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the k-th circular diagonal of a square table, for each k from 0."""
    n = len(table)
    rows = np.arange(n)
    return np.array([table[rows, (rows + k) % n].sum() for k in range(n)])


def _combined(
    sums: Sequence[NDArray[np.float64]], shifts: Sequence[NDArray[np.int64]], *, seed: int
) -> NDArray[np.float64]:
    """Add one shift of each movie, in all combinations or `MOST_SHIFTS` drawn ones."""
    allowed = [of_movie[chosen] for of_movie, chosen in zip(sums, shifts, strict=True)]
    if math.prod(len(values) for values in allowed) <= MOST_SHIFTS:
        return np.array([sum(values) for values in itertools.product(*allowed)], np.float64)
    rng = np.random.default_rng([seed, SHIFTS_STREAM])
    drawn = np.sum([rng.choice(values, MOST_SHIFTS) for values in allowed], axis=0)
    true = sum(float(of_movie[0]) for of_movie in sums)
    return np.append(drawn, true) if all(0 in chosen for chosen in shifts) else drawn
