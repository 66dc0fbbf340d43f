"""The lag of an encoder, chosen on validation data.

A window that ends at t describes the frame in whose middle t - lag lies. That frame was on the
screen from t - lag - d/2 to t - lag + d/2, where d is how long a frame lasts (33 ms at 30 Hz);
cells respond to it from t - lag - d/2 + latency to t - lag + d/2 + latency. So the whole response
is in the window if

    latency + d/2 <= lag <= latency + length of the window - d/2.

With a shorter lag the window ends in the middle of the response; with a longer one it has forgotten
its start. Between the two the score is a plateau. The end of a window is a bin's edge, up to one
bin before the middle of the frame plus the lag, so the plateau begins up to one bin later.
A real population has many latencies, and the plateau's edges are round.

Where on a plateau the highest score is, is chance, and each millisecond of lag is one by which
every narration is older. So the choice is the shortest lag whose score is within one standard error
of the best one's, after the rule that Breiman et al. use for the size of a tree. The standard error
is that of the difference: all candidates are scored on the same presentations, and what is hard for
one is hard for the other.

The score is that of a linear decoder, which takes seconds. It need not be good: it has to rise and
fall where the encoder would.

References
----------
Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984), section 3.4.3: the
one-standard-error rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.progress import ProgressBar
from encoder_training.data_set.alignment import frame_at
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import TrainingSet, thinned
from encoder_training.evaluation.movie_runs import (
    FEWEST_GROUPS,
    bootstrap_groups,
    movie_runs,
    run_seconds,
)
from encoder_training.evaluation.movie_time import MovieTime, movie_time
from encoder_training.lag_decoder import patch_components, unexplained, z_scored
from encoder_training.pictures import report_figure

CANDIDATES_NS = (0, 33_000_000, 67_000_000, 100_000_000, 133_000_000, 167_000_000, 200_000_000)
"""Frames of 33 ms, from none to six: a latency of 100 ms and the paper's window have room."""

MAX_TRAINING_WINDOWS = 3000
"""A product of 3,000 x 3,000 is solved in a second."""

FEWEST_RUNS = 16
"""Into about so many runs the movie time of validation is cut, where there are fewer than
`FEWEST_GROUPS` groups and seconds."""

MAX_VALIDATION_WINDOWS = 2000
"""More are thinned out evenly."""


@dataclass(frozen=True, slots=True)
class LagScore:
    """The score of one lag."""

    lag_ns: int
    explained: float
    standard_error: float  # Of `explained`, over the runs of movie time; 0 if there is one only
    # The best lag's score less this one's, and the standard error of that difference
    behind_best: float
    behind_best_error: float


@dataclass(frozen=True, slots=True)
class LagChoice:
    """The chosen lag and the scores of all candidates."""

    lag_ns: int  # The shortest one within a standard error of the best
    scores: tuple[LagScore, ...]
    # Windows, and what the errors are over: held-out groups, or runs of movie time
    n_training: int
    n_validation: int
    n_stretches: int


def parse_lags(lag_ms: float | None, lags_ms: str) -> tuple[int, ...]:
    """Return the lags to choose from; one if it is named.

    `lags_ms` holds several, separated by commas; empty for the usual ones.

    Raises
    ------
    UserError
        If both are given, or one is no number from 0 to 10,000.
    """
    if lag_ms is not None and lags_ms:
        raise UserError("give --lag-ms, the lag itself, or --lags-ms, a choice of lags; not both.")
    if lag_ms is not None:
        return (round(lag_ms * 1e6),)
    if not lags_ms:
        return CANDIDATES_NS
    lags = set()
    for text in lags_ms.split(","):
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 10_000:
            raise UserError(
                "--lags-ms takes milliseconds from 0 to 10,000, separated by commas, got "
                f"{text!r} in {lags_ms!r}. For example: --lags-ms 0,33,67,100"
            )
        lags.add(round(value * 1e6))
    return tuple(sorted(lags))


def choose_lag(
    prepared: PreparedSet,
    candidates_ns: Sequence[int] = CANDIDATES_NS,
    *,
    seed: int = 0,
) -> LagChoice:
    """Choose the lag by a ridge from counts to the patches' principal components.

    Raises
    ------
    UserError
        If a candidate leaves too few presentations that have a window at every lag.
    DependencyError
        If scikit-learn is not installed.
    """
    lags = sorted(set(candidates_ns))
    paired = [_Paired.of(prepared, lag) for lag in lags]
    train = _common([candidate.train for candidate in paired])
    validation = _common([candidate.validation for candidate in paired])
    if len(train) < 2 or len(validation) < 2:
        raise UserError(
            "to compare lags, two presentations or more for training and two for validation must "
            f"have a window at each of them, got {len(train)} and {len(validation)}. "
            "Compare fewer lags, or name one."
        )
    rng = np.random.default_rng(seed)
    if len(train) > MAX_TRAINING_WINDOWS:
        train = np.sort(rng.choice(train, MAX_TRAINING_WINDOWS, replace=False))
    validation = thinned(validation, MAX_VALIDATION_WINDOWS)
    frame = prepared.shown.frame
    targets = patch_components(prepared, frame[train], frame[validation], seed)
    latest = paired[-1]
    run = _runs(latest.data, latest.window_of[validation], movie_time(prepared))
    errors = []
    for candidate in ProgressBar(paired, desc="choosing the lag", unit="lag"):
        learned, tested = candidate.window_of[train], candidate.window_of[validation]
        inputs = [z_scored(candidate.data, rows, learned) for rows in (learned, tested)]
        errors.append(unexplained(inputs[0], inputs[1], targets, run))
    return _choose(lags, np.array(errors), len(train), len(validation))


