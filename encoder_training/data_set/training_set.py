"""The training data of an encoder: counts on the grid, windows by first bin, and targets.

Nothing is cut or copied before it is needed: counts lie once in memory, a window is a row number,
and targets may be mapped from a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError, UserError
from contracts.population import Population
from contracts.window import WindowSpec

BLOCK_BINS = 8192
"""Bins whose scale is measured at once: 40 MB of int64 at 600 units, whatever the recording's
length."""

STD_FLOOR = 0.05
"""Spikes per bin. The standard deviation of a Poisson unit of 0.3 Hz in bins of 1/120 s; below it,
one spike of a unit that hardly ever fires would outweigh all others."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and standard deviation of each unit's counts."""

    # (n_units,), spikes per bin: `std` is above 0; where it was measured, it is at least
    # `STD_FLOOR`
    mean: NDArray[np.float32]
    std: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Windows of one recording, each with the patches of the frame that it describes."""

    population: Population
    window: WindowSpec
    # (n_bins, n_units), spikes per bin: the whole recording on the absolute grid, from session time
    # zero
    counts: NDArray[np.uint8]
    first_bin: NDArray[np.int64]  # (n_windows,): row of `counts` at which each window starts
    frame: NDArray[np.int64]  # (n_windows,): row of `targets` that each window describes
    # (n_frames, n_patches, dim): patches of the vision tower. May be a memory map.
    targets: NDArray[np.float16]
    group: NDArray[np.int64]
    # How far a window may be moved without leaving its block, as given to `align`
    margin_bins: int = 2

    def __post_init__(self) -> None:
        problem = _problem_of(self)
        if problem:
            raise MisuseError(problem)

    @property
    def n_windows(self) -> int:
        """Windows in all."""
        return len(self.first_bin)

    @property
    def n_units(self) -> int:
        """Units in the population."""
        return len(self.population)

    def counts_of(
        self, rows: NDArray[np.int64], shift: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Cut windows.

        `shift`, int64 of shape (n,), moves each by so many bins, at most `margin_bins`
        either way. Returns uint8 of shape (n, n_bins, n_units).
        """
        first = self.first_bin[rows] if shift is None else self.first_bin[rows] + shift
        counts: NDArray[np.uint8] = self.counts[
            first[:, np.newaxis] + np.arange(self.window.n_bins)
        ]
        return counts

    def targets_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the patches that windows describe, shape (n, n_patches, dim), float32."""
        return self.targets[self.frame[rows]].astype(np.float32)


NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Windows for training, validation and test."""

    # (n,): rows of the windows. No bin is in two of them; `test` may be empty.
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64] = field(default_factory=NO_ROWS.copy)


def measure_scaling(data: TrainingSet, rows: NDArray[np.int64]) -> Scaling:
    """Measure the counts in the bins of some windows, each bin once."""
    bins = np.flatnonzero(_covered(data, rows))
    total = np.zeros(data.n_units, dtype=np.int64)
    squares = np.zeros(data.n_units, dtype=np.int64)
    for first in range(0, len(bins), BLOCK_BINS):
        block = data.counts[bins[first : first + BLOCK_BINS]].astype(np.uint16)
        total += block.sum(axis=0, dtype=np.int64)
        squares += (block * block).sum(axis=0, dtype=np.int64)  # 255 ** 2 is within uint16
    mean = total / len(bins)
    variance = np.maximum(squares / len(bins) - mean**2, 0)
    return Scaling(
        mean.astype(np.float32), np.maximum(np.sqrt(variance), STD_FLOOR).astype(np.float32)
    )


def draw_validation_groups(data: TrainingSet, fraction: float, *, seed: int) -> NDArray[np.int64]:
    """Choose groups for validation at random.

    `fraction` is above 0 and below 1; at least one group is drawn and one is left.

    Raises
    ------
    UserError
        If there is nothing to split.
    """
    groups = np.unique(data.group)
    if len(groups) < 2 or not 0 < fraction < 1:
        raise UserError(
            "validation needs two groups of windows or more and a fraction above 0 and below 1, "
            f"got {len(groups)} groups and {fraction}"
        )
    n_drawn = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    return np.sort(np.random.default_rng(seed).choice(groups, n_drawn, replace=False))


