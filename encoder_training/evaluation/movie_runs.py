"""Which windows a bootstrap draws together, because they are not independent.

Neighbouring windows see almost the same frame through almost the same spikes, so single windows
must not be drawn. A draw takes what was held out as a whole or, where that is fewer than
`FEWEST_GROUPS` groups, runs of a second of the movie with the windows of all its repeats: twenty
showings of a hard second are still one hard second.

References
----------
Kuensch, Annals of Statistics 1989: blocks, where neighbours depend on each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.window import WindowSpec
from encoder_training.data_set.training_set import TrainingSet
from encoder_training.evaluation.movie_time import MovieTime

FEWEST_GROUPS = 10
"""With fewer, the draws of a bootstrap are too few and too alike."""

RUN_S = 1.0
"""Of movie time, or a window and its lag together where that is longer."""

TOLERANCE = 0.05
"""By which a run may be short: a chunk of thirty frames of 33.3 ms is a run of a second."""


def bootstrap_groups(
    data: TrainingSet, rows: NDArray[np.int64], time: MovieTime
) -> tuple[NDArray[np.int64], str]:
    """Return the group with which each window is drawn, and the kind of groups in words.

    Returns the data set's groups, int64 of shape (n,), or where they are few, runs of movie
    time: the windows of all repeats together.
    """
    group = data.group[rows]
    n_groups = len(np.unique(group))
    if n_groups >= FEWEST_GROUPS:
        return group, "held-out groups"
    run_s = run_seconds(data.window)
    kind = f"runs of {run_s:.2g} s of movie time from {n_groups} held-out group"
    return movie_runs(data.frame[rows], time, run_s), kind + "s" * (n_groups > 1)


def run_seconds(window: WindowSpec) -> float:
    """Return how long a run is: neighbouring runs share no spikes but at their border."""
    return max(RUN_S, window.duration_s + window.lag_ns / NS_PER_S)


def movie_runs(frame: NDArray[np.int64], time: MovieTime, run_s: float) -> NDArray[np.int64]:
    """Cut what was shown of each movie into runs of equal length, whenever it was shown.

    Returns run numbers from 0, int64 of shape (n,).

    Parameters
    ----------
    frame : array, shape (n,), int64
        Rows of the targets.
    time : MovieTime
        A picture without a time is a run by itself.
    run_s : float
        Length, less up to `TOLERANCE` of it; longer where a sequence of frames without a gap does
        not divide by it, and shorter where the sequence is shorter itself.
    """
    shown, index = np.unique(frame, return_inverse=True)
    run = np.arange(len(shown))
    for movie in np.unique(time.movie[shown]):
        of_movie = np.flatnonzero(time.movie[shown] == movie)
        at_s = time.time_s[shown[of_movie]]
        if np.isnan(at_s).any():
            continue
        of_movie, at_s = of_movie[np.argsort(at_s)], np.sort(at_s)
        gaps = np.flatnonzero(np.diff(at_s) > run_s) + 1
        for sequence in np.split(np.arange(len(at_s)), gaps):
            step_s = np.diff(at_s[sequence])
            duration_s = step_s.sum() + (np.median(step_s) if len(step_s) else 0)
            n_runs = max(1, int(duration_s / run_s + TOLERANCE))
            piece = np.arange(len(sequence)) * n_runs // len(sequence)
            first_of = sequence[np.searchsorted(piece, piece)]
            run[of_movie[sequence]] = of_movie[first_of]
    return np.unique(run[index], return_inverse=True)[1].astype(np.int64)
