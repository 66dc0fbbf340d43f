"""Whether a population narrates apart from others of its kind, beside ones of random units.

That narrations of two populations have their frames in common is known here, so that circular
shifts are no null: they would call any small difference between any two sets of units an effect.
The labels are what is tested. The units of a kind are divided at random into as many populations
of the same size, and narrate the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from contracts.population import Selection
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Draws, interval
from evaluation.questions.answer import Row, with_interval
from evaluation.questions.inputs import EvaluationInputs
from evaluation.scores import own_and_others

FEWEST_RANDOM = 39
"""Populations of random units, so that p can be 1/40."""

MOST_WINDOWS = 200
"""Of the comparison with them, evenly thinned, on both sides."""

DIVISION_STREAM = 18


def contrasts(
    inputs: EvaluationInputs,
    sets: Mapping[str, Selection],
    vectors: Mapping[str, NDArray[np.float64]],
    draws: Draws,
) -> list[Row]:
    """Ask of each population of a kind whether the others are more alike among themselves.

    `sets` are the populations of one kind, all of one size; `vectors` has the narrations of each,
    shape (n_windows, dim). No rows for fewer than three populations.
    """
    if len(sets) < 3:
        return []
    some = thinned(np.arange(len(inputs.windows.rows)), MOST_WINDOWS)
    null = _of_random_units(inputs, sets, some)
    leads = pair_leads([vectors[name] for name in sets])
    on_some = pair_leads([vectors[name][some] for name in sets])
    low, high = np.quantile(null, (0.025, 0.975)).tolist()
    rows: list[Row] = []
    for at, name in enumerate(sets):
        n_as_far = np.count_nonzero(null >= apart(on_some, at).mean())
        rows.append(
            {
                "population": name,
                "compared_with": len(sets) - 1,
                **with_interval("apart", interval(draws.ratio(apart(leads, at)))),
                "random_low": low,
                "random_high": high,
                "random_populations": len(null),
                "p": (1 + n_as_far) / (1 + len(null)),
            }
        )
    return rows


def apart(leads: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    """Return how much more the others are alike among themselves than to one, for each window.

    `leads` are those of `pair_leads`, shape (n_populations, n_populations, n_windows).
    """
    others = [other for other in range(len(leads)) if other != at]
    among = [leads[pair] for pair in combinations(others, 2)]
    difference: NDArray[np.float64] = np.mean(among, axis=0) - leads[at, others].mean(axis=0)
    return difference


def pair_leads(vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the cosine of two populations on a window less that on other windows.

    Of narrations of shape (n_windows, dim) each; shape (n_populations, n_populations, n_windows).
    """
    n = len(vectors)
    leads = np.zeros((n, n, len(vectors[0])))
    for one, other in combinations(range(n), 2):
        same, elsewhere = own_and_others(vectors[one] @ vectors[other].T)
        leads[one, other] = leads[other, one] = same - elsewhere
    return leads


def _of_random_units(
    inputs: EvaluationInputs, sets: Mapping[str, Selection], windows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how far apart populations of random units are, shape (n_random,)."""
    divisions = random_divisions(
        [inputs.selections[name] for name in sets],
        next(iter(sets.values())).n_units,
        seed=inputs.request.seed,
    )
    parts = [one for division in divisions for one in division]
    vectors = inputs.sentences.of(inputs.narrate(parts, windows=windows))
    values = []
    for division in divisions:
        leads = pair_leads([vectors[part.name] for part in division])
        values += [float(apart(leads, at).mean()) for at in range(len(division))]
    return np.array(values)


def random_divisions(
    groups: Sequence[Selection], n_units: int, *, seed: int
) -> list[list[Selection]]:
    """Divide the units of groups at random into as many populations of `n_units` each.

    Repeated until there are `FEWEST_RANDOM` populations or more. Those of one division have no unit
    in common, as the groups have none.
    """
    units = np.flatnonzero(np.any([group.mask for group in groups], axis=0))
    kind = groups[0].name.partition(":")[0]
    divisions = []
    for number in range(math.ceil(FEWEST_RANDOM / len(groups))):
        rng = np.random.default_rng([seed, DIVISION_STREAM, number])
        chosen = rng.permutation(units)[: n_units * len(groups)].reshape(len(groups), n_units)
        masks = np.zeros((len(groups), len(groups[0].mask)), np.bool_)
        np.put_along_axis(masks, chosen, values=True, axis=1)
        divisions.append(
            [
                Selection(f"random {kind} {number}/{at}", "units", mask)
                for at, mask in enumerate(masks)
            ]
        )
    return divisions
