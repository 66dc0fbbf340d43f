"""What regions and cell types say alike and apart: figures 5 to 7 of the paper.

Every population is cut to as many units as the smallest has, at random: a larger one says more, and
would be apart for that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.population import CONTROLS, Selection
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Draws, interval
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.questions import populations_figures as figures
from evaluation.questions.answer import Answer, Row, interval_of, p_text, with_interval
from evaluation.questions.apart import contrasts
from evaluation.questions.chance import (
    ShiftTest,
    block_draws,
    block_length,
    correlation_table,
    shift_test,
)
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.narration_store import Source
from evaluation.questions.text_classifier import TextClassification, classify
from evaluation.scores import own_and_others

CONCEPTS = ("darkness or shadows", "a car or vehicle")
"""Of the paper's figure 7."""

FEWEST_UNITS = 10
"""Of a population that is compared."""

KINDS = {"area": "areas", "cell_type": "cell types"}
N_EXCERPTS = 8
SUBSET_STREAM = 15


@dataclass(frozen=True, slots=True, eq=False)
class NarratedPopulations:
    """Populations of equal size, and the controls, on the same windows."""

    n_units: int
    sets: Mapping[str, Selection]  # Without the controls
    texts: Mapping[str, tuple[str, ...]]
    vectors: Mapping[str, NDArray[np.float64]]  # (n_windows, dim)
    draws: Draws

    def of_kind(self, kind: str) -> list[str]:
        """Return the populations of a kind, ``area`` or ``cell_type``."""
        return [name for name in self.texts if name.startswith(f"{kind}:")]


def regions_and_types(inputs: EvaluationInputs) -> Answer:
    """Answer the question.

    Raises
    ------
    UserError
        If there are fewer than two areas or cell types with enough units.
    """
    narrated = _narrate(inputs)
    matrix = _matrix(narrated)
    apart = [
        row
        for kind in KINDS
        for row in contrasts(
            inputs,
            {name: narrated.sets[name] for name in narrated.of_kind(kind)},
            narrated.vectors,
            narrated.draws,
        )
    ]
    concepts, concept_tests = _concepts(inputs, narrated)
    found = {
        kind: classify(
            {name: narrated.texts[name] for name in narrated.of_kind(kind)},
            inputs.positions,
            narrated.draws,
            seed=inputs.request.seed,
        )
        for kind in KINDS
        if len(narrated.of_kind(kind)) > 1
    }
    tables: dict[str, Sequence[Row]] = {
        "similarity": matrix,
        "apart": apart,
        "concepts-over-time": concepts,
        "concepts": concept_tests,
        "classifier": [_classifier_row(kind, one) for kind, one in found.items()],
        "confusion": [row for kind, one in found.items() for row in _confusion_rows(kind, one)],
        "excerpts": _excerpts(inputs, narrated),
    }
    return Answer(
        name="regions-and-types",
        title="Regions and cell types: which narrations are alike, and what tells them apart?",
        findings=(*_findings(narrated, apart, concept_tests, found), *_left_out(inputs, narrated)),
        tables={name: rows for name, rows in tables.items() if rows},
        figures=figures.population_figures(
            tables, found, narrated.n_units, len(inputs.windows.rows), len(inputs.positions)
        ),
    )


def _narrate(inputs: EvaluationInputs) -> NarratedPopulations:
    sets = equal_populations(inputs)
    controls = [inputs.selections[name] for name in CONTROLS if name in inputs.selections]
    sources: list[Source] = [*sets.values(), *controls, TRUE_PATCHES]
    texts = {name: tuple(one.text for one in of) for name, of in inputs.narrate(sources).items()}
    vectors = {name: inputs.sentences.vectors(of) for name, of in texts.items()}
    positions = inputs.positions
    lengths = [inputs.positions_of_group]
    for name in sets:
        cosines = np.einsum("nd,nd->n", vectors[name], vectors[TRUE_PATCHES])
        lengths.append(block_length(positions.mean(cosines)))
    draws = block_draws(positions, max(lengths), seed=inputs.request.seed)
    n_units = next(iter(sets.values())).n_units
    return NarratedPopulations(n_units, sets, texts, vectors, draws)


def equal_populations(inputs: EvaluationInputs) -> dict[str, Selection]:
    """Return areas and cell types, each cut at random to as many units as the smallest has.

    Raises
    ------
    UserError
        If there are fewer than two areas or cell types with enough units.
    """
    compared = {
        name: one
        for name, one in inputs.selections.items()
        if name.partition(":")[0] in KINDS and one.n_units >= FEWEST_UNITS
    }
    if len(compared) < 2:
        raise UserError(
            f"a comparison needs two areas or cell types of {FEWEST_UNITS} units or more, and the "
            f"bundle {inputs.request.bundle} has {len(compared)}. Label the units of the recording "
            "by area or cell_type, or leave this question out."
        )
    n_units = min(one.n_units for one in compared.values())
    return {name: _cut(one, n_units, seed=inputs.request.seed) for name, one in compared.items()}


def _cut(selection: Selection, n_units: int, *, seed: int) -> Selection:
    """Return some of its units, under the same name."""
    rng = np.random.default_rng([seed, SUBSET_STREAM])
    mask = np.zeros_like(selection.mask)
    mask[rng.choice(np.flatnonzero(selection.mask), n_units, replace=False)] = True
    return Selection(selection.name, "units", mask, selection.label)


