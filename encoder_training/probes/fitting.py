"""Concept probes: the probability that a concept, such as a car, is in the frame.

A probe is a linear function of the mean patch of the predicted grid, which the daemon has at hand
long before a sentence is written. It is learned on training windows through random
populations, and calibrated on validation windows for each population by itself: the same embedding
means less with fewer units. A probability is
``sigmoid(scale * (weight @ mean_patch + bias) + offset)``.

References
----------
Alain and Bengio, 2016: linear probes. Platt, 1999: the calibration (calibration.py).
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # noqa: TID253 - this module runs the encoder
from numpy.typing import NDArray
from scipy.special import expit

from contracts.errors import DependencyError
from contracts.progress import ProgressBar
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.training_set import Scaling, Split, TrainingSet, thinned
from encoder_training.evaluation.bootstrap import Draws, Interval, draw_groups, interval
from encoder_training.evaluation.masked_encoder import MaskedEncoder, batches, populations
from encoder_training.evaluation.movie_runs import bootstrap_groups
from encoder_training.evaluation.movie_time import movie_time
from encoder_training.masking import MaskingOptions, PopulationMasks
from encoder_training.model import EncoderNetwork
from encoder_training.probes.calibration import (
    areas_under_curve,
    log_loss,
    platt,
    reliability,
    roc,
)
from encoder_training.probes.concepts import check_concepts, choose_concepts, label_frames
from encoder_training.probes.probe_files import FittedProbes, ProbeTest, load_probes, save_probes

MAX_WINDOWS = 2000
"""Most training windows, each once through all units and once through a random population; and
most validation and test windows for all units. Evenly thinned."""

MAX_POPULATION_WINDOWS = 500
"""Validation and test windows for each area and cell type: with a dozen of them, the encoder would
spend nine tenths of its time here."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strength of the penalty, to choose from on validation."""

N_DRAWS = 500
"""Of the bootstrap of an area under a curve."""

__all__ = ["FittedProbes", "ProbeTest", "fit_probes", "load_probes", "save_probes"]


