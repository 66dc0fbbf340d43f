"""When each frame is shown within its movie, and which decoded frames are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.data_set.prepared import FrameTable, PreparedSet

WITHIN_S = 1.0
"""A decoded frame is right if it lies so close to the true one in the movie: the criterion of
Schneider, Lee and Mathis, Nature 2023 (CEBRA)."""


@dataclass(frozen=True, slots=True, eq=False)
class MovieTime:
    """When each frame of the targets is shown within its movie."""

    movie: NDArray[np.int64]  # (n_frames,): which movie each frame belongs to
    # (n_frames,): its number times the movie's frame period; NaN in a set of pictures without an
    # order, where only the frame itself is right
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

        `true` holds rows of the targets, int64 of shape (n,). The chances, float64 of shape
        (n,), are exact: each candidate is looked at.
        """
        frames, index = np.unique(true, return_inverse=True)
        every_frame = np.arange(len(self.movie))
        chance = np.array(
            [
                self.is_near(every_frame[self.movie == self.movie[frame]], np.array([frame])).mean()
                for frame in frames
            ]
        )
        return chance[index]

    def chance_of_answers(
        self, answer: NDArray[np.int64], true: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return how often each answer would be right for another window of the same movie.

        The mean over all windows of a movie, the own one included: what the same answers score in
        a random order. A method that always answers the most frequent frame has an
        accuracy of exactly this, and uses no spikes.

        `answer` and `true` are rows of the targets, int64 of shape (n,).
        """
        chance = np.zeros(len(true))
        for movie in np.unique(self.movie[true]):
            of_movie = self.movie[true] == movie
            shown, times = np.unique(true[of_movie], return_counts=True)
            answers, index = np.unique(answer[of_movie], return_inverse=True)
            near = self.is_near(answers[:, None], shown[None, :])
            chance[of_movie] = (near @ times / times.sum())[index]
        return chance


def movie_time(prepared: PreparedSet) -> MovieTime:
    """Read the frame periods off the presentations.

    Where only some frames are targets, the presentations between them are passed over: a movie's
    period is the median, over successive targets of a block, of their distance in time by that
    in frames. A stimulus in which less than half of the targets are followed by the next one is no
    movie.
    """
    frames, shown = prepared.frames, prepared.shown
    targets = np.flatnonzero(shown.frame >= 0)
    one, other = targets[:-1], targets[1:]
    is_pair = shown.block[one] == shown.block[other]
    is_pair &= frames.movie[shown.frame[one]] == frames.movie[shown.frame[other]]
    one, other = one[is_pair], other[is_pair]
    frame, next_frame = shown.frame[one], shown.frame[other]
    is_next = _successor(frames)[frame] == next_frame
    apart_s = (shown.start_ns[other] - shown.start_ns[one]) / 1e9
    time_s = np.full(len(frames.number), np.nan)
    period_s: dict[str, float] = {}
    for movie, name in enumerate(frames.movies):
        of_movie = frames.movie[frame] == movie
        own = is_next & of_movie
        if own.any() and 2 * own.sum() >= of_movie.sum():
            apart = frames.number[next_frame[own]] - frames.number[frame[own]]
            period_s[name] = float(np.median(apart_s[own] / apart))
            is_in = frames.movie == movie
            time_s[is_in] = frames.number[is_in] * period_s[name]
    return MovieTime(frames.movie, time_s, period_s)


def _successor(frames: FrameTable) -> NDArray[np.int64]:
    """Return the row of the next frame of the same movie that has patches, -1 after the last."""
    order = np.lexsort((frames.number, frames.movie))
    follows = frames.movie[order[1:]] == frames.movie[order[:-1]]
    successor = np.full(len(order), -1)
    successor[order[:-1][follows]] = order[1:][follows]
    return successor
