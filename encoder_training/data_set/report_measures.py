"""The measures of a data set's report: lengths of presentations, rates, responses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from encoder_training.data_set.alignment import MAX_GAP_NS
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.stimulus import StimulusTable

LONG = 1.25
"""Times the usual length of a presentation, from which on the display dropped something: half a
frame, one refresh of a screen at twice the movie's rate, is 1.5."""

MAX_ONSETS = 2_000
"""Changes of the picture that are averaged: enough for a smooth curve."""

CUT = 5.0
"""Times the usual change from frame to frame, from which on it is a cut to another scene."""

FEW_CUTS = 30
CHANGE_SHARE = 0.02
"""Of the frames of a movie without that many cuts, those that differ most from the one before: this
share, and as many as `FEW_CUTS` where there are."""

BEFORE_S, AFTER_S = 0.1, 0.4
"""Around a change: some tens of milliseconds to V1, and a window's length after that."""

SMOOTH_S = 1 / 30
"""Spikes are counted over a frame of a movie at a time, or they are too few."""

N_DIRECTIONS = 10
"""Principal directions of the pictures that rates are regressed on."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """How the presentations of one movie lie in time."""

    at_s: NDArray[np.float64]  # (n,), seconds: starts, session time
    lasts_s: NDArray[np.float64]  # (n,), seconds: lengths
    usual_s: float
    # Presentations a quarter longer than usual, holes before the next one of a quarter of a frame
    # or more, and frame numbers that have no row
    n_long: int
    n_holes: int
    n_skipped: int
    # (n,), frames: how far labels laid out from the start of each run at a whole number of frames a
    # second would be ahead
    tiled_off: NDArray[np.int64]
    nominal_hz: int


def measure_alignment(presented: StimulusTable, movie: int) -> Alignment:
    """Compare the presentations of a movie with an ideal grid."""
    rows = np.flatnonzero(presented.movie == movie)
    start_ns, stop_ns = presented.start_ns[rows], presented.stop_ns[rows]
    lasts_s = (stop_ns - start_ns) / NS_PER_S
    usual_s = float(np.median(lasts_s))
    between_ns = start_ns[1:] - stop_ns[:-1]
    is_pause = (between_ns > MAX_GAP_NS) | (np.diff(rows) > 1)
    number, n_frames = presented.number[rows], presented.n_frames[movie]
    position = presented.repeat[rows] * n_frames + number
    steps = np.diff(position)
    if presented.is_shuffled[movie]:
        position, steps = np.arange(len(rows)), np.ones(len(rows) - 1, dtype=np.int64)
    run = np.concatenate(([0], np.cumsum(is_pause)))
    firsts = np.concatenate(([0], np.flatnonzero(is_pause) + 1))
    nominal_hz = max(1, round(1 / usual_s))
    tiled = (start_ns - start_ns[firsts][run]) * nominal_hz // NS_PER_S
    return Alignment(
        at_s=start_ns / NS_PER_S,
        lasts_s=lasts_s,
        usual_s=usual_s,
        n_long=int((lasts_s > LONG * usual_s).sum()),
        n_holes=int(((between_ns > (LONG - 1) * usual_s * NS_PER_S) & ~is_pause).sum()),
        n_skipped=int(np.maximum(steps[~is_pause] - 1, 0).sum()),
        tiled_off=tiled - (position - position[firsts][run]),
        nominal_hz=nominal_hz,
    )


def unit_rates(prepared: PreparedSet) -> NDArray[np.float64]:
    """Return each unit's spikes per second in the counted bins, shape (n_units,)."""
    total = np.zeros(prepared.counts.shape[1], dtype=np.int64)
    for first in range(0, prepared.spans.n_rows, 1 << 14):
        total += prepared.counts[first : first + (1 << 14)].sum(axis=0, dtype=np.int64)
    rates: NDArray[np.float64] = total / prepared.spans.n_rows * prepared.window.rate.bins_per_s
    return rates


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """The responses of units to changes of the picture."""

    n_changes: int
    # (n_steps,), milliseconds: middle of the interval that is counted, from the change on
    after_ms: NDArray[np.float64]
    # (n_steps, n_units): share of a unit's variance over the changes that the new picture explains,
    # less what chance explains (adjusted R squared)
    explained: NDArray[np.float32]