def fit_probes(
    prepared: PreparedSet,
    data: TrainingSet,
    parts: Split,
    encoder: EncoderNetwork,
    scaling: Scaling,
    *,
    concepts: Sequence[str] | None = None,
    seed: int = 0,
    max_windows: int = MAX_WINDOWS,
    max_population_windows: int = MAX_POPULATION_WINDOWS,
    masking: MaskingOptions | None = None,
) -> FittedProbes:
    """Learn, calibrate and test probes.

    They are learned on the training windows through random populations as in `masking`, calibrated
    on validation and tested on test windows. Without captions the result has no concepts.

    Raises
    ------
    DependencyError
        If scikit-learn is not installed.
    UserError
        If a named concept is in none of the captions of training frames, or in all.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise DependencyError(
            "Concept probes need scikit-learn. Run: pip install 'neurrate[train]'."
        )
    captions = prepared.frames.captions
    label = np.array([bool(caption) for caption in captions])
    train, validation, test = (
        thinned(rows[label[data.frame[rows]]], max_windows)
        for rows in (parts.train, parts.validation, parts.test)
    )
    seen = np.unique(data.frame[parts.train])
    if concepts is None:
        concepts = choose_concepts([captions[row] for row in seen])
    labels = label_frames(captions, concepts)
    check_concepts(concepts, [captions[row] for row in seen])
    selections = populations(data.population)
    if not concepts:
        return _without_concepts(selections, data.targets.shape[2])
    few = tuple(thinned(rows, max_population_windows) for rows in (validation, test))
    used = {name: (validation, test) if name == "all" else few for name in selections}
    random = PopulationMasks(data.population, masking or MaskingOptions()).draw(
        len(train), np.random.default_rng([seed, 4])
    )
    predictor = _MeanPatches(data, encoder, scaling)
    n_predicted = 2 * len(train) + sum(len(rows) for pair in used.values() for rows in pair)
    with ProgressBar(total=n_predicted, desc="probing", unit="window") as bar:
        learned = np.concatenate(
            [predictor.through(train, mask, bar) for mask in (np.ones_like(random), random)]
        )
        predicted = {
            name: [predictor.through(rows, selection.mask, bar) for rows in used[name]]
            for name, selection in selections.items()
        }
    is_named = np.tile(labels[data.frame[train]], (2, 1)) == 1
    truth_of = {name: [labels[data.frame[rows]] == 1 for rows in used[name]] for name in selections}
    weight, bias, strength = _learn(learned, is_named, predicted["all"][0], truth_of["all"][0])
    time = movie_time(prepared)
    n_independent = len(np.unique(bootstrap_groups(data, validation, time)[0]))
    draws = {
        len(rows): draw_groups(bootstrap_groups(data, rows, time)[0], seed=seed, n_draws=N_DRAWS)
        for rows in (test, few[1])
    }
    scores = {
        name: [grid.astype(np.float64) @ weight.T + bias for grid in grids]
        for name, grids in predicted.items()
    }
    scale, offset, tested = _calibrated_and_tested(concepts, scores, truth_of, n_independent, draws)
    auc = np.array([test.auc.value for test in tested]).reshape(scale.shape)
    return FittedProbes(
        tuple(concepts),
        tuple(selections),
        weight.astype(np.float32),
        bias.astype(np.float32),
        scale.astype(np.float32),
        offset.astype(np.float32),
        auc.astype(np.float32),
        strength,
        tuple(tested),
    )


def _calibrated_and_tested(
    concepts: Sequence[str],
    scores: dict[str, list[NDArray[np.float64]]],
    truth_of: dict[str, list[NDArray[np.bool_]]],
    n_independent: int,
    draws: dict[int, Draws],
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[ProbeTest]]:
    """Return scale and offset, shape (n_populations, n_concepts), and the tests row by row.

    Scores and truth are of the validation and the test windows of each population.
    """
    scale = np.ones((len(scores), len(concepts)))
    offset = np.zeros_like(scale)
    tested = []
    for row, (name, (of_validation, of_test)) in enumerate(scores.items()):
        chosen_by, truth = truth_of[name]
        for column, concept in enumerate(concepts):
            is_mixed = len(np.unique(chosen_by[:, column])) == 2
            if is_mixed:
                scale[row, column], offset[row, column] = platt(
                    of_validation[:, column], chosen_by[:, column], n_independent=n_independent
                )
            calibrated = scale[row, column], offset[row, column], is_mixed
            score, label = of_test[:, column], truth[:, column]
            tested.append(_test(concept, name, score, label, calibrated, draws[len(truth)]))
    return scale, offset, tested


class _MeanPatches:
    """The mean patches that the encoder predicts."""

    def __init__(self, data: TrainingSet, encoder: EncoderNetwork, scaling: Scaling) -> None:
        self._data = data
        self._encoder = MaskedEncoder(encoder, scaling, data.population.select("all"))

    def through(
        self, rows: NDArray[np.int64], mask: NDArray[np.bool_], bar: ProgressBar
    ) -> NDArray[np.float32]:
        """Return mean patches, shape (n, dim), through one mask or one for each window."""
        masks = np.broadcast_to(mask, (len(rows), self._data.n_units))
        means = [np.empty((0, self._data.targets.shape[2]), np.float32)]
        done = 0
        for some in batches(rows, self._data.targets.shape[1:]):
            selected = torch.from_numpy(masks[done : done + len(some)].astype(np.float32))
            means.append(self._encoder.through(self._data.counts_of(some), selected).mean(axis=1))
            done += len(some)
            bar.update(len(some))
        return np.concatenate(means)


def _learn(
    learned: NDArray[np.float32],
    is_named: NDArray[np.bool_],
    validation: NDArray[np.float32],
    truth: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, ...]]:
    """Fit one probe for each concept, standardized, and fold the scale into its weight."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean = learned.mean(axis=0, dtype=np.float64)
    std = np.maximum(learned.std(axis=0, dtype=np.float64), 1e-9)
    x, x_validation = ((values - mean) / std for values in (learned, validation))
    weights, biases, strengths = [], [], []
    for column in range(is_named.shape[1]):
        y, y_validation = is_named[:, column], truth[:, column]
        best: tuple[float, Any, float] | None = None
        for strength in STRENGTHS:
            with warnings.catch_warnings():  # a probe that has nearly converged serves as well
                warnings.simplefilter("ignore", ConvergenceWarning)
                probe = LogisticRegression(C=strength, max_iter=200).fit(x, y)
            loss = log_loss(expit(probe.decision_function(x_validation)), y_validation)
            if best is None or loss < best[0]:
                best = loss, probe, strength
        _, probe, strength = best  # type: ignore[misc]
        weight = probe.coef_[0] / std
        weights.append(weight)
        biases.append(float(probe.intercept_[0]) - float(weight @ mean))
        strengths.append(strength)
    return np.array(weights), np.array(biases), tuple(strengths)


def _test(
    concept: str,
    population: str,
    score: NDArray[np.float64],
    truth: NDArray[np.bool_],
    calibrated: tuple[float, float, bool],
    draws: Draws,
) -> ProbeTest:
    scale, offset, is_calibrated = calibrated
    probability = expit(scale * score + offset)
    binned = reliability(probability, truth)
    is_mixed = len(np.unique(truth)) == 2
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    return ProbeTest(
        concept=concept,
        population=population,
        n=len(truth),
        n_with=int(truth.sum()),
        auc=interval(areas_under_curve(score, truth, draws)) if is_mixed else nothing,
        log_loss=log_loss(probability, truth) if len(truth) else float("nan"),
        log_loss_uncalibrated=log_loss(expit(score), truth) if len(truth) else float("nan"),
        calibration_error=binned.error,
        is_calibrated=is_calibrated,
        reliability=binned,
        roc=roc(score, truth) if is_mixed else ((), ()),
    )


def _without_concepts(selections: dict[str, Any], dim: int) -> FittedProbes:
    no_scores = np.empty((len(selections), 0), np.float32)
    return FittedProbes(
        (), tuple(selections), np.empty((0, dim), np.float32), np.empty(0, np.float32),
        no_scores, no_scores, no_scores,
    )  # fmt: skip
