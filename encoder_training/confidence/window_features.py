"""Learns what `WindowFeatures` needs: the mean grid, and the activity that frames evoke.

The activity is that of a linear encoding model: the z-score of each unit, mean over a window, is
regressed on principal components of the mean patch of the frame that was shown. Grids are looked
at as they are, so that a decoding which is shrunk towards the mean predicts little activity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.confidence import MAX_PLACES, WindowFeatures
from encoder_training.data_set.training_set import Scaling, TrainingSet, thinned
from encoder_training.losses import SMALLEST_STD, TargetScaling

MAX_COMPONENTS = 24
"""Of the mean patch: on the simulated world 16 to 32 make no difference."""

MAX_WINDOWS = 4000
"""Training windows that the responses are fitted to, evenly thinned."""

BLOCK_FRAMES = 128
"""Frames whose patches are read at once: 300 MB of float32 at 576 x 1024."""

BLOCK_WINDOWS = 512
"""Windows whose spikes are read at once: 40 MB of counts at 2,000 units and 40 bins."""

RIDGE = 0.01
"""Penalty on a response, as a share of the number of windows: components have variance 1."""

SMALLEST_NOISE = 0.03
"""Standard deviation of a unit's mean z-score about its response, at least: a unit that never
fires has none, and must not outweigh all others."""

SMALLEST_SHARE = 1e-3
"""Of the largest singular value: below it, a component is rounding of float16."""


def learn_window_features(
    data: TrainingSet, rows: NDArray[np.int64], scaling: Scaling, targets: TargetScaling
) -> WindowFeatures:
    """Learn from training windows.

    `targets` are the statistics of their frames, the standard deviations of each dimension among
    them.
    """
    place = thinned(np.arange(data.targets.shape[1]), MAX_PLACES)
    # float16, as it is stored: the daemon must get the numbers that the calibration was fitted to.
    patch_mean = targets.patch_mean[place].astype(np.float16).astype(np.float32)
    is_constant = targets.std <= SMALLEST_STD
    inverse_std = np.where(is_constant, 0, 1 / np.maximum(targets.std, SMALLEST_STD))
    inverse_std = inverse_std.astype(np.float32)
    some = thinned(rows, MAX_WINDOWS)
    frames, frame_of = np.unique(data.frame[some], return_inverse=True)
    means = _mean_patches(data, frames, place, patch_mean, inverse_std)
    component = _components(means[frame_of])
    numbers = means[frame_of] @ component
    blocks = [some[first : first + BLOCK_WINDOWS] for first in range(0, len(some), BLOCK_WINDOWS)]
    activity = np.concatenate([activity_of(data.counts_of(block), scaling) for block in blocks])
    gram = numbers.T @ numbers + RIDGE * len(some) * np.eye(numbers.shape[1])
    response = np.linalg.solve(gram, numbers.T @ activity)
    fitted = numbers @ response
    noise = np.maximum((activity - fitted).std(axis=0), SMALLEST_NOISE)
    # A response that is fitted to noise has this variance as well, and nothing in new spikes agrees
    # with it: what is left of the response is the share of its variance that is not by chance.
    by_chance = noise**2 * numbers.shape[1] / len(some)
    response *= 1 - np.minimum(by_chance / np.maximum(fitted.var(axis=0), by_chance), 1)
    return WindowFeatures(
        place=place.astype(np.int64),
        patch_mean=patch_mean,
        inverse_std=inverse_std,
        component=component.astype(np.float32),
        response=(response / noise).astype(np.float32),
        inverse_noise=(1 / noise).astype(np.float32),
    )


def activity_of(counts: NDArray[np.uint8], scaling: Scaling) -> NDArray[np.float32]:
    """Return the mean z-score of each unit over windows, float32 of shape (n, n_units).

    `counts` is uint8 of shape (n, n_bins, n_units), its last axis in the order of `scaling`.
    """
    activity: NDArray[np.float32] = counts.mean(axis=1, dtype=np.float32)
    return (activity - scaling.mean) / scaling.std


def _mean_patches(
    data: TrainingSet,
    frames: NDArray[np.int64],
    place: NDArray[np.int64],
    patch_mean: NDArray[np.float32],
    inverse_std: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return the mean scaled patch of frames, shape (n_frames, dim)."""
    parts = []
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = data.targets[frames[first : first + BLOCK_FRAMES]][:, place].astype(np.float32)
        parts.append(((block - patch_mean) * inverse_std).mean(axis=1, dtype=np.float64))
    return np.concatenate(parts)


def _components(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return directions in which mean patches vary, scaled to variance 1, shape (dim, n)."""
    _, size, direction = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    kept = np.flatnonzero(size > SMALLEST_SHARE * max(size[0], np.finfo(float).tiny))
    kept = kept[:MAX_COMPONENTS]
    scaled: NDArray[np.float64] = direction[kept].T * (np.sqrt(len(means)) / size[kept])
    return scaled
