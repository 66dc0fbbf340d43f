"""What the question of scaling found: fitted lines, and their tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_training.evaluation.bootstrap import Interval, interval
from evaluation.caption_scores.inputs import OF_SESSION
from evaluation.questions.answer import Row, interval_of, p_text, with_interval
from evaluation.questions.chance import ShiftTest

N_TRAINED_ORDERS = 2
"""The first of them, for which encoders are trained."""

FEWEST_UNITS = 20
"""Of an area that is fitted: three sizes or more."""

MOST_DECADES = 6
"""A line that meets the baseline later than at a million units does not meet it."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The lead as a line over the logarithm of the number of units."""

    population: str
    sizes: tuple[int, ...]
    means: NDArray[np.float64]  # (n_sizes, 1 + n_draws): the lead, then of draws of frames, orders
    slopes: NDArray[np.float64]  # (1 + n_draws,)
    of_orders: Mapping[int, Sequence[float]]
    line: Mapping[int, Interval]  # The fitted lead at each size
    off_line: tuple[int, ...]  # Sizes whose lead is not on the line, by the same draws
    crossing: Interval  # Units at which the line meets the nearest caption
    test: ShiftTest  # Of the slope
    null: tuple[float, float]  # Where 95 % of the shifts of the largest set's lead lie
    encoder: str = "masked"  # Or "trained", one for each subset

    @property
    def leads(self) -> dict[int, Interval]:
        """By size, the mean over orders."""
        return {size: interval(mean) for size, mean in zip(self.sizes, self.means, strict=True)}

    @property
    def slope(self) -> Interval:
        """For ten times as many units."""
        return interval(self.slopes)


@dataclass(frozen=True, slots=True)
class Levels:
    """Leads on the same windows that do not depend on the number of units."""

    nearest_caption: Interval  # From all units
    true_patches: Interval  # The most that narrations of this language model can have

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the nearest caption is more than a narration can be."""
        return self.nearest_caption.value > self.true_patches.value


@dataclass(frozen=True, slots=True)
class Comparison:
    """Encoders trained for each subset of all units, and one masked to the same subsets."""

    trained: Fit
    masked: Fit

    def difference(self, *, of_slopes: bool = False, size: int | None = None) -> Interval:
        """Return trained less masked: of the slopes, or of the leads at a size or of all subsets.

        Both take the same draws of frames and orders.
        """
        if of_slopes:
            return interval(self.trained.slopes - self.masked.slopes)
        rows = slice(-1) if size is None else self.trained.sizes.index(size)
        less = np.atleast_2d(self.trained.means[rows] - self.masked.means[rows])
        return interval(less.mean(axis=0))


def points(fits: Sequence[Fit]) -> list[Row]:
    """Return the lead of each population at each size."""
    return [
        {
            "population": fit.population,
            "encoder": fit.encoder,
            "units": size,
            "orders": len(fit.of_orders[size]),
            **with_interval("lead", fit.leads[size]),
            **with_interval("line", fit.line[size]),
            "lead_of_each_order": " ".join(f"{value:.4f}" for value in fit.of_orders[size]),
        }
        for fit in fits
        for size in fit.sizes
    ]


def rows(fits: Sequence[Fit], levels: Levels) -> list[Row]:
    """Return the line of each population; a crossing that no number of units reaches is inf."""
    return [
        {
            "population": fit.population,
            "encoder": fit.encoder,
            "largest": fit.sizes[-1],
            "off_line": " ".join(map(str, fit.off_line)),
            **with_interval("slope", fit.slope),
            **with_interval("slope_over_shifts", _over_shifts(fit)),
            "p": fit.test.p,
            **{
                name: at if at < 10**MOST_DECADES else math.inf
                for name, at in with_interval("crossing", fit.crossing).items()
            },
            **with_interval("nearest_caption", levels.nearest_caption),
            **with_interval("true_patches", levels.true_patches),
        }
        for fit in fits
    ]


def _over_shifts(fit: Fit) -> Interval:
    """Return the slope of the cosines less that of their shifts, with the width of the lead's."""
    return fit.slope.less(fit.slope.value - (fit.test.value - fit.test.chance))


