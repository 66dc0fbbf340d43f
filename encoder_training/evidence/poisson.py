"""The Poisson evidence of each unit for each anchor, in closed form.

The mean count of a unit while an anchor was shown gives the log likelihood ratio of that anchor
against the mean of all: linear in the unit's count.

The evidence that a window meets in training is made without its own fold of the recording, as that
of a test window will be; an anchor that no other fold shows is no candidate then. So the network
learns how far to believe it, whether the test shows frames again or new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from encoder_training.data_set.training_set import Scaling, TrainingSet, part_edges
from encoder_training.evidence.anchors import nearest
from encoder_training.evidence.network import part_sums

N_FOLDS = 5

PRIOR = 1.0
"""Weight of the mean over all anchors in the mean count of each, in windows."""

TEMPERS = (1.0, 0.5, 0.25, 0.12, 0.06)
"""Factors of the log likelihood, each part at its best of them."""

PARTS = (1, 2, 4)
"""Parts of a window whose counts are summed; four parts of the paper's 20 bins are 42 ms each. To
choose from."""

SMALLEST_MEAN = 1e-3
"""Spikes in a part. A unit that never fired in training must not rule out every anchor."""

BLOCK_WINDOWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class PoissonEvidence:
    """A linear form of z-scored counts."""

    gain: NDArray[np.float32]  # (n_parts * n_units, n_anchors): of the features of the network
    offset: NDArray[np.float32]  # (n_units, n_anchors): of a unit that is selected
    is_seen: NDArray[np.bool_]  # (n_anchors,): whether any window shows it


@dataclass(frozen=True, slots=True, eq=False)
class ShownAnchors:
    """Training windows, the anchor that each shows, and the fold that it is of."""

    data: TrainingSet
    rows: NDArray[np.int64]
    places: NDArray[np.float32]  # (n_frames, n_latents): of every frame
    anchors: NDArray[np.float32]  # (n_anchors, n_latents)
    anchor: NDArray[np.int64]  # (n_windows,)
    fold: NDArray[np.int64]  # (n_windows,)

    def nearest_of(self, candidates: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the nearest candidate of every frame, shape (n_frames,)."""
        return np.flatnonzero(candidates)[nearest(self.places, self.anchors[candidates])]


class PoissonSums:
    """Spikes of every unit while each anchor was shown, fold by fold."""

    def __init__(self, shown: ShownAnchors) -> None:
        data = shown.data
        n_parts = max(n for n in PARTS if n <= data.window.n_bins)
        edges = part_edges(data.window.n_bins, n_parts)
        self.n_parts = n_parts
        self._length = np.diff(edges).astype(np.float32)
        self.n_folds = int(shown.fold.max()) + 1
        shape = (self.n_folds, len(shown.anchors), n_parts, data.n_units)
        self.total = np.zeros(shape, dtype=np.float32)
        self.n = np.zeros(shape[:2], dtype=np.float32)
        for first in range(0, len(shown.rows), BLOCK_WINDOWS):
            some = slice(first, first + BLOCK_WINDOWS)
            counts = data.counts_of(shown.rows[some])
            sums = np.add.reduceat(counts, edges[:-1], axis=1, dtype=np.float32)
            at = (shown.fold[some], shown.anchor[some])
            np.add.at(self.total, at, sums)
            np.add.at(self.n, at, 1)

    def evidence(
        self, scaling: Scaling, n_parts: int, *, without: int | None = None
    ) -> PoissonEvidence:
        """Return the evidence of all folds, or of all but one.

        A recording of one fold is never without it.
        """
        kept = [fold for fold in range(self.n_folds) if fold != without or self.n_folds == 1]
        total, n = self.total[kept].sum(axis=0), self.n[kept].sum(axis=0)
        total = total.reshape(len(n), n_parts, -1, total.shape[-1]).sum(axis=2)
        length = self._length.reshape(n_parts, -1).sum(axis=1)[:, None]
        mean = np.maximum(total.sum(axis=0) / n.sum(), SMALLEST_MEAN)  # (n_parts, n_units)
        rate = (total + PRIOR * mean) / (n[:, None, None] + PRIOR)
        ratio = np.log(rate / mean)
        # A count is z std + mean: what multiplies z is the gain, and the rest is the offset.
        gain = ratio * (scaling.std * np.sqrt(length))
        offset = (ratio * (scaling.mean * length) - (rate - mean)).sum(axis=1)
        return PoissonEvidence(
            np.ascontiguousarray(gain.reshape(len(gain), -1).T, dtype=np.float32),
            np.ascontiguousarray(offset.T, dtype=np.float32),
            n > 0,
        )


