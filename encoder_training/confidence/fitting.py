"""Fits the calibration of confidence on validation windows, and tests it on test windows.

Why these features, this probability and these populations: docs/decisions/0026-confidence.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.confidence import ConfidenceModel, WindowFeatures
from contracts.population import Population, Selection, random_cycle
from contracts.progress import ProgressBar
from encoder_training.confidence.decoding import DecodedWindows, WindowDecoder
from encoder_training.confidence.guessed_sigmoid import fit_guessed_sigmoid
from encoder_training.confidence.results import (
    ConfidenceTest,
    FittedConfidence,
    SelectiveAccuracy,
    measure_confidence,
    selective_accuracy,
)
from encoder_training.confidence.window_features import learn_window_features
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import Scaling, Split, TrainingSet, thinned
from encoder_training.evaluation.bootstrap import draw_groups
from encoder_training.evaluation.masked_encoder import populations
from encoder_training.evaluation.movie_runs import bootstrap_groups
from encoder_training.evaluation.scoring import EvaluationSet
from encoder_training.masking import MaskingOptions, PopulationMasks
from encoder_training.model import EncoderNetwork

MAX_WINDOWS = 2000
"""Validation windows through a population drawn at random; where there are fewer, each is taken
several times."""

SHUFFLED_SHARE = 0.2
"""Of further windows through shuffled units: twice what a display of ten populations shows, since
to be sure of a control is the worst that a reader can be told."""

N_ORDERS = 4
"""Random orders of the shuffled units. The daemon's own is not among them: the test has it."""

MAX_POPULATION_WINDOWS = 500
"""Test windows of each population."""

N_DRAWS = 500
"""Of the bootstrap."""


def fit_confidence(
    prepared: PreparedSet,
    data: TrainingSet,
    parts: Split,
    encoder: EncoderNetwork,
    scaling: Scaling,
    *,
    seed: int = 0,
    masking: MaskingOptions | None = None,
    max_windows: int = MAX_WINDOWS,
    max_population_windows: int = MAX_POPULATION_WINDOWS,
) -> FittedConfidence:
    """Fit on validation windows through populations drawn as in training, test on test windows.

    There is no calibration, and the reason is stated, where validation windows are one group, or
    all decoded right or all wrong.
    """
    held_out = EvaluationSet.of(
        prepared, data, parts, np.concatenate([parts.validation, parts.test])
    )
    features = learn_window_features(data, parts.train, scaling, held_out.targets)
    few = thinned(parts.test, max_population_windows)
    selections = _tested_populations(data.population)
    n_shuffled = round(SHUFFLED_SHARE * max_windows) if data.n_units > 1 else 0
    n_decoded = max_windows + n_shuffled + len(few) * len(selections)
    with ProgressBar(total=n_decoded, desc="calibrating", unit="window") as bar:
        decoder = WindowDecoder(held_out, encoder, scaling, features, bar)
        random_masks = PopulationMasks(data.population, masking or MaskingOptions())
        rng = np.random.default_rng([seed, 5])
        learned = _decoded_at_random(
            decoder, parts.validation, random_masks, max_windows, n_shuffled, rng
        )
        tested = {name: decoder.through(few, one) for name, one in selections.items()}
    n_groups = len(np.unique(bootstrap_groups(data, parts.validation, held_out.time)[0]))
    n_candidates = len(held_out.candidates)
    if reason := _problem(learned, n_groups):
        return FittedConfidence(None, reason, len(learned.rows), n_groups, n_candidates)
    model = _fitted(features, learned, n_groups)
    group = bootstrap_groups(data, few, held_out.time)[0]
    tests, pooled, selective = _tested(model, tested, group, seed)
    return FittedConfidence(
        model, "", len(learned.rows), n_groups, n_candidates, pooled, selective, tests
    )


def _tested_populations(population: Population) -> dict[str, Selection]:
    """Return all units, areas and cell types, and the controls."""
    controls = {name: population.select(name) for name in population.controls}
    return {**populations(population), **controls}


def _drawn_windows(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return n windows, spread evenly; few windows several times."""
    if len(rows) >= n:
        return thinned(rows, n)
    return np.sort(np.concatenate([np.tile(rows, n // len(rows)), rng.choice(rows, n % len(rows))]))


def _decoded_at_random(
    decoder: WindowDecoder,
    rows: NDArray[np.int64],
    random_masks: PopulationMasks,
    n: int,
    n_shuffled: int,
    rng: np.random.Generator,
) -> DecodedWindows:
    """Decode n windows through populations drawn at random, and further ones shuffled.

    A shuffled window goes through all units in a random order, in which none keeps its place.
    """
    drawn = _drawn_windows(rows, n, rng)
    masks = random_masks.draw(n, rng)
    decoded = [decoder.through_masks(drawn, masks)]
    n_units = masks.shape[1]
    for _ in range(N_ORDERS if n_shuffled else 0):
        order = random_cycle(n_units, rng)
        some = rng.choice(rows, -(-n_shuffled // N_ORDERS))
        everyone = np.ones((len(some), n_units), dtype=np.bool_)
        decoded.append(decoder.through_masks(some, everyone, order))
    return DecodedWindows.joined(decoded)


def _problem(learned: DecodedWindows, n_groups: int) -> str:
    """Return why no calibration can be fitted; empty if one can."""
    if n_groups < 2:
        return (
            "validation windows are of one group, so that nothing tells what holds for another; "
            "hold out more for validation"
        )
    if not np.isfinite(learned.features).all():
        return "the encoder gives numbers that are not finite; train with a smaller learning rate"
    if learned.right.min() == learned.right.max():
        what = "right" if learned.right[0] > 0.5 else "wrong"
        return f"every validation window is decoded {what}; hold out more frames"
    return ""


def _fitted(features: WindowFeatures, learned: DecodedWindows, n_groups: int) -> ConfidenceModel:
    centre, spread, weight, offset = fit_guessed_sigmoid(
        learned.features, learned.right, n_independent=n_groups
    )
    return ConfidenceModel(features, centre, spread, weight, offset)


def _tested(
    model: ConfidenceModel,
    tested: dict[str, DecodedWindows],
    group: NDArray[np.int64],
    seed: int,
) -> tuple[tuple[ConfidenceTest, ...], ConfidenceTest, SelectiveAccuracy]:
    draws = draw_groups(group, seed=seed, n_draws=N_DRAWS)
    probability = {name: model.probability(one.features) for name, one in tested.items()}
    tests = tuple(
        measure_confidence(name, probability[name], one.right, draws)
        for name, one in tested.items()
    )
    # A group is drawn with all its populations.
    pooled_draws = draw_groups(np.tile(group, len(tested)), seed=seed, n_draws=N_DRAWS)
    every = np.concatenate(list(probability.values()))
    right = np.concatenate([one.right for one in tested.values()])
    pooled = measure_confidence("pooled", every, right, pooled_draws)
    return tests, pooled, selective_accuracy(every, right, pooled_draws)