def difference_rows(compared: Comparison) -> list[Row]:
    """Return trained less masked: of the slope, of the mean over subsets, and at each size."""
    trained, masked = compared.trained, compared.masked
    sizes = trained.sizes[:-1]  # of all units both are the bundle's
    return [
        {
            "measure": "slope",
            "units": "",
            "trained": trained.slope.value,
            "masked": masked.slope.value,
            **with_interval("difference", compared.difference(of_slopes=True)),
        },
        {
            "measure": "lead of the subsets",
            "units": "",
            "trained": float(trained.means[:-1, 0].mean()),
            "masked": float(masked.means[:-1, 0].mean()),
            **with_interval("difference", compared.difference()),
        },
        *(
            {
                "measure": "lead",
                "units": size,
                "trained": trained.leads[size].value,
                "masked": masked.leads[size].value,
                **with_interval("difference", compared.difference(size=size)),
            }
            for size in sizes
        ),
    ]


def session_rows(fits: Sequence[Fit]) -> list[Row]:
    """Return the lead of units of all sessions less that of as many of one session."""
    every = next(fit for fit in fits if fit.population == "all")
    return [
        {
            "session": fit.population.removeprefix(OF_SESSION),
            "units": size,
            "all_sessions": every.leads[size].value,
            "one_session": fit.leads[size].value,
            **with_interval("difference", interval(every.means[at] - fit.means[of_session])),
        }
        for fit in fits
        if fit.population.startswith(OF_SESSION)
        for of_session, size in enumerate(fit.sizes)
        if size in every.sizes
        for at in [every.sizes.index(size)]
    ]


def session_findings(of_sessions: Sequence[Row]) -> list[str]:
    """Say what units of several sessions have over as many of one, at the largest equal number."""
    largest = {row["session"]: row for row in of_sessions}
    return [
        f"{row['units']} units of all sessions have a lead that is higher by "
        f"{interval_of(row, 'difference')} than that of as many of session {name}"
        for name, row in largest.items()
    ]


def findings(
    fits: Sequence[Fit],
    compared: Comparison | None,
    levels: Levels,
    left_out: Sequence[str],
) -> list[str]:
    """Return the sentences of the page."""
    found = [
        f"{fit.population}: ten times as many units add {fit.slope} to the lead, "
        f"{p_text(fit.test.p)}; {crossing(fit, levels)}{_off_line(fit)}"
        for fit in fits
    ]
    if compared:
        found.append(
            f"all, an encoder trained for each subset, in {N_TRAINED_ORDERS} orders: ten times as "
            f"many units add {compared.trained.slope}, one encoder masked to the same subsets "
            f"{compared.masked.slope}: a difference of {compared.difference(of_slopes=True)}. The "
            f"lead of a subset is higher by {compared.difference()} if it is trained"
        )
    found.append(
        f"the lead of the nearest caption, from all units, is {levels.nearest_caption}, and that "
        f"of the true patches {levels.true_patches}"
    )
    if levels.is_out_of_reach:
        found.append(
            "the nearest caption is above the true patches: narrations of this language model do "
            "not come near it, however many units there are, and no crossing is given"
        )
    if left_out:
        found.append(f"left out, with fewer than {FEWEST_UNITS} units: {', '.join(left_out)}")
    return found


def crossing(fit: Fit, levels: Levels) -> str:
    """Say where a line meets the nearest caption, if it does."""
    at, largest = fit.crossing, fit.sizes[-1]
    if fit.slope.low <= 0:
        return "it does not grow for certain"
    if levels.is_out_of_reach:
        return f"{fit.leads[largest]} with all {largest}"
    if at.value > 10 * largest:
        return f"the line does not meet the nearest caption within ten times the {largest} units"
    where = "" if at.value <= largest else f", beyond the {largest} there are"
    return (
        f"the line meets the nearest caption at {at.value:,.0f} units ({at.low:,.0f} to "
        f"{at.high:,.0f}){where}"
    )


def _off_line(fit: Fit) -> str:
    if not fit.off_line:
        return ""
    return f"; with {', '.join(map(str, fit.off_line))} units it is not on the line"