def measure_response(prepared: PreparedSet, presented: StimulusTable) -> Response | None:
    """Measure how well the new picture explains the spikes around a change of the picture.

    Before the response begins, a unit still responds to the scene before, and the new picture
    explains nothing. Where nothing rises some tens of milliseconds after the change, frames and
    spikes do not share their clock, or the area does not see the movie.
    """
    picture = np.stack(
        [patches.astype(np.float32).mean(axis=0) for patches in prepared.targets]
    )  # (n_frames, dim)
    rate, shown = prepared.window.rate, prepared.shown
    changes = _changes(prepared, presented, picture)
    n_together = max(1, round(SMOOTH_S * rate.bins_per_s))
    first = -round(BEFORE_S * rate.bins_per_s)
    offsets = np.arange(first, round(AFTER_S * rate.bins_per_s) + n_together)
    bins = rate.bin_of(shown.start_ns[changes])
    rows = np.stack([prepared.spans.rows_of(bins + offset) for offset in offsets], axis=1)
    is_whole = (rows >= 0).all(axis=1)
    rows, frame = rows[is_whole], shown.frame[changes[is_whole]]
    if len(rows) < 2 * N_DIRECTIONS:
        return None
    directions = _directions(picture[frame])
    explained = []
    for step in range(len(offsets) - n_together + 1):
        counted = np.zeros((len(rows), prepared.counts.shape[1]), dtype=np.float32)
        for k in range(n_together):
            counted += prepared.counts[rows[:, step + k]]
        explained.append(_explained(directions, counted))
    # The bin of a change begins up to a bin before it, half a bin in the mean.
    middle = offsets[: len(explained)].astype(np.float64) + (n_together - 1) / 2
    after_ms: NDArray[np.float64] = middle * (1e3 / rate.bins_per_s)
    return Response(len(rows), after_ms, np.stack(explained))


def _changes(
    prepared: PreparedSet, presented: StimulusTable, picture: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the presentations whose picture differs most from the one before."""
    shown = prepared.shown
    target = np.flatnonzero(shown.frame >= 0)
    before, after = target[:-1], target[1:]
    same = shown.block[before] == shown.block[after]
    before, after = before[same], after[same]
    change = np.linalg.norm(picture[shown.frame[after]] - picture[shown.frame[before]], axis=1)
    rows = []
    for movie in range(len(presented.movies)):
        of_movie = presented.movie[after] == movie
        if of_movie.any():
            least = CUT * float(np.median(change[of_movie]))
            if (change[of_movie] > least).sum() < FEW_CUTS:
                share = max(CHANGE_SHARE, min(1.0, FEW_CUTS / int(of_movie.sum())))
                least = float(np.quantile(change[of_movie], 1 - share))
            rows.append(after[of_movie & (change >= least) & (change > 0)])
    onsets = np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)
    return onsets[:: max(1, -(-len(onsets) // MAX_ONSETS))]


def _directions(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an orthonormal basis of the pictures' first principal directions, over changes."""
    centred = picture - picture.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    n = min(N_DIRECTIONS, int((size > 1e-6 * size[0]).sum()))
    basis: NDArray[np.float32] = left[:, :n]
    return basis


def _explained(basis: NDArray[np.float32], counted: NDArray[np.float32]) -> NDArray[np.float32]:
    n, k = basis.shape
    centred = counted - counted.mean(axis=0)
    total = np.maximum((centred**2).sum(axis=0), 1e-9)
    share = ((basis.T @ centred) ** 2).sum(axis=0) / total
    adjusted: NDArray[np.float32] = 1 - (1 - share) * (n - 1) / (n - k - 1)
    return np.where((centred**2).sum(axis=0) > 0, adjusted, 0).astype(np.float32)
