"""How close patches come to those of the true frame, window by window.

Every function gives one number for each window, so that windows can be drawn again in a bootstrap
and methods compared on the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.data_set.prepared import FrameTable, PreparedSet

WITHIN_S = 1.0
"""A decoded frame is right if it lies so close to the true one in the movie: the criterion of
Schneider, Lee and Mathis, Nature 2023 (CEBRA)."""

TINY = 1e-12
"""Norm below which a patch has no direction; its cosine with anything is 0."""

NO_DIRECTION = 1e-4
"""Share of the mean norm of the true grids below which a predicted grid is the training mean, but
for rounding; its cosine with anything is 0."""


def patch_errors(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean squared error of each window's patches, shape (n,).

    Parameters
    ----------
    predicted, true : array, shape (n, n_patches, dim), float32
    """
    missed = (predicted - true).reshape(len(true), -1)
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", missed, missed, dtype=np.float64)
    return squares / missed.shape[1]


def patch_cosines(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean over patches of the cosine of each patch, shape (n,).

    Parameters
    ----------
    predicted, true : array, shape (n, n_patches, dim), float32
    """
    product = np.einsum("ijk,ijk->ij", predicted, true)
    norms = np.linalg.norm(predicted, axis=2) * np.linalg.norm(true, axis=2)
    found = np.divide(product, norms, out=np.zeros_like(product), where=norms > TINY)
    means: NDArray[np.float64] = found.mean(axis=1, dtype=np.float64)
    return means


def similarities(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of every predicted grid with every true one.

    Parameters
    ----------
    predicted : array, shape (n, n_components), float32
        Coordinates in a frame space, whose origin is the training mean.
    true : array, shape (n_frames, n_components), float32

    Returns
    -------
    cosine : array, shape (n, n_frames), float32
        0 where a grid is the mean. Rounded, so that equal frames are equally similar whatever the
        order of the sums.
    """
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in (predicted, true)]
    smallest = max(NO_DIRECTION * float(norms[1].mean()), TINY)
    one, other = (
        np.where(norm > smallest, each / np.maximum(norm, smallest), 0)
        for each, norm in zip((predicted, true), norms, strict=True)
    )
    found: NDArray[np.float32] = np.round(one @ other.T, 5)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where the true frame comes among all candidates, by similarity.

    Attributes
    ----------
    rank : array, shape (n,), float64
        From 1; frames as similar as the true one share the mean of their ranks.
    top1, top5 : array, shape (n,), float64
        Probability of being among the first, ties in a random order.
    """

    rank: NDArray[np.float64]
    top1: NDArray[np.float64]
    top5: NDArray[np.float64]


def true_ranks(similarity: NDArray[np.float32], true: NDArray[np.int64]) -> Ranks:
    """Rank the true frame.

    Parameters
    ----------
    similarity : array, shape (n, n_candidates), float32
    true : array, shape (n,), int64
        Column of the true frame.

    Returns
    -------
    Ranks
    """
    own = similarity[np.arange(len(true)), true][:, None]
    n_better = (similarity > own).sum(axis=1)
    n_alike = (similarity == own).sum(axis=1) - 1
    top1, top5 = (np.clip((k - n_better) / (n_alike + 1), 0, 1) for k in (1, 5))
    return Ranks(1 + n_better + n_alike / 2, top1, top5)


@dataclass(frozen=True, slots=True, eq=False)
class MovieTime:
    """When each frame of the targets is shown within its movie.

    Attributes
    ----------
    movie : array, shape (n_frames,), int64
        Which movie each frame belongs to.
    time_s : array, shape (n_frames,), float64
        Its number times the movie's frame period; NaN in a set of pictures without an order,
        where only the frame itself is right.
    period_s : dict of str to float
        Of each movie that has one.
    """

    movie: NDArray[np.int64]
    time_s: NDArray[np.float64]
    period_s: dict[str, float]

    def is_near(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say whether frames lie within `WITHIN_S` of each other; row -1 is near to none."""
        apart_s = np.abs(self.time_s[one] - self.time_s[other])
        is_close = (self.movie[one] == self.movie[other]) & (apart_s <= WITHIN_S + 1e-6)
        near: NDArray[np.bool_] = (is_close | (one == other)) & (one >= 0) & (other >= 0)
        return near

    def chance(self, true: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how often a frame of the same movie, drawn at random, would be right.

        Parameters
        ----------
        true : array, shape (n,), int64
            Rows of the targets.

        Returns
        -------
        chance : array, shape (n,), float64
            Exact: each candidate is looked at.
        """
        frames, where = np.unique(true, return_inverse=True)
        everyone = np.arange(len(self.movie))
        chance = np.array(
            [
                self.is_near(everyone[self.movie == self.movie[frame]], np.array([frame])).mean()
                for frame in frames
            ]
        )
        return chance[where]

    def chance_of_answers(
        self, answer: NDArray[np.int64], true: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return how often each answer would be right for another window of the same movie.

        The mean over all windows of a movie, the own one included: what the same answers score in
        a random order. A method that always says the frame that is right most often has an
        accuracy of exactly this, and knows nothing.

        Parameters
        ----------
        answer, true : array, shape (n,), int64
            Rows of the targets.

        Returns
        -------
        chance : array, shape (n,), float64
        """
        chance = np.zeros(len(true))
        for movie in np.unique(self.movie[true]):
            of_movie = self.movie[true] == movie
            shown, times = np.unique(true[of_movie], return_counts=True)
            answers, where = np.unique(answer[of_movie], return_inverse=True)
            near = self.is_near(answers[:, None], shown[None, :])
            chance[of_movie] = (near @ times / times.sum())[where]
        return chance


def movie_time(prepared: PreparedSet) -> MovieTime:
    """Read the frame periods off the presentations.

    The period of a movie is the median time between presentations of two successive frames. A
    stimulus in which less than half of the presentations show the next frame is no movie.

    Parameters
    ----------
    prepared : PreparedSet
        Presentations and frames.

    Returns
    -------
    MovieTime
    """
    frames: FrameTable = prepared.frames
    shown = prepared.shown
    one, next_one = shown.frame[:-1], shown.frame[1:]
    is_pair = (one >= 0) & (next_one >= 0) & (shown.block[:-1] == shown.block[1:])
    is_pair &= frames.movie[one] == frames.movie[next_one]
    is_next = is_pair & (frames.number[next_one] - frames.number[one] == 1)
    lasts_s = np.diff(shown.start_ns) / 1e9
    time_s = np.full(len(frames.number), np.nan)
    period_s: dict[str, float] = {}
    for movie, name in enumerate(frames.movies):
        of_movie = frames.movie[one] == movie
        n_next = int((is_next & of_movie).sum())
        if n_next and 2 * n_next >= int((is_pair & of_movie).sum()):
            period_s[name] = float(np.median(lasts_s[is_next & of_movie]))
            own = frames.movie == movie
            time_s[own] = frames.number[own] * period_s[name]
    return MovieTime(frames.movie, time_s, period_s)
