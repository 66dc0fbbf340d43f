"""The test windows, their true frames, and the scores of each window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from contracts.progress import ProgressBar
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import Split, TrainingSet, thinned
from encoder_training.evaluation.baselines import BaselineDecoder, FrameMixture
from encoder_training.evaluation.frame_space import FrameSpace, fit_frame_space
from encoder_training.evaluation.masked_encoder import batches
from encoder_training.evaluation.metrics import (
    Ranks,
    patch_cosines,
    patch_errors,
    similarities,
    true_ranks,
)
from encoder_training.evaluation.movie_time import MovieTime, movie_time
from encoder_training.losses import TargetScaling, measure_targets


@dataclass(frozen=True, slots=True, eq=False)
class WindowScores:
    """One method, window by window."""

    error: NDArray[np.float64]
    raw_cosine: NDArray[np.float64]
    cosine: NDArray[np.float64]
    ranks: Ranks
    # (n,): the decoded frames, as the method decides and by its patches
    answer: NDArray[np.int64]
    answer_by_patches: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """The test windows and their true frames."""

    data: TrainingSet
    rows: NDArray[np.int64]
    true: NDArray[np.int64]
    candidates: NDArray[np.int64]  # (n_candidates,): frames that are ranked, in order
    targets: TargetScaling
    space: FrameSpace
    time: MovieTime

    @classmethod
    def of(
        cls, prepared: PreparedSet, data: TrainingSet, parts: Split, rows: NDArray[np.int64]
    ) -> EvaluationSet:
        """Measure the training windows, and look up what some rows show."""
        targets = measure_targets(data, parts.train, normalise=True)
        space = fit_frame_space(data.targets, targets)
        true = data.frame[rows]
        time = movie_time(prepared)
        return cls(data, rows, true, np.unique(true), targets, space, time)

    def thinned(self, most: int) -> EvaluationSet:
        """Return fewer windows and the same candidates."""
        rows = thinned(self.rows, most)
        return replace(self, rows=rows, true=self.data.frame[rows])

    def decides_by_patches(self, decoder: BaselineDecoder, rows: NDArray[np.int64]) -> bool:
        """Return whether a method decodes frames better by its patches than by its own decision.

        A decision among training frames can only be wrong where frames were held out, while a
        mixture of their patches may be nearest to the true frame: so where most frames of the test
        are new, patches decide. Elsewhere validation windows decide.
        """
        if not isinstance(decoder, FrameMixture) or not decoder.decides:
            return True
        if np.isin(self.true, decoder.train_frames).mean() < 0.5:
            return True
        counts, true = self.data.counts_of(rows), self.data.frame[rows]
        may_be = self.may_be(true)
        # Weights sum to 1, so that a mixture of frames has the mixture of their coordinates.
        mixed = decoder.weights(counts) @ self.space.coordinates[decoder.train_frames]
        similarity = similarities(mixed, self.space.coordinates)
        by_patches = np.where(may_be, similarity, -np.inf).argmax(axis=1)
        own = decoder.frames(counts, may_be)
        n_right = [
            0 if answer is None else int(self.time.is_near(answer, true).sum())
            for answer in (by_patches, own)
        ]
        return n_right[0] > n_right[1]

    def may_be(self, true: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the frames of the same movie, shape (n, n_frames)."""
        is_same: NDArray[np.bool_] = self.time.movie[None, :] == self.time.movie[true][:, None]
        return is_same

    def score(self, decoder: BaselineDecoder, bar: ProgressBar) -> WindowScores:
        """Score a method, batch by batch."""
        parts = []
        grid = self.data.targets.shape[1:]
        for rows in batches(self.rows, grid):
            parts.append(self._score(decoder, rows))
            bar.update(len(rows))
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        error, raw_cosine, cosine, rank, top1, top5, answer, by_patches = joined
        return WindowScores(error, raw_cosine, cosine, Ranks(rank, top1, top5), answer, by_patches)

    def _score(
        self, decoder: BaselineDecoder, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.generic], ...]:
        counts, true = self.data.counts_of(rows), self.data.targets_of(rows)
        frame = self.data.frame[rows]
        predicted = decoder.patches(counts)
        scale = self.targets.mean, self.space.std
        similarity = similarities(self.space.of(predicted), self.space.coordinates)
        ranks = true_ranks(similarity[:, self.candidates], np.searchsorted(self.candidates, frame))
        may_be = self.may_be(frame)
        by_patches = np.where(may_be, similarity, -np.inf).argmax(axis=1)
        decided = decoder.frames(counts, may_be)
        if decided is None:
            decided = by_patches
        return (
            patch_errors(predicted, true),
            patch_cosines(predicted, true),
            patch_cosines(*((grids - scale[0]) / scale[1] for grids in (predicted, true))),
            ranks.rank,
            ranks.top1,
            ranks.top5,
            np.where(decided >= 0, decided, by_patches),
            by_patches,
        )

    def mean_error(self) -> NDArray[np.float64]:
        """Return the squared error of the training mean, window by window."""
        error = np.array(
            [
                patch_errors(
                    self.targets.patch_mean[None], self.data.targets[frame].astype(np.float32)[None]
                )[0]
                for frame in self.candidates
            ]
        )
        return error[np.searchsorted(self.candidates, self.true)]
