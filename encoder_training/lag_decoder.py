"""The linear decoder by which lags are compared: a ridge from counts to components of patches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import DependencyError, UserError
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import TrainingSet, measure_scaling

MAX_COMPONENTS = 64
"""Of the patches: a linear decoder can tell apart little beyond the first ones."""

MOST_CELLS = 4
"""Patches are averaged over the cells of a grid of 4 x 4 at most: where, roughly, is enough here,
and 24 x 24 x 1024 numbers a frame are not needed."""

SUB_WINDOW_S = 1 / 60
"""Counts are summed over half a frame, so that the decoder knows when in the window responses come.
Over a whole frame, responses that straddle two sums tilt the plateau: of 48 planted sets of three
latencies, 27 then miss the plateau's first candidate, and 7 with half a frame (LOG.md)."""

RIDGES = (0.03, 0.3, 3.0, 30.0)
"""Penalties that are tried for each lag, in units of the mean square of the input."""


def z_scored(
    data: TrainingSet, rows: NDArray[np.int64], train: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Sum the counts of windows over sub-windows, on the scale of some of them.

    Returns float32 of shape (n, n_sub_windows * n_units). Sub-windows are counted from the
    window's end; the first one may be shorter.
    """
    window = data.window
    bins = max(1, round(SUB_WINDOW_S * window.rate.bins_per_s))
    edges = np.arange(window.n_bins, 0, -bins)[::-1]
    starts = np.concatenate(([0], edges[:-1]))
    summed = np.add.reduceat(data.counts_of(rows), starts, axis=1, dtype=np.float32)
    scaling = measure_scaling(data, train)
    n_bins = (edges - starts)[:, np.newaxis]
    z = (summed - n_bins * scaling.mean) / (np.sqrt(n_bins) * scaling.std)
    return np.reshape(z, (len(z), -1)).astype(np.float32)


def unexplained(
    train: NDArray[np.float32],
    validation: NDArray[np.float32],
    targets: tuple[NDArray[np.float32], NDArray[np.float32]],
    run: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Fit a ridge and score it; the penalty with the least error counts.

    In its dual form: there are fewer windows than counts.

    Returns float64 of shape (n_runs,), the squared error of each run over the mean variance of
    a run: their mean is the unexplained share.

    Parameters
    ----------
    train, validation : array, shape (n, n_inputs), float32
    run : array, shape (n_validation,), int64
        Run of movie time that each validation window belongs to, from 0.
    """
    learned, true = (components.astype(np.float64) for components in targets)
    offset, centre = learned.mean(axis=0), train.mean(axis=0)
    train, validation = train - centre, validation - centre
    gram = (train @ train.T).astype(np.float64)
    across = (validation @ train.T).astype(np.float64)
    scale = np.trace(gram) / len(gram)
    n_runs = int(run.max()) + 1
    variance = np.square(true - offset).sum() / n_runs
    least: NDArray[np.float64] | None = None
    for ridge in RIDGES:
        dual = np.linalg.solve(gram + ridge * scale * np.eye(len(gram)), learned - offset)
        error = np.square(across @ dual + offset - true).sum(axis=1)
        share = np.bincount(run, error, minlength=n_runs) / variance
        if least is None or share.sum() < least.sum():
            least = share
    return least if least is not None else np.ones(n_runs)


def patch_components(
    prepared: PreparedSet,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Describe frames by the principal components of their patches.

    Raises
    ------
    UserError
        If the first list holds one frame only.
    DependencyError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise DependencyError(
            "Choosing the lag needs scikit-learn. Run: pip install 'neurrate[train]', or name "
            "the lag."
        ) from error
    frames = np.unique(train)
    learned = _averaged(prepared, frames)
    mean, std = learned.mean(axis=0), learned.std(axis=0)
    std = np.where(std > 0, std, 1)
    n_components = min(MAX_COMPONENTS, learned.shape[0] - 1, learned.shape[1])
    if n_components < 1:
        raise UserError(
            "to compare lags, training needs two different frames or more, got one. Name a lag."
        )
    solver = "full" if min(learned.shape) <= 2 * MAX_COMPONENTS else "randomized"
    reduction: Any = PCA(n_components, svd_solver=solver, random_state=seed)
    of_frame = reduction.fit_transform((learned - mean) / std)
    others, index = np.unique(validation, return_inverse=True)
    of_others = reduction.transform((_averaged(prepared, others) - mean) / std)
    return (
        of_frame[np.searchsorted(frames, train)].astype(np.float32),
        of_others[index].astype(np.float32),
    )


def _averaged(prepared: PreparedSet, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return patches averaged over a coarse grid, shape (n_frames, n_cells * dim), float32."""
    grid = prepared.grid
    row, column = np.divmod(np.arange(grid.n_patches), grid.cols)
    cell_rows, cell_columns = min(grid.rows, MOST_CELLS), min(grid.cols, MOST_CELLS)
    cell = row * cell_rows // grid.rows * cell_columns + column * cell_columns // grid.cols
    weight = (cell == np.arange(cell_rows * cell_columns)[:, np.newaxis]).astype(np.float32)
    weight /= weight.sum(axis=1, keepdims=True)
    averaged = [weight @ prepared.targets[frame].astype(np.float32) for frame in frames]
    return np.reshape(averaged, (len(frames), -1)).astype(np.float32)
