"""Controlled clips: two scenes that look the same but for one feature.

References
----------
The open challenge in the reviews of NEURRATOR (arXiv 2606.18667): narrations must mention a
feature when it is there and leave it out when it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from contracts.errors import MisuseError
from simulation.scenes.facts import KINDS, LIGHTS, MOVERS, STILLS, Facts, headings_of
from simulation.scenes.scene import Scene, all_visible, random_facts, scene_of

_T = TypeVar("_T")

FEATURES = ("kind", "count", "heading", "distance", "light", "second")
"""What a pair may differ in: the subject's kind, number, heading or distance, the light, or
whether there is a second thing."""

N_TRIES = 1_000


def controlled_pair(feature: str, seed: int) -> tuple[Scene, Scene]:
    """Make two scenes of one layout whose facts differ in one feature.

    Parameters
    ----------
    feature : str
        One of `FEATURES`. For ``second`` the first scene has the second thing, the other has not.

    Raises
    ------
    MisuseError
        If there is no such feature.
    """
    if feature not in FEATURES:
        raise MisuseError(f"a pair differs in one of {', '.join(FEATURES)}, got {feature!r}")
    rng = np.random.default_rng([seed, FEATURES.index(feature), 5])
    for _ in range(N_TRIES):
        one = random_facts(rng)
        other = _changed(one, feature, rng)
        if other is None:
            continue
        layout = int(rng.integers(2**31))
        scenes = scene_of(one, layout), scene_of(other, layout)
        if all(all_visible(scene) for scene in scenes):
            return scenes
    raise MisuseError(f"no pair of {feature!r} was found for seed {seed} in {N_TRIES} tries")


def _changed(facts: Facts, feature: str, rng: np.random.Generator) -> Facts | None:
    """Return the same facts but for one feature; None where they have no other value for it."""
    subject, rest = facts.subject, facts.things[1:]
    if feature == "light":
        return replace(facts, light=_other(facts.light, LIGHTS, rng))
    if feature == "second":
        return replace(facts, things=(subject,)) if rest else None
    if feature == "kind":
        taken = [thing.kind for thing in rest]
        alike = MOVERS[:4] if subject.kind in MOVERS[:4] else STILLS
        kinds = [kind for kind in alike if kind not in taken]
        if subject.kind not in kinds or len(kinds) < 2:
            return None
        changed = replace(subject, kind=_other(subject.kind, kinds, rng))
        things = sorted((changed, *rest), key=lambda thing: KINDS.index(thing.kind))
        return replace(facts, things=tuple(things)) if things[0] == changed else None
    if feature == "count":
        return replace(
            facts, things=(replace(subject, count=_other(subject.count, (1, 2, 3), rng)), *rest)
        )
    if feature == "distance":
        changed = replace(subject, distance=_other(subject.distance, ("near", "far"), rng))
        return replace(facts, things=(changed, *rest))
    if len(headings_of(subject.kind)) < 2:
        return None
    changed = replace(subject, heading=_other(subject.heading, headings_of(subject.kind), rng))
    return replace(facts, things=(changed, *rest))


def _other(value: _T, choices: Sequence[_T], rng: np.random.Generator) -> _T:
    left = [choice for choice in choices if choice != value]
    return left[int(rng.integers(len(left)))]
