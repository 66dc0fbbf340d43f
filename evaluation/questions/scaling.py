"""How fidelity grows with the number of units, by area: figure 4 of the paper.

One encoder is masked to random subsets, nested within each random order of the units: the first 30
hold the first 10. With the bundle's run, an encoder is trained for each subset of all units as
well. The lead is fitted as a line over the logarithm of the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.population import CONTROLS, Population, Selection
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Draws, interval
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.questions import scaling_figure as figure
from evaluation.questions.answer import Answer
from evaluation.questions.chance import (
    Positions,
    ShiftTest,
    block_draws,
    block_length,
    minimal_lags,
    shift_test,
)
from evaluation.questions.growth import (
    FEWEST_UNITS,
    MOST_DECADES,
    N_TRAINED_ORDERS,
    Comparison,
    Fit,
    Levels,
    difference_rows,
    findings,
    points,
    rows,
    session_findings,
    session_rows,
)
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.trained_subsets import load_trained_run, narrate_trained
from evaluation.scores import own_and_others

SIZES = (3, 10, 30, 100, 300, 1000)
N_ORDERS = 4
"""Random orders of the units."""

MOST_WINDOWS = 200
"""Evenly thinned: a hundred sets of units narrate them."""

ORDERS_STREAM, REDRAW_STREAM = 13, 14


@dataclass(frozen=True, slots=True, eq=False)
class ScaledWindows:
    """Some windows, with what every set of units is compared with."""

    windows: NDArray[np.int64]
    positions: Positions
    shown: NDArray[np.float64]  # (n_positions, dim): vectors of the captions
    lags: tuple[int, ...]
    seed: int

    def table(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean cosine of narrations, shape (n_windows, dim), by position and caption."""
        return self.positions.table(vectors @ self.shown.T) / len(vectors)

    def lead(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return of each window the cosine with its caption less the mean over other frames."""
        likeness = vectors @ self.shown.T
        own, others = own_and_others(likeness, self.positions.of_window)
        return own - others


def scaling(inputs: EvaluationInputs) -> Answer:
    """Answer the question.

    Raises
    ------
    UserError
        If there are fewer than `FEWEST_UNITS` units.
    """
    population, seed = inputs.manifest.population, inputs.request.seed
    groups = {
        name: one
        for name, one in inputs.selections.items()
        if name not in CONTROLS and one.n_units >= FEWEST_UNITS
    }
    if not groups:
        raise UserError(
            f"growth with units needs {FEWEST_UNITS} units or more, and the bundle has "
            f"{len(population)}. Leave this question out."
        )
    sets = {name: unit_sets(population, one, seed=seed) for name, one in groups.items()}
    windows = thinned(np.arange(len(inputs.windows.rows)), MOST_WINDOWS)
    every = [one for of in sets.values() for orders in of.values() for one in orders]
    vectors = inputs.sentences.of(inputs.narrate(every, windows=windows))
    nearest = inputs.narrate([inputs.selections["all"]], backend="retrieval", windows=windows)
    true = inputs.narrate([TRUE_PATCHES], windows=windows)
    scaled = _scaled(inputs, windows)
    lengths = [block_length(scaled.positions.mean(scaled.lead(v))) for v in vectors.values()]
    length = max(inputs.positions_of_group / 2, float(np.quantile(lengths, 0.9)))
    draws = block_draws(scaled.positions, length, seed=seed)
    fixed = inputs.sentences.of({**nearest, **true})
    base, most = (draws.ratio(scaled.lead(fixed[name])) for name in ("all", TRUE_PATCHES))
    levels = Levels(interval(base), interval(most))
    fits = [_fit(name, of, vectors, scaled, draws, base) for name, of in sets.items()]
    compared = _compare_trained(inputs, sets["all"], vectors, scaled, draws, base)
    shown = [*fits, *([compared.trained] if compared else [])]
    of_sessions = session_rows(fits)
    left_out = [n for n in inputs.selections if n not in groups and n not in CONTROLS]
    return Answer(
        name="scaling",
        title="Scaling: how does fidelity grow with the number of units?",
        findings=(*findings(fits, compared, levels, left_out), *session_findings(of_sessions)),
        tables={
            "points": points(shown),
            "fits": rows(shown, levels),
            **({"trained": difference_rows(compared)} if compared else {}),
            **({"sessions": of_sessions} if of_sessions else {}),
        },
        figures=(figure.scaling_figure(shown, levels, len(windows), len(scaled.positions)),),
    )


def unit_sets(
    population: Population, group: Selection, *, seed: int
) -> dict[int, tuple[Selection, ...]]:
    """Draw nested subsets of a group in random orders, by size; all of its units come once."""
    units = np.flatnonzero(group.mask)
    sets: dict[int, list[Selection]] = {}
    for order in range(N_ORDERS):
        rng = np.random.default_rng([seed, ORDERS_STREAM, order])
        taken = rng.permutation(units)
        for size in SIZES:
            if size < len(units):
                mask = np.zeros(len(population), np.bool_)
                mask[taken[:size]] = True
                one = Selection(f"{group.name}/{size}/{order}", "units", mask)
                sets.setdefault(size, []).append(one)
    sets[len(units)] = [Selection(f"{group.name}/{len(units)}/0", "units", group.mask)]
    return {size: tuple(of_size) for size, of_size in sets.items()}


def slope_weights(sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return the weights of leads whose sum is the slope over the logarithm of their sizes."""
    x = np.log10(sizes)
    weights: NDArray[np.float64] = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return weights


def _scaled(inputs: EvaluationInputs, windows: NDArray[np.int64]) -> ScaledWindows:
    positions = inputs.positions_of(windows)
    captions = [inputs.windows.captions[windows[first]] for first in positions.first_window]
    shown = inputs.sentences.vectors(captions)
    lags = minimal_lags(shown @ shown.T, positions)
    return ScaledWindows(windows, positions, shown, lags, inputs.request.seed)


def _compare_trained(
    inputs: EvaluationInputs,
    sets: Mapping[int, Sequence[Selection]],
    vectors: Mapping[str, NDArray[np.float64]],
    scaled: ScaledWindows,
    draws: Draws,
    baseline: NDArray[np.float64],
) -> Comparison | None:
    """Train an encoder for each subset of the first orders; that of all units is the bundle's."""
    if inputs.request.run is None:
        return None
    run = load_trained_run(inputs.request.run, inputs.manifest)
    some = {size: of_size[:N_TRAINED_ORDERS] for size, of_size in sets.items()}
    subsets = [one for size in sorted(some)[:-1] for one in some[size]]
    narrated = narrate_trained(inputs, run, subsets, scaled.windows)
    own = inputs.sentences.of(narrated)
    masked = _fit("all", some, vectors, scaled, draws, baseline)
    trained = _fit("all", some, {**vectors, **own}, scaled, draws, baseline)
    return Comparison(replace(trained, encoder="trained"), masked)


def _fit(
    name: str,
    sets: Mapping[int, Sequence[Selection]],
    vectors: Mapping[str, NDArray[np.float64]],
    scaled: ScaledWindows,
    draws: Draws,
    baseline: NDArray[np.float64],
) -> Fit:
    sizes = tuple(sorted(sets))
    # Each (1 + n_draws,): the mean lead of the data, then of each draw of frames and of orders
    rng = np.random.default_rng([scaled.seed, REDRAW_STREAM])
    of_orders, means = {}, []
    for size in sizes:
        values = np.stack([draws.ratio(scaled.lead(vectors[one.name])) for one in sets[size]])
        of_orders[size] = tuple(values[:, 0].tolist())
        chosen = rng.integers(len(values), size=(len(values), values.shape[1]))
        redrawn = np.take_along_axis(values, chosen, axis=0).mean(axis=0)
        redrawn[0] = values[:, 0].mean()
        means.append(redrawn)
    x, weight = np.log10(sizes), slope_weights(sizes)
    slope, middle = weight @ np.stack(means), np.mean(means, axis=0)
    tables = {
        size: np.mean([scaled.table(vectors[one.name]) for one in sets[size]], axis=0)
        for size in sizes
    }
    test = _shift(sum(w * tables[size] for w, size in zip(weight, sizes, strict=True)), scaled)
    largest = _shift(tables[sizes[-1]], scaled)
    line = [middle + slope * (at - x.mean()) for at in x]
    off_line = tuple(
        size
        for size, mean, fitted in zip(sizes, means, line, strict=True)
        if not interval(np.round(mean - fitted, 9)).holds(0.0)  # rounding is no distance
    )
    growing = np.maximum(slope, 1e-12)  # a draw that does not grow meets nothing
    crossing = 10 ** np.minimum(x.mean() + (baseline - middle) / growing, MOST_DECADES)
    low, high = largest.band
    return Fit(
        population=name,
        sizes=sizes,
        means=np.stack(means),
        slopes=slope,
        of_orders=of_orders,
        line={size: interval(fitted) for size, fitted in zip(sizes, line, strict=True)},
        off_line=off_line,
        crossing=interval(crossing),
        test=test,
        null=(low - largest.chance, high - largest.chance),
    )


def _shift(table: NDArray[np.float64], scaled: ScaledWindows) -> ShiftTest:
    return shift_test(table, scaled.positions, minimal_lags=scaled.lags, seed=scaled.seed)
