"""How fidelity grows with the number of units, by area: figure 4 of the paper.

One encoder is masked to random subsets, nested within each random order of the units: the first 30
hold the first 10. The lead is fitted as a line over the logarithm of the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.population import CONTROLS, Population, Selection
from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Draws, Interval, interval
from evaluation.questions import scaling_figure as figure
from evaluation.questions.answer import Answer, Row, p_text, with_interval
from evaluation.questions.chance import (
    Positions,
    ShiftTest,
    block_draws,
    block_length,
    minimal_lags,
    shift_test,
)
from evaluation.questions.inputs import EvaluationInputs
from evaluation.scores import own_and_others

SIZES = (3, 10, 30, 100, 300, 1000)
N_ORDERS = 4
"""Random orders of the units."""

FEWEST_UNITS = 20
"""Of an area that is fitted: three sizes or more."""

MOST_WINDOWS = 200
"""Evenly thinned: a hundred sets of units narrate them."""

MOST_DECADES = 6
"""A line that meets the baseline later than at a million units does not meet it."""

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


@dataclass(frozen=True, slots=True)
class Fit:
    """The lead as a line over the logarithm of the number of units."""

    population: str
    sizes: tuple[int, ...]
    leads: Mapping[int, Interval]  # By size, the mean over orders
    of_orders: Mapping[int, Sequence[float]]
    slope: Interval  # For ten times as many units
    line: Mapping[int, Interval]  # The fitted lead at each size
    crossing: Interval  # Units at which the line meets the nearest caption
    test: ShiftTest  # Of the slope
    null: tuple[float, float]  # Where 95 % of the shifts of the largest set's lead lie


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
    narrated = inputs.narrate(every, windows=windows)
    vectors = {
        name: inputs.sentences.vectors([one.text for one in of]) for name, of in narrated.items()
    }
    nearest = inputs.narrate([inputs.selections["all"]], backend="retrieval", windows=windows)
    baseline = inputs.sentences.vectors([one.text for one in nearest["all"]])
    scaled = _scaled(inputs, windows)
    lengths = [block_length(scaled.positions.mean(scaled.lead(v))) for v in vectors.values()]
    length = max(inputs.positions_of_group / 2, float(np.quantile(lengths, 0.9)))
    draws = block_draws(scaled.positions, length, seed=seed)
    base = draws.ratio(scaled.lead(baseline))
    fits = [_fit(name, of, vectors, scaled, draws, base) for name, of in sets.items()]
    left_out = [n for n in inputs.selections if n not in groups and n not in CONTROLS]
    return Answer(
        name="scaling",
        title="Scaling: how does fidelity grow with the number of units?",
        findings=tuple(_findings(fits, interval(base), left_out)),
        tables={"points": _points(fits), "fits": _rows(fits, interval(base))},
        figures=(figure.scaling_figure(fits, interval(base), len(windows), len(scaled.positions)),),
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
    growing = np.maximum(slope, 1e-12)  # a draw that does not grow meets nothing
    crossing = 10 ** np.minimum(x.mean() + (baseline - middle) / growing, MOST_DECADES)
    low, high = largest.band
    return Fit(
        population=name,
        sizes=sizes,
        leads={size: interval(mean) for size, mean in zip(sizes, means, strict=True)},
        of_orders=of_orders,
        slope=interval(slope),
        line={
            size: interval(middle + slope * (at - x.mean()))
            for size, at in zip(sizes, x, strict=True)
        },
        crossing=interval(crossing),
        test=test,
        null=(low - largest.chance, high - largest.chance),
    )


def _shift(table: NDArray[np.float64], scaled: ScaledWindows) -> ShiftTest:
    return shift_test(table, scaled.positions, minimal_lags=scaled.lags, seed=scaled.seed)


def _points(fits: Sequence[Fit]) -> list[Row]:
    return [
        {
            "population": fit.population,
            "units": size,
            "orders": len(fit.of_orders[size]),
            **with_interval("lead", fit.leads[size]),
            **with_interval("line", fit.line[size]),
            "lead_of_each_order": " ".join(f"{value:.4f}" for value in fit.of_orders[size]),
        }
        for fit in fits
        for size in fit.sizes
    ]


def _rows(fits: Sequence[Fit], baseline: Interval) -> list[Row]:
    return [
        {
            "population": fit.population,
            "largest": fit.sizes[-1],
            **with_interval("slope", fit.slope),
            "p": fit.test.p,
            **with_interval("crossing", fit.crossing),
            **with_interval("nearest_caption", baseline),
        }
        for fit in fits
    ]


def _findings(fits: Sequence[Fit], baseline: Interval, left_out: Sequence[str]) -> list[str]:
    found = [
        f"{fit.population}: ten times as many units add {fit.slope} to the lead, "
        f"{p_text(fit.test.p)}; {_crossing(fit)}"
        for fit in fits
    ]
    found.append(f"the lead of the nearest caption, from all units, is {baseline}")
    if left_out:
        found.append(f"left out, with fewer than {FEWEST_UNITS} units: {', '.join(left_out)}")
    return found


def _crossing(fit: Fit) -> str:
    at, largest = fit.crossing, fit.sizes[-1]
    if fit.slope.low <= 0:
        return "it does not grow for certain"
    if at.value > 10 * largest:
        return f"the line does not meet the nearest caption within ten times the {largest} units"
    where = "" if at.value <= largest else f", beyond the {largest} there are"
    return (
        f"the line meets the nearest caption at {at.value:,.0f} units ({at.low:,.0f} to "
        f"{at.high:,.0f}){where}"
    )
