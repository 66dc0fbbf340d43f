"""How close patches come to those of the true frame, window by window.

Every function gives one number for each window, so that windows can be drawn again in a bootstrap
and methods compared on the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TINY = 1e-12
"""Norm below which a patch has no direction; its cosine with anything is 0."""

NO_DIRECTION = 1e-4
"""Share of the mean norm of the true grids below which a predicted grid is the training mean, but
for rounding; its cosine with anything is 0."""


def patch_errors(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean squared error of each window's patches, shape (n,).

    `predicted` and `true` are float32 of shape (n, n_patches, dim).
    """
    missed = (predicted - true).reshape(len(true), -1)
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", missed, missed, dtype=np.float64)
    return squares / missed.shape[1]


def patch_cosines(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean over patches of the cosine of each patch, shape (n,).

    `predicted` and `true` are float32 of shape (n, n_patches, dim).
    """
    product = np.einsum("ijk,ijk->ij", predicted, true)
    norms = np.linalg.norm(predicted, axis=2) * np.linalg.norm(true, axis=2)
    cosine = np.divide(product, norms, out=np.zeros_like(product), where=norms > TINY)
    means: NDArray[np.float64] = cosine.mean(axis=1, dtype=np.float64)
    return means


def similarities(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of every predicted grid with every true one.

    Returns float32 of shape (n, n_frames), 0 where a grid is the mean; rounded, so that equal
    frames are equally similar whatever the order of the sums.

    Parameters
    ----------
    predicted : array, shape (n, n_components), float32
        Coordinates in a frame space, whose origin is the training mean.
    true : array, shape (n_frames, n_components), float32
    """
    norms = [np.linalg.norm(grid, axis=1, keepdims=True) for grid in (predicted, true)]
    smallest = max(NO_DIRECTION * float(norms[1].mean()), TINY)
    one, other = (
        np.where(norm > smallest, grid / np.maximum(norm, smallest), 0)
        for grid, norm in zip((predicted, true), norms, strict=True)
    )
    cosine: NDArray[np.float32] = np.round(one @ other.T, 5)
    return cosine


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where the true frame comes among all candidates, by similarity."""

    # (n,): from 1; frames as similar as the true one share the mean of their ranks
    rank: NDArray[np.float64]
    # (n,): probability of being among the first, ties in a random order
    top1: NDArray[np.float64]
    top5: NDArray[np.float64]


def share_among_best(
    similarity: NDArray[np.float32], true: NDArray[np.int64], k: float
) -> NDArray[np.float64]:
    """Return the probability that the true frame is among the k most similar, shape (n,).

    Ties are in a random order, and k need not be whole, so that by chance it is exactly k over the
    number of candidates. Parameters are as for `true_ranks`.
    """
    n_better, n_alike = _better_and_alike(similarity, true)
    return np.clip((k - n_better) / (n_alike + 1), 0, 1)


def true_ranks(similarity: NDArray[np.float32], true: NDArray[np.int64]) -> Ranks:
    """Rank the true frame.

    Parameters
    ----------
    similarity : array, shape (n, n_candidates), float32
    true : array, shape (n,), int64
        Column of the true frame.
    """
    n_better, n_alike = _better_and_alike(similarity, true)
    top1, top5 = (np.clip((k - n_better) / (n_alike + 1), 0, 1) for k in (1, 5))
    return Ranks(1 + n_better + n_alike / 2, top1, top5)


def _better_and_alike(
    similarity: NDArray[np.float32], true: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the candidates that are more similar than the true one, and those that are as much."""
    own = similarity[np.arange(len(true)), true][:, None]
    n_better: NDArray[np.int64] = (similarity > own).sum(axis=1)
    return n_better, (similarity == own).sum(axis=1) - 1
