"""The targets of the simulated world, and whether a report meets them.

The numbers define a working simulated world; they are constants, so that no option can move them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from contracts.population import CONTROLS
from encoder_training.evaluation.bootstrap import Interval
from evaluation.narrations.report import NarratorScores, SameTokens, Target

TRUE_PATCHES = {"object_f1": 0.95, "direction": 0.90, "light": 0.90, "count": 0.90}
"""Lowest scores of the language model on the frames themselves."""

SPIKES_F1 = 0.75  # Lowest object F1 of all units
ABOVE_CONTROLS = 0.3  # Smallest lead of all units over the better control, object F1


def comparisons(populations: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of populations that the targets compare, where both are present."""
    pairs = [("all", control) for control in CONTROLS] + [("CA1", "silent")]
    return [pair for pair in pairs if set(pair) <= set(populations)]


def evaluate_targets(
    true_patches: NarratorScores,
    spikes: Mapping[str, NarratorScores],
    units: Mapping[int, NarratorScores],
    differences: Mapping[str, Interval],
    same_tokens: Sequence[SameTokens],
) -> tuple[Target, ...]:
    """Compare the scores with the targets.

    The population ``all`` is required, other targets are skipped without their populations.
    `differences` are of object F1, by the pairs of `comparisons`, joined by a hyphen.
    """
    targets = [
        _at_least(f"true patches: {name.replace('_', ' ')}", true_patches.scores[name].value, least)
        for name, least in TRUE_PATCHES.items()
    ]
    targets.append(_at_least("all units: object F1", spikes["all"].object_f1.value, SPIKES_F1))
    pairs = [f"all-{control}" for control in CONTROLS]
    leads = [differences[pair].value for pair in pairs if pair in differences]
    if leads:
        targets.append(
            _at_least("all units above the better control: object F1", min(leads), ABOVE_CONTROLS)
        )
    if "CA1-silent" in differences:
        lead = differences["CA1-silent"]
        targets.append(
            Target(
                name="CA1 no better than silent: lower end of the interval of its lead",
                wanted="<= 0",
                found=lead.low,
                is_met=lead.low <= 0,
                missed_by=max(lead.low, 0.0),
            )
        )
    if len(units) > 1:
        targets.append(_growth([units[number].object_f1.value for number in sorted(units)]))
    targets += [
        Target(
            name=f"same words as in the sequential mode: {run.way} ({run.n_compared} sentences)",
            wanted="= 1",
            found=run.n_equal / run.n_compared if run.n_compared else math.nan,
            is_met=run.is_same,
            missed_by=1 - run.n_equal / run.n_compared if run.n_compared else 1.0,
        )
        for run in same_tokens
    ]
    return tuple(targets)


def _at_least(name: str, found: float, least: float) -> Target:
    return Target(name, f">= {least:g}", found, found >= least, max(least - found, 0.0))


def _growth(values: Sequence[float]) -> Target:
    """Evaluate the smallest step from one number of units to the next."""
    step = min(later - earlier for earlier, later in pairwise(values))
    return Target(
        name="object F1 grows with the number of units: smallest step",
        wanted="> 0",
        found=step,
        is_met=step > 0,
        missed_by=max(-step, 0.0),
    )
