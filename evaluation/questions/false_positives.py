"""How often each test sees an effect where there is none: the captions are replaced.

Narrations stay as they are; what they are compared with is moved, exchanged or put out of order.
Every test should reject at most one of twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from contracts.progress import ProgressBar
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import interval
from evaluation.questions.answer import Answer, AnswerFigure, Row, with_interval
from evaluation.questions.chance import (
    LEVEL,
    Positions,
    block_draws,
    block_length,
    correlation_table,
    is_rejected,
    naive_p,
    out_of_place,
    shift_test,
)
from evaluation.questions.false_positives_figure import draw_rates
from evaluation.questions.growth import FEWEST_UNITS
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.scaling import MOST_WINDOWS, slope_weights, unit_sets
from evaluation.scores import own_and_others, rate_interval

N_SHUFFLES = 200
NAIVE_DRAWS = 199
N_DRAWS = 500

NULLS_STREAM = 17

OTHER_FRAMES = "captions of other frames"
TOO_FEW = "as fewer frames lie outside of the scored ones than half of these"

Labels = Callable[[np.random.Generator], NDArray[np.float64]]
"""Draws vectors of captions, shape (n_positions, dim), that have nothing to do with the frames."""


def false_positives(inputs: EvaluationInputs, *, n_shuffles: int = N_SHUFFLES) -> Answer:
    """Answer the question, on the narrations of all units, and of more and more of them."""
    vectors = inputs.sentences.of(inputs.narrate([inputs.selections["all"]]))["all"]
    nulls, growth = _nulls(inputs), _growth(inputs)
    rejected: dict[tuple[str, str], list[bool]] = {}
    with ProgressBar(total=n_shuffles * len(nulls), desc="shuffling", unit="shuffle") as bar:
        for at, (null, draw) in enumerate(nulls.items()):
            rng = np.random.default_rng([inputs.request.seed, NULLS_STREAM, at])
            for shuffle in range(n_shuffles):
                labels = draw(rng)
                found = run_tests(
                    vectors, labels, inputs.positions, inputs.positions_of_group, seed=shuffle
                )
                if growth is not None:
                    found |= growth.run(labels, seed=shuffle)
                for test, is_rejected in found.items():
                    rejected.setdefault((null, test), []).append(is_rejected)
                bar.update()
    rows = [_row(null, test, of) for (null, test), of in rejected.items()]
    return Answer(
        name="false-positives",
        title="False positives: how often is an effect seen where there is none?",
        findings=(
            *(
                f"{row['labels']}, {row['test']}: {row['rejected']} of {row['shuffles']}"
                for row in rows
            ),
            *(() if OTHER_FRAMES in nulls else (f"{OTHER_FRAMES}: not tried, {TOO_FEW}",)),
        ),
        tables={"rates": rows},
        figures=(
            AnswerFigure(
                "rates",
                f"Share of {n_shuffles} sets of labels without a relation in which each test sees "
                f"one, at a level of {LEVEL:g} (dotted; intervals: half of it, one-sided). Lines: "
                f"95 % intervals (Wilson). {len(inputs.positions)} frames, narrations of all "
                "units. Open: tests that take frames for independent.",
                (8, 1 + 1.5 * len(nulls)),
                partial(draw_rates, rows=rows, level=LEVEL),
            ),
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """Narrations of sets of units of several sizes, for the slope of their lead.

    A slope is a weighted sum over sets, and so is its table: of their vectors.
    """

    vectors: NDArray[np.float64]  # (n_windows, dim): the weighted sum
    positions: Positions
    at: NDArray[np.int64]  # (n_positions,): which of all positions these are

    def run(self, labels: NDArray[np.float64], *, seed: int) -> dict[str, bool]:
        """Say of each test whether it sees a slope; `labels` are of all positions."""
        table = self.positions.table(self.vectors @ labels[self.at].T) / len(self.vectors)
        p = {
            "slope, shifts": shift_test(table, self.positions, seed=seed).p,
            "slope, any order": naive_p(table, seed=seed, n_draws=NAIVE_DRAWS),
        }
        return {test: bool(is_rejected(of)) for test, of in p.items()}


def _growth(inputs: EvaluationInputs) -> Growth | None:
    """Narrate one random order of all units; None if there are too few for a line."""
    every = inputs.selections["all"]
    if every.n_units < FEWEST_UNITS:
        return None
    sets = unit_sets(inputs.manifest.population, every, seed=inputs.request.seed)
    weights = slope_weights(sorted(sets))
    windows = thinned(np.arange(len(inputs.windows.rows)), MOST_WINDOWS)
    one_order = [sets[size][0] for size in sorted(sets)]
    vectors = inputs.sentences.of(inputs.narrate(one_order, windows=windows))
    summed = sum(w * vectors[one.name] for w, one in zip(weights, one_order, strict=True))
    at = np.unique(inputs.positions.of_window[windows])
    return Growth(np.asarray(summed), inputs.positions_of(windows), at)


def _nulls(inputs: EvaluationInputs) -> dict[str, Labels]:
    positions, shown = inputs.positions, inputs.caption_vectors

    def shifted(rng: np.random.Generator) -> NDArray[np.float64]:
        return shown[out_of_place(positions, inputs.minimal_lags, rng)]

    def out_of_order(rng: np.random.Generator) -> NDArray[np.float64]:
        return shown[rng.permutation(len(positions))]

    nulls: dict[str, Labels] = {"shifted captions": shifted, "captions in any order": out_of_order}
    others = other_frames(inputs)
    if others is not None:
        captions = inputs.windows.frames.captions
        rows = inputs.sentences.vectors([captions[row] for row in others.tolist()])

        def elsewhere(rng: np.random.Generator) -> NDArray[np.float64]:
            """Take captions of other frames of the longest movie, in their order."""
            first = int(rng.integers(len(rows)))
            return rows[(first + np.arange(len(positions))) % len(rows)]

        nulls[OTHER_FRAMES] = elsewhere
    return nulls


def other_frames(inputs: EvaluationInputs) -> NDArray[np.int64] | None:
    """Return frames with captions that are not held out, as far apart as those that are scored.

    Rows of the longest movie's in `CaptionedWindows.frames`, in their order. None if there are
    fewer than half of the positions.
    """
    frames, positions = inputs.windows.frames, inputs.positions
    movies = positions.movies
    longest = movies[int(np.argmax([len(rows) for rows in movies]))]
    of_window = inputs.windows.data.frame[inputs.windows.rows]
    scored = of_window[positions.first_window[longest]]
    movie, number = frames.movie[scored[0]], frames.number[scored]
    rows = np.flatnonzero(frames.movie == movie)
    rows = rows[np.argsort(frames.number[rows])]
    is_out = (frames.number[rows] < number.min()) | (frames.number[rows] > number.max())
    rows = rows[is_out & np.array([bool(frames.captions[row].strip()) for row in rows])]
    if len(rows) < 2:
        return None
    apart = np.median(np.diff(number)) if len(number) > 1 else 1
    step = max(1, round(float(apart / max(1.0, np.median(np.diff(frames.number[rows]))))))
    chosen = rows[::step]
    return chosen.astype(np.int64) if len(chosen) >= len(positions) // 2 else None


def run_tests(
    vectors: NDArray[np.float64],
    labels: NDArray[np.float64],
    positions: Positions,
    fewest_in_block: float,
    *,
    seed: int = 0,
) -> dict[str, bool]:
    """Say of each test whether it sees an effect.

    `vectors` are narrations, shape (n_windows, dim), and `labels` captions, shape
    (n_positions, dim). The correlation is that of the similarities to the first caption.
    """
    likeness = vectors @ labels.T
    table = positions.table(likeness) / len(likeness)
    trace = correlation_table(positions.mean(likeness[:, 0]), labels @ labels[0])
    own, others = own_and_others(likeness, positions.of_window)
    lead = own - others
    length = max(block_length(positions.mean(lead)), fewest_in_block)
    blocks, frames = (
        block_draws(positions, mean, seed=seed, n_draws=N_DRAWS) for mean in (length, 1.0)
    )
    p = {
        "mean cosine, shifts": shift_test(table, positions, seed=seed).p,
        "mean cosine, any order": naive_p(table, seed=seed, n_draws=NAIVE_DRAWS),
        "correlation, shifts": shift_test(trace, positions, seed=seed).p,
        "correlation, any order": naive_p(trace, seed=seed, n_draws=NAIVE_DRAWS),
    }
    return {
        **{test: bool(is_rejected(of)) for test, of in p.items()},
        "interval of the lead, blocks": interval(blocks.ratio(lead)).low > 0,
        "interval of the lead, frames": interval(frames.ratio(lead)).low > 0,
    }


def rejection_rate(is_rejected: Sequence[bool] | NDArray[np.bool_]) -> dict[str, float]:
    """Return how many tests reject, as columns: the rate with its 95 % interval (Wilson)."""
    return {
        "shuffles": len(is_rejected),
        "rejected": int(np.sum(is_rejected)),
        **with_interval("rate", rate_interval(np.asarray(is_rejected, np.float64))),
    }


def _row(null: str, test: str, rejected: Sequence[bool]) -> Row:
    return {"labels": null, "test": test, **rejection_rate(rejected)}