def _matrix(narrated: NarratedPopulations) -> list[Row]:
    """Compare each pair on the same windows, and on other ones."""
    rows: list[Row] = []
    for one, other in combinations(narrated.texts, 2):
        cosines = narrated.vectors[one] @ narrated.vectors[other].T
        same, elsewhere = own_and_others(cosines)
        rows.append(
            {
                "one": one,
                "other": other,
                **with_interval("same_window", interval(narrated.draws.ratio(same))),
                "other_windows": float(elsewhere.mean()),
                **with_interval("lead", interval(narrated.draws.ratio(same - elsewhere))),
            }
        )
    return rows


def _concepts(
    inputs: EvaluationInputs, narrated: NarratedPopulations
) -> tuple[list[Row], list[Row]]:
    """Follow the similarity to concept sentences, and correlate it with that of the captions."""
    positions = inputs.positions
    number = inputs.windows.frames.number[inputs.windows.data.frame[inputs.windows.rows]]
    over_time: list[Row] = []
    tests: list[Row] = []
    names = [*narrated.of_kind("cell_type"), *narrated.of_kind("area"), *CONTROLS]
    for concept, vector in zip(CONCEPTS, inputs.sentences.vectors(CONCEPTS), strict=True):
        shown = inputs.caption_vectors @ vector
        traces = {
            name: positions.mean(narrated.vectors[name] @ vector)
            for name in names
            if name in narrated.vectors
        }
        for name, trace in {"caption": shown, **traces}.items():
            over_time += [
                {
                    "concept": concept,
                    "population": name,
                    "movie": inputs.movie_of_window[window],
                    "frame": int(number[window]),
                    "cosine": float(value),
                }
                for window, value in zip(positions.first_window.tolist(), trace, strict=True)
            ]
            if name == "caption":
                continue
            test = shift_test(
                correlation_table(trace, shown),
                positions,
                minimal_lags=inputs.minimal_lags,
                seed=inputs.request.seed,
            )
            tests.append({"concept": concept, "population": name, **_test_columns(test)})
    return over_time, tests


def _test_columns(test: ShiftTest) -> Row:
    low, high = test.band
    return {"r": test.value, "shifted_low": low, "shifted_high": high, "p": test.p}


def _classifier_row(kind: str, found: TextClassification) -> Row:
    low, high = np.quantile(found.null, (0.025, 0.975))
    return {
        "kind": KINDS[kind],
        "classes": len(found.names),
        **with_interval("accuracy", found.accuracy),
        "chance": 1 / len(found.names),
        "permuted_low": float(low),
        "permuted_high": float(high),
        "blocks": found.n_blocks,
        "p": found.p,
    }


def _confusion_rows(kind: str, found: TextClassification) -> list[Row]:
    return [
        {"kind": KINDS[kind], "true": one, "called": other, "share": float(found.confusion[i, j])}
        for i, one in enumerate(found.names)
        for j, other in enumerate(found.names)
    ]


def _excerpts(inputs: EvaluationInputs, narrated: NarratedPopulations) -> list[Row]:
    at = thinned(np.arange(len(inputs.windows.rows)), N_EXCERPTS).tolist()
    labels, captions = inputs.windows.labels, inputs.windows.captions
    return [
        {
            "frame": labels[window],
            "caption": captions[window],
            **{name: of[window] for name, of in narrated.texts.items()},
        }
        for window in at
    ]


def _findings(
    narrated: NarratedPopulations,
    apart: Sequence[Row],
    concepts: Sequence[Row],
    classified: Mapping[str, TextClassification],
) -> list[str]:
    found = [f"every population is cut to {narrated.n_units} units"]
    found.extend(
        f"{row['population']}: the others are more alike among themselves than to it by "
        f"{interval_of(row, 'apart')}, {p_text(float(str(row['p'])))} of "
        f"{row['random_populations']} populations of random units"
        for row in apart
    )
    for kind, one in classified.items():
        found.append(
            f"text alone tells {len(one.names)} {KINDS[kind]} with an accuracy of {one.accuracy}, "
            f"chance {1 / len(one.names):.3f}, {p_text(one.p)}"
        )
    found.extend(
        f"'{row['concept']}', {row['population']}: r = {float(str(row['r'])):.2f} with the "
        f"captions over frames, {p_text(float(str(row['p'])))}"
        for row in concepts
        if str(row["population"]).startswith("cell_type:")
    )
    return found


def _left_out(inputs: EvaluationInputs, narrated: NarratedPopulations) -> list[str]:
    """Say which populations are not compared, and why."""
    small = [
        f"{name} ({one.n_units})"
        for name, one in inputs.selections.items()
        if name.partition(":")[0] in KINDS and name not in narrated.sets
    ]
    alone = [KINDS[kind] for kind in KINDS if len(narrated.of_kind(kind)) < 2]
    return [
        *([f"left out, with fewer than {FEWEST_UNITS} units: {', '.join(small)}"] if small else []),
        *(f"{kind} are not compared, as fewer than two have the units" for kind in alone),
    ]
