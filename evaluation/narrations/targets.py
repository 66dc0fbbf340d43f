"""What the simulated world must show, and whether it does.

The numbers are those of the project's definition of a working simulated world; they are fixed here
so that a report cannot move them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from encoder_training.evaluation.bootstrap import Interval
from evaluation.narrations.report import CONTROLS, NarratorScores, SameTokens, Target

TRUE_PATCHES = {"object_f1": 0.95, "direction": 0.90, "light": 0.90, "count": 0.90}
"""Least score of the language model on the frames themselves."""

SPIKES_F1 = 0.75
"""Least object F1 of all units."""

ABOVE_CONTROLS = 0.3
"""Least lead of all units over the better control, object F1."""


def against(populations: Sequence[str]) -> list[tuple[str, str]]:
    """Return the comparisons that the targets need, of those populations that there are."""
    pairs = [("all", control) for control in CONTROLS] + [("CA1", "silent")]
    return [pair for pair in pairs if set(pair) <= set(populations)]


def judge(
    true_patches: NarratorScores,
    spikes: Mapping[str, NarratorScores],
    units: Mapping[int, NarratorScores],
    differences: Mapping[str, Interval],
    same_tokens: Sequence[SameTokens],
) -> tuple[Target, ...]:
    """Hold what was found to what is wanted.

    Parameters
    ----------
    true_patches : NarratorScores
    spikes : mapping of str to NarratorScores
        By population; ``all`` is needed, the others are judged if they are there.
    units : mapping of int to NarratorScores
        By number of units.
    differences : mapping of str to Interval
        Object F1, as `against` names the pairs, joined by a hyphen.
    same_tokens : sequence of SameTokens

    Returns
    -------
    targets : tuple of Target
    """
    targets = [
        _at_least(f"true patches: {name.replace('_', ' ')}", true_patches.scores[name].value, least)
        for name, least in TRUE_PATCHES.items()
    ]
    targets.append(_at_least("all units: object F1", spikes["all"].object_f1.value, SPIKES_F1))
    leads = [differences[f"all-{each}"].value for each in CONTROLS if f"all-{each}" in differences]
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
            name=f"same words as in the sequential mode: {each.way} ({each.n_compared} sentences)",
            wanted="= 1",
            found=each.n_equal / each.n_compared if each.n_compared else math.nan,
            is_met=each.is_same,
            missed_by=1 - each.n_equal / each.n_compared if each.n_compared else 1.0,
        )
        for each in same_tokens
    ]
    return tuple(targets)


def _at_least(name: str, found: float, least: float) -> Target:
    return Target(name, f">= {least:g}", found, found >= least, max(least - found, 0.0))


def _growth(values: Sequence[float]) -> Target:
    """Judge the smallest step from one number of units to the next."""
    step = min(later - earlier for earlier, later in pairwise(values))
    return Target(
        name="object F1 grows with the number of units: smallest step",
        wanted="> 0",
        found=step,
        is_met=step > 0,
        missed_by=max(-step, 0.0),
    )