def split(data: TrainingSet, validation_groups: NDArray[np.int64]) -> Split:
    """Split the windows by group.

    A training window that shares a bin with a window of validation, or would when moved by the
    margin, is on neither side: across a cut between two scenes neighbours overlap.

    Raises
    ------
    UserError
        If one side would be empty.
    """
    parts = split_by_role(data, np.isin(data.group, validation_groups).astype(np.int8))
    if not len(parts.train) or not len(parts.validation):
        raise UserError(
            f"training and validation need a window each, got {len(parts.train)} and "
            f"{len(parts.validation)} of {data.n_windows}. Hold out other groups, or longer ones."
        )
    return parts


def split_by_role(data: TrainingSet, role: NDArray[np.int8]) -> Split:
    """Split the windows by role; the parts share no bin.

    A training window that shares a bin with a window of validation or test, or would when moved
    by the margin, is in no part; nor is a window of validation that shares one with a test.

    `role`, int8 of shape (n_windows,), is 0 for training, 1 for validation, 2 for test.
    """
    test = np.flatnonzero(role == 2)
    validation = _apart(data, np.flatnonzero(role == 1), test)
    train = _apart(data, np.flatnonzero(role == 0), np.flatnonzero(role != 0))
    return Split(train, validation, test)


def thinned(rows: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    """Return at most so many of the rows, evenly spaced.

    The first and the last row are among them; of 1, the first.

    Examples
    --------
    >>> thinned(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    if len(rows) <= at_most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, at_most).round().astype(np.int64)]


def part_edges(n_bins: int, n_parts: int) -> NDArray[np.int64]:
    """Return the first bin of each part of a window, and its end, shape (n_parts + 1,).

    >>> part_edges(10, 4).tolist()
    [0, 2, 5, 7, 10]
    """
    return np.linspace(0, n_bins, n_parts + 1).astype(np.int64)


def _apart(
    data: TrainingSet, rows: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of windows that, moved by the margin, share no bin with others."""
    seen = np.concatenate(([0], np.cumsum(_covered(data, others))))
    first = data.first_bin[rows] - data.margin_bins
    last = data.first_bin[rows] + data.window.n_bins + data.margin_bins
    apart: NDArray[np.int64] = rows[seen[last] == seen[first]]
    return apart


def _covered(data: TrainingSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the bins that some windows hold."""
    change = np.zeros(data.counts.shape[0] + 1, dtype=np.int64)
    np.add.at(change, data.first_bin[rows], 1)
    np.add.at(change, data.first_bin[rows] + data.window.n_bins, -1)
    return np.cumsum(change[:-1]) > 0


def _problem_of(data: TrainingSet) -> str:
    n_windows = len(data.first_bin)
    if data.counts.dtype != np.uint8 or data.counts.shape[1:] != (len(data.population),):
        return (
            f"counts must be uint8 of shape (n_bins, {len(data.population)}), "
            f"got {data.counts.dtype} {data.counts.shape}"
        )
    if not n_windows or not data.frame.shape == data.group.shape == (n_windows,):
        return (
            "a training set needs one window or more with a frame and a group each, got "
            f"{n_windows} windows, frames {data.frame.shape}, groups {data.group.shape}"
        )
    first = int(data.first_bin.min()) - data.margin_bins
    stop = int(data.first_bin.max()) + data.window.n_bins + data.margin_bins
    if first < 0 or stop > data.counts.shape[0]:
        return (
            f"windows and their margin of {data.margin_bins} bins must lie within "
            f"{data.counts.shape[0]} bins, got {first} to {stop}"
        )
    if data.targets.ndim != 3 or not 0 <= data.frame.min() <= data.frame.max() < len(data.targets):
        return (
            f"frames must be rows of targets of shape (n_frames, n_patches, dim), got rows "
            f"{data.frame.min()} to {data.frame.max()} of targets {data.targets.shape}"
        )
    return ""