def plot_lags(choice: LagChoice, path: Path) -> None:
    """Draw the score of each lag, the plateau and the choice.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    with report_figure(path, (5, 3.2)) as figure:
        axes = figure.subplots()
        lag_ms = [score.lag_ns / 1e6 for score in choice.scores]
        explained = [score.explained for score in choice.scores]
        # Of the difference to the best, which decides; the error of the score itself is far larger.
        behind = [score.behind_best_error for score in choice.scores]
        axes.errorbar(lag_ms, explained, behind, fmt="o-", mfc="white")
        plateau = [score for score in choice.scores if _is_as_good(score)]
        axes.plot(
            [score.lag_ns / 1e6 for score in plateau],
            [score.explained for score in plateau],
            "C0o",
            zorder=3,
            label="best, or behind it by less than the error (bar)",
        )
        axes.axvline(choice.lag_ns / 1e6, color="C3", label=f"chosen: {choice.lag_ns / 1e6:g} ms")
        axes.set(xlabel="lag (ms)", ylabel="explained variance, validation")
        figure.legend(frameon=False, loc="outside upper center", ncols=2, fontsize="small")


@dataclass(frozen=True, slots=True, eq=False)
class _Paired:
    """The windows at one lag, by the presentations that they describe."""

    data: TrainingSet
    # (n_shown,): row of the window that describes a presentation, -1 if it has none
    window_of: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]

    @classmethod
    def of(cls, prepared: PreparedSet, lag_ns: int) -> _Paired:
        data, parts = prepared.windows(lag_ns)
        spans, rate, shown = prepared.spans, data.window.rate, prepared.shown
        lengths = spans.stop_bin - spans.first_bin
        ends = np.cumsum(lengths)
        span = np.searchsorted(ends, data.first_bin, side="right")
        first_bin = spans.first_bin[span] + data.first_bin - (ends - lengths)[span]
        stop_ns = [rate.start_ns(int(bin_index) + data.window.n_bins) for bin_index in first_bin]
        row = frame_at(shown.start_ns, shown.stop_ns, np.array(stop_ns) - lag_ns)
        window_of = np.full(len(shown.frame), -1)
        window_of[row] = np.arange(data.n_windows)
        return cls(data, window_of, np.sort(row[parts.train]), np.sort(row[parts.validation]))


def _common(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    common = parts[0]
    for other in parts[1:]:
        common = np.intersect1d(common, other)
    return common


def _runs(data: TrainingSet, rows: NDArray[np.int64], time: MovieTime) -> NDArray[np.int64]:
    """Return the run of movie time of each window, from 0.

    All repeats of a run of movie time are one. Of a few seconds of movie the runs are shorter:
    neighbours then depend on each other, but an error over two or three numbers is none at all.
    """
    run, _ = bootstrap_groups(data, rows, time)
    n_runs = len(np.unique(run))
    if n_runs < FEWEST_GROUPS:
        run_s = run_seconds(data.window) * n_runs / FEWEST_RUNS
        run = movie_runs(data.frame[rows], time, run_s)
    return np.unique(run, return_inverse=True)[1].astype(np.int64)


def _choose(
    lags: list[int], errors: NDArray[np.float64], n_training: int, n_validation: int
) -> LagChoice:
    """Apply the rule to errors of shape (n_lags, n_runs)."""
    n_runs = errors.shape[1]
    behind = errors - errors[errors.mean(axis=1).argmin()]

    def error_of(values: NDArray[np.float64]) -> float:
        return float(values.std(ddof=1) / np.sqrt(n_runs)) if n_runs > 1 else 0.0

    scores = tuple(
        LagScore(lag, float(1 - own.mean()), error_of(own), float(lost.mean()), error_of(lost))
        for lag, own, lost in zip(lags, errors, behind, strict=True)
    )
    chosen = next(score.lag_ns for score in scores if _is_as_good(score))
    return LagChoice(chosen, scores, n_training, n_validation, n_runs)


def _is_as_good(score: LagScore) -> bool:
    return score.behind_best <= score.behind_best_error
