"""Evaluate an encoder, baselines and two controls on windows that none of them has seen.

Why these scores, these windows and these chances: docs/decisions/0013-evaluation-of-encoders.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from contracts.population import Selection
from contracts.progress import ProgressBar
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import Scaling, Split, TrainingSet, thinned
from encoder_training.evaluation.baselines import FITS, BaselineData, BaselineDecoder
from encoder_training.evaluation.baselines.decoder import MeanPatches
from encoder_training.evaluation.bootstrap import Draws, draw_groups, interval
from encoder_training.evaluation.masked_encoder import MaskedEncoder, populations
from encoder_training.evaluation.movie_runs import bootstrap_groups
from encoder_training.evaluation.results import (
    METRICS,
    SHUFFLED_UNITS,
    EncoderResults,
    MethodScores,
    OverTime,
    PairedDifference,
)
from encoder_training.evaluation.scoring import EvaluationSet, WindowScores
from encoder_training.model import EncoderNetwork

MAX_WINDOWS = 2000
"""Most test windows to evaluate on, evenly thinned."""

MAX_POPULATION_WINDOWS = 500
"""The same for each area and cell type: there may be a dozen, each with all methods."""

BIN_S = 1.0
"""Of movie time in the figures over time; longer movies have `MOST_BINS` longer bins."""

MOST_BINS = 60


def evaluate_encoder(
    prepared: PreparedSet,
    data: TrainingSet,
    parts: Split,
    encoder: EncoderNetwork,
    scaling: Scaling,
    *,
    seed: int = 0,
    max_windows: int = MAX_WINDOWS,
) -> EncoderResults:
    """Evaluate on the test windows.

    Baselines are fitted on the training windows and choose their settings on validation. The
    encoder gives patches on their own scale, and runs on the device that it is on. `scaling` is of
    the training windows' counts; every method uses it.
    """
    test = EvaluationSet.of(prepared, data, parts, thinned(parts.test, max_windows))
    few = test.thinned(MAX_POPULATION_WINDOWS)
    group, drawn = bootstrap_groups(data, test.rows, test.time)
    draws = {test: draw_groups(group, seed=seed)}
    draws[few] = draw_groups(bootstrap_groups(data, few.rows, test.time)[0], seed=seed)
    selections = populations(data.population)
    n_scored = len(test.rows) * (3 + len(FITS))
    n_scored += len(few.rows) * (len(selections) - 1) * (1 + len(FITS))
    resampled: list[_ResampledScores] = []
    with ProgressBar(total=n_scored, desc="evaluating", unit="window") as bar:
        for population, selection in selections.items():
            bar.set_postfix_str(population)
            training = BaselineData(
                data, parts.train, parts.validation, scaling, selection.mask, test.space
            )
            scored_on = test if population == "all" else few
            for decoder in _decoders(training, encoder, population, selection):
                by_patches = scored_on.decides_by_patches(decoder, training.chosen_by)
                scored = scored_on.score(decoder, bar)
                if by_patches:
                    scored = replace(scored, answer=scored.answer_by_patches)
                resampled.append(
                    _ResampledScores(
                        decoder,
                        population,
                        selection,
                        scored,
                        draws[scored_on],
                        scored_on,
                        by_patches,
                    )
                )
    through_all = [method for method in resampled if method.population == "all"]
    return EncoderResults(
        n_windows=len(test.rows),
        n_population_windows=len(few.rows),
        n_test_windows=len(parts.test),
        n_frames=len(test.candidates),
        n_unseen=int((~np.isin(test.candidates, data.frame[parts.train])).sum()),
        n_drawn=draws[test].n_groups,
        drawn=drawn,
        lag_ms=data.window.lag_ns / 1e6,
        seed=seed,
        period_s=test.time.period_s,
        methods=tuple(method.scores for method in through_all),
        populations=tuple(method.scores for method in resampled if method.population != "all"),
        ahead=_ahead(resampled),
        over_time=_over_time(prepared, test, through_all),
    )


def _decoders(
    training: BaselineData, encoder: EncoderNetwork, population: str, selection: Selection
) -> list[BaselineDecoder]:
    """Return the encoder and the baselines, and through all units the controls."""
    scaling, units = training.scaling, training.data.population
    decoders: list[BaselineDecoder] = [MaskedEncoder(encoder, scaling, selection)]
    decoders += [fit(training) for fit in FITS.values()]
    if population == "all":
        decoders.append(MeanPatches(training.data.targets, training.train_frames))
        if len(units) > 1:
            shuffled = units.select("shuffled")
            decoders.append(MaskedEncoder(encoder, scaling, shuffled, SHUFFLED_UNITS))
    return decoders


class _ResampledScores:
    """One method through one population, in every draw of the bootstrap."""

    def __init__(
        self,
        decoder: BaselineDecoder,
        population: str,
        selection: Selection,
        scored: WindowScores,
        draws: Draws,
        test: EvaluationSet,
        by_patches: bool,
    ) -> None:
        self.name, self.population, self.answer = decoder.name, population, scored.answer
        is_right = [
            test.time.is_near(answer, test.true).astype(np.float64)
            for answer in (scored.answer, scored.answer_by_patches)
        ]
        of_answers = test.time.chance_of_answers(scored.answer, test.true)
        n = len(test.candidates)
        self.is_right = is_right[0]
        self.values = {
            "patch_mse": draws.ratio(scored.error),
            "skill": 1 - draws.ratio(scored.error, test.mean_error()),
            "raw_cosine": draws.ratio(scored.raw_cosine),
            "cosine": draws.ratio(scored.cosine),
            "rank": draws.median(scored.ranks.rank) / n,
            "top1": draws.ratio(scored.ranks.top1),
            "top5": draws.ratio(scored.ranks.top5),
            "within_1s": draws.ratio(is_right[0]),
            "within_1s_by_patches": draws.ratio(is_right[1]),
            "within_1s_above_chance": draws.ratio(is_right[0] - of_answers),
        }
        self.scores = MethodScores(
            decoder.name,
            population,
            selection.n_units,
            _chosen(decoder, by_patches),
            {name: interval(self.values[name]) for name in METRICS},
            {
                "rank": (n + 1) / 2 / n,
                "top1": 1 / n,
                "top5": min(1.0, 5 / n),
                "within_1s": float(test.time.chance(test.true).mean()),
                "within_1s_answers": float(of_answers.mean()),
            },
        )


def _chosen(decoder: BaselineDecoder, by_patches: bool) -> str:
    settings = getattr(decoder, "chosen", "")
    if not settings or not getattr(decoder, "decides", False):
        return settings
    return f"{settings}; frames by {'patches' if by_patches else 'its own decision'}"


def _ahead(resampled: Sequence[_ResampledScores]) -> tuple[PairedDifference, ...]:
    encoders = {method.population: method for method in resampled if method.name == "encoder"}
    return tuple(
        PairedDifference(
            other.name,
            other.population,
            {
                name: interval(encoders[other.population].values[name] - other.values[name])
                for name in METRICS
            },
        )
        for other in resampled
        if other.name != "encoder"
    )


def _over_time(
    prepared: PreparedSet, test: EvaluationSet, resampled: Sequence[_ResampledScores]
) -> OverTime | None:
    has_time = ~np.isnan(test.time.time_s[test.true])
    if not has_time.any():
        return None
    movie = np.bincount(test.time.movie[test.true[has_time]]).argmax()
    own = test.time.movie[test.true] == movie
    true_s = test.time.time_s[test.true[own]]
    all_s = test.time.time_s[test.time.movie == movie]
    lasts_s = all_s.max() - all_s.min()
    n_bins = int(np.clip(np.ceil(lasts_s / BIN_S), 1, MOST_BINS))
    edge_s = np.linspace(all_s.min(), all_s.max() + 1e-6, n_bins + 1)
    n, _ = np.histogram(true_s, edge_s)
    accuracy, decoded = {}, {}
    for method in resampled:
        right, _ = np.histogram(true_s, edge_s, weights=method.is_right[own])
        share = np.divide(right, n, out=np.full(n_bins, np.nan), where=n > 0)
        answer_s = test.time.time_s[method.answer[own]]
        table, _, _ = np.histogram2d(true_s, answer_s, (edge_s, edge_s))
        accuracy[method.name] = tuple(share.tolist())
        decoded[method.name] = tuple(tuple(row) for row in table.astype(int).tolist())
    return OverTime(
        prepared.frames.movies[movie],
        tuple(edge_s.tolist()),
        tuple(n.tolist()),
        accuracy,
        decoded,
    )