def folds_of(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut groups into at most `N_FOLDS` runs of neighbours; returns shape (n_windows,)."""
    groups = np.unique(group)
    number = np.arange(len(groups)) * min(N_FOLDS, len(groups)) // len(groups)
    return number[np.searchsorted(groups, group)]


def choose_parts(
    shown: ShownAnchors,
    sums: PoissonSums,
    scaling: Scaling,
    windows: ChoosingWindows,
    possible: Sequence[int] = PARTS,
) -> int:
    """Choose by the log probability of the true anchor, without each window's own fold.

    The fewest parts are taken that are within a standard error of the best.
    """
    possible = [n for n in possible if n <= sums.n_parts]
    losses = [_losses(shown, sums, scaling, n, windows) for n in possible]
    return possible[fewest(losses)]


def fewest(losses: Sequence[NDArray[np.float64]]) -> int:
    """Return the first whose mean is within a standard error of the best, window by window."""
    best = min(losses, key=lambda loss: loss.mean())
    worse = [loss - best for loss in losses]
    return next(
        k for k, excess in enumerate(worse) if excess.mean() <= excess.std() / len(excess) ** 0.5
    )


def _losses(
    shown: ShownAnchors,
    sums: PoissonSums,
    scaling: Scaling,
    n_parts: int,
    windows: ChoosingWindows,
) -> NDArray[np.float64]:
    """Return the loss of every window, at the temper that is best for all of them."""
    folds = list(_logits_of_folds(shown, sums, scaling, n_parts, windows))
    by_temper = [
        np.concatenate(
            [
                -log_softmax(temper * logits, axis=1)[np.arange(len(true)), true]
                for logits, true in folds
            ]
        ).astype(np.float64)
        for temper in TEMPERS
    ]
    return min(by_temper, key=lambda loss: loss.mean())


@dataclass(frozen=True, slots=True, eq=False)
class ChoosingWindows:
    """Training windows through random populations."""

    at: NDArray[np.int64]  # (n,): where they stand among the rows of `ShownAnchors`
    z: NDArray[np.float32]  # (n, n_bins, n_units): masked
    mask: NDArray[np.float32]  # (n, n_units)

    def features(self, n_parts: int) -> NDArray[np.float32]:
        """Return the features of the network, shape (n, n_parts * n_units)."""
        sums = part_sums(self.z.shape[1], n_parts).numpy()
        x: NDArray[np.float32] = (sums @ self.z).reshape(len(self.z), -1)
        return x


def _logits_of_folds(
    shown: ShownAnchors,
    sums: PoissonSums,
    scaling: Scaling,
    n_parts: int,
    windows: ChoosingWindows,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield log likelihood ratios of the candidates, and which is the true one."""
    x = windows.features(n_parts)
    for fold in range(sums.n_folds):
        evidence = sums.evidence(scaling, n_parts, without=fold)
        of_fold = np.flatnonzero(shown.fold[windows.at] == fold)
        logits = x[of_fold] @ evidence.gain + windows.mask[of_fold] @ evidence.offset
        frames = shown.data.frame[shown.rows[windows.at[of_fold]]]
        true = shown.nearest_of(evidence.is_seen)[frames]
        column = np.cumsum(evidence.is_seen) - 1
        yield logits[:, evidence.is_seen], column[true]
