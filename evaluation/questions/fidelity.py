"""How near narrations come to what was shown: matched, by chance and floor, over frames and time.

Figure 3 of the method's paper (arXiv 2606.18667), with what it lacks: chance as circular shifts of
the movie, floors that know the movie but not the frame, and whether a confidence is deserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from contracts.population import CONTROLS
from encoder_training.evaluation.bootstrap import Draws, interval
from evaluation.caption_scores.narrating import MEAN_PATCHES, TRUE_PATCHES, Narrated
from evaluation.caption_scores.scoring import CaptionScores, caption_scores
from evaluation.narrations.facts_score import SCORES, tallies
from evaluation.questions import fidelity_figures as figures
from evaluation.questions.answer import Answer, Row, p_text, with_interval
from evaluation.questions.chance import (
    Positions,
    ShiftTest,
    block_draws,
    block_length,
    correlation_table,
    minimal_lags,
    shift_test,
)
from evaluation.questions.inputs import RETRIEVAL, EvaluationInputs
from evaluation.questions.narration_store import Source
from evaluation.scores import score
from simulation.scenes.facts import Facts

CONFIDENCE_EDGES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BEST = 0.1
"""A narration is right if its own caption is among this share of captions that are nearest to it,
as a confidence is meant (docs/decisions/0026-confidence.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredNarrators:
    """Narrators on the same windows."""

    n_windows: int
    positions: Positions
    draws: Draws
    scores: Mapping[str, CaptionScores]
    tests: Mapping[str, ShiftTest]  # Of the mean cosine with the caption


def fidelity(inputs: EvaluationInputs) -> Answer:
    """Answer the question."""
    known_facts = inputs.facts()  # refused before the long work
    narrated = _narrate(inputs)
    texts = {name: [one.text for one in of] for name, of in narrated.items()}
    every = np.arange(len(inputs.windows.rows))
    whole = score_narrators(inputs, texts, every)
    movies = np.array(inputs.movie_of_window)
    parts = {
        str(movie): score_narrators(inputs, texts, np.flatnonzero(movies == movie))
        for movie in np.unique(movies)
        if np.count_nonzero(movies == movie) > 1
    }
    n_units = {name: one.n_units for name, one in inputs.selections.items()}
    rows = _score_rows(whole, n_units)
    by_movie: list[Row] = [
        {"movie": movie, **row}
        for movie, part in parts.items()
        for row in _score_rows(part, n_units)
    ]
    over_time = _over_time(inputs, texts)
    confidence, confidence_p, of_confidence = _confidence(inputs, narrated, texts, whole)
    facts = [] if known_facts is None else _facts(inputs, known_facts, texts, whole)
    tables: dict[str, Sequence[Row]] = {
        "scores": rows,
        "by-movie": by_movie,
        "over-time": over_time,
        "confidence": confidence,
        "facts": facts,
        "sentences": _sentences(inputs, texts),
    }
    return Answer(
        name="fidelity",
        title="Fidelity: are narrations about the frame that was shown?",
        findings=(*_findings(whole), of_confidence, *_fact_finding(inputs)),
        tables={name: found for name, found in tables.items() if found},
        figures=figures.fidelity_figures(tables, inputs.split, confidence_p),
    )


def score_narrators(
    inputs: EvaluationInputs, texts: Mapping[str, Sequence[str]], windows: NDArray[np.int64]
) -> ScoredNarrators:
    """Score narrators on some of the windows, int64 of shape (n,)."""
    positions = inputs.positions_of(windows)
    captions = [inputs.windows.captions[window] for window in windows.tolist()]
    some = {name: [of[window] for window in windows.tolist()] for name, of in texts.items()}
    shown = inputs.sentences.vectors([captions[w] for w in positions.first_window.tolist()])
    lags = minimal_lags(shown @ shown.T, positions)
    tests, lengths = {}, [inputs.positions_of_group]
    for name, sentences in some.items():
        likeness = inputs.sentences.vectors(sentences) @ shown.T
        tests[name] = shift_test(
            positions.table(likeness) / len(likeness),
            positions,
            minimal_lags=lags,
            seed=inputs.request.seed,
        )
        own = likeness[np.arange(len(likeness)), positions.of_window]
        lengths.append(block_length(positions.mean(own - likeness.mean(axis=1))))
    draws = block_draws(positions, max(lengths), seed=inputs.request.seed)
    controls = [name for name in CONTROLS if name in texts]
    scores = caption_scores(
        some, captions, inputs.sentences, draws, controls=controls, seed=inputs.request.seed
    )
    return ScoredNarrators(len(windows), positions, draws, scores, tests)


def _narrate(inputs: EvaluationInputs) -> dict[str, list[Narrated]]:
    sources: list[Source] = [TRUE_PATCHES, *inputs.selections.values(), MEAN_PATCHES]
    narrated = inputs.narrate(sources)
    nearest = inputs.narrate([inputs.selections["all"]], backend="retrieval")["all"]
    controls = {name: narrated.pop(name) for name in (*CONTROLS, MEAN_PATCHES) if name in narrated}
    return {**narrated, RETRIEVAL: nearest, **controls}


def _score_rows(scored: ScoredNarrators, n_units: Mapping[str, int]) -> list[Row]:
    rows: list[Row] = []
    for name, one in scored.scores.items():
        test = scored.tests[name]
        low, high = test.band
        rows.append(
            {
                "narrator": name,
                "units": n_units.get(name, ""),
                "windows": scored.n_windows,
                "frames": len(scored.positions),
                "different_sentences": one.n_different,
                **with_interval("matched", one.matched),
                **with_interval("shuffled", one.chance),
                **with_interval("floor", one.floor),
                **with_interval("lead", one.lead),
                **with_interval("normalised", one.normalised),
                "shifted": test.chance,
                "shifted_low": low,
                "shifted_high": high,
                "shifts": test.n_shifts,
                **with_interval("over_shifts", one.matched.less(test.chance)),
                "p": test.p,
                "verdict": one.verdict,
            }
        )
    return rows


def _over_time(inputs: EvaluationInputs, texts: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return matched cosines along each movie, a running mean over one group of frames."""
    positions = inputs.positions
    width = max(1, round(2 * inputs.positions_of_group))
    number = inputs.windows.frames.number[inputs.windows.data.frame[inputs.windows.rows]]
    rows: list[Row] = []
    for name in (TRUE_PATCHES, "all", "silent"):
        table = positions.table(inputs.likeness(texts[name])) / positions.n_windows[:, np.newaxis]
        for of_movie, lag in zip(positions.movies, inputs.minimal_lags, strict=True):
            part = table[np.ix_(of_movie, of_movie)]
            curves = np.stack([_smooth(_diagonal(part, k), width) for k in range(len(part))])
            far = curves[lag : len(part) - lag + 1]
            low, high = (
                np.quantile(far, (0.025, 0.975), axis=0)
                if len(far)
                else np.full((2, len(part)), np.nan)
            )
            window = positions.first_window[of_movie]
            rows += [
                {
                    "narrator": name,
                    "movie": inputs.movie_of_window[window[at]],
                    "frame": int(number[window[at]]),
                    "matched": float(curves[0, at]),
                    "shifted_low": float(low[at]),
                    "shifted_high": float(high[at]),
                }
                for at in range(len(of_movie))
            ]
    return rows


def _diagonal(table: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    rows = np.arange(len(table))
    return table[rows, (rows + k) % len(table)]


def _smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    kernel = np.ones(width)
    n_in = np.convolve(np.ones(len(values)), kernel, "same")
    smooth: NDArray[np.float64] = np.convolve(values, kernel, "same") / n_in
    return smooth


def _confidence(
    inputs: EvaluationInputs,
    narrated: Mapping[str, Sequence[Narrated]],
    texts: Mapping[str, Sequence[str]],
    whole: ScoredNarrators,
) -> tuple[list[Row], ShiftTest | None, str]:
    """Return how often narrations of each confidence are right; of all units test and sentence."""
    names = [name for name in inputs.selections if name not in CONTROLS]
    sure = np.array(
        [[_nan(one.confidence) for one in narrated[name]] for name in names], np.float64
    )
    if np.isnan(sure).all():
        return [], None, "the bundle has no calibrated confidence"
    right = np.stack([_is_right(inputs.likeness(texts[name]), inputs.positions) for name in names])
    of_frame = [whole.positions.mean(np.nan_to_num(each[0], nan=BEST)) for each in (sure, right)]
    test = shift_test(
        correlation_table(of_frame[0], of_frame[1]),
        whole.positions,
        minimal_lags=inputs.minimal_lags,
        seed=inputs.request.seed,
    )
    of_all = np.nan_to_num(sure.reshape(-1))
    draws = Draws(np.tile(whole.draws.group, len(names)), whole.draws.times)
    rows: list[Row] = []
    for low, high in pairwise(CONFIDENCE_EDGES):
        is_in = ((sure >= low) & ((sure < high) | (high == 1))).reshape(-1).astype(np.float64)
        if not is_in.any():
            continue
        rows.append(
            {
                "confidence_from": low,
                "confidence_to": high,
                "narrations": int(is_in.sum()),
                **with_interval("confidence", interval(draws.ratio(of_all * is_in, is_in))),
                **with_interval("right", interval(draws.ratio(right.reshape(-1) * is_in, is_in))),
            }
        )
    found = (
        f"all units: right in {right[0].mean():.0%} of the windows, mean confidence "
        f"{np.nanmean(sure[0]):.2f}; the two correlate with r = {test.value:.2f} over frames, "
        f"{p_text(test.p)}"
    )
    return rows, test, found


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _is_right(likeness: NDArray[np.float64], positions: Positions) -> NDArray[np.float64]:
    """Say of each window whether its own caption is among the best tenth of all, a tie in part."""
    own = likeness[np.arange(len(likeness)), positions.of_window][:, np.newaxis]
    better = (likeness > own + 1e-9).mean(axis=1)
    equal = (np.abs(likeness - own) <= 1e-9).mean(axis=1)
    right: NDArray[np.float64] = np.clip((BEST - better) / np.maximum(equal, 1e-12), 0, 1)
    return right


def _facts(
    inputs: EvaluationInputs,
    facts: Sequence[Facts],
    texts: Mapping[str, Sequence[str]],
    whole: ScoredNarrators,
) -> list[Row]:
    rows: list[Row] = []
    for name, sentences in texts.items():
        of_scores = tallies(facts, list(sentences), seed=inputs.request.seed)
        for measure in SCORES:
            found = score(of_scores[measure], whole.draws)
            rows.append(
                {
                    "narrator": name,
                    "measure": measure,
                    "value": found.value,
                    "value_low": found.low,
                    "value_high": found.high,
                    "shuffled": found.chance,
                    "windows": found.n,
                }
            )
    return rows


def _sentences(inputs: EvaluationInputs, texts: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return every window with its caption and what each narrator wrote."""
    labels, captions = inputs.windows.labels, inputs.windows.captions
    return [
        {
            "frame": labels[window],
            "caption": captions[window],
            **{name: sentences[window] for name, sentences in texts.items()},
        }
        for window in range(len(captions))
    ]


def _findings(whole: ScoredNarrators) -> list[str]:
    found = []
    for name in ("all", RETRIEVAL, MEAN_PATCHES, "silent"):
        one, test = whole.scores[name], whole.tests[name]
        found.append(
            f"{name}: matched {one.matched}, shuffled {one.chance}, floor {one.floor}; "
            f"{p_text(test.p)} over {test.n_shifts:,} shifts; {one.n_different} different "
            f"sentence{'s' * (one.n_different != 1)} in {whole.n_windows} windows"
        )
    at_chance = [name for name, one in whole.scores.items() if one.verdict == "at chance"]
    found.append(f"at chance, by the interval of the lead: {', '.join(at_chance) or 'none'}")
    return found


def _fact_finding(inputs: EvaluationInputs) -> list[str]:
    if inputs.request.facts is None:
        return ["no fact scores: name a folder of MOVIE_facts.jsonl with --facts, if there is one"]
    return []
