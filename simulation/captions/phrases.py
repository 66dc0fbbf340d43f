"""Captions in English: a controlled vocabulary and several phrasings, each with every fact.

The subject is always the first thing that a sentence names; `simulation.captions.parser` relies
on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from simulation.scenes.facts import Facts, Thing

_T = TypeVar("_T")

COUNTS = ("", "a", "two", "three")

NOUNS = {
    "car": (("car", "cars"),),
    "pedestrian": (("pedestrian", "pedestrians"), ("person", "people")),
    "cyclist": (("cyclist", "cyclists"),),
    "dog": (("dog", "dogs"),),
    "bird": (("bird", "birds"),),
    "lamp": (("street lamp", "street lamps"), ("lamp", "lamps")),
    "tree": (("tree", "trees"),),
    "building": (("building", "buildings"), ("house", "houses")),
}

# Third person singular, plural, and the form in -ing.
VERBS = {
    "car": ("drives", "drive", "driving"),
    "pedestrian": ("walks", "walk", "walking"),
    "cyclist": ("rides", "ride", "riding"),
    "dog": ("runs", "run", "running"),
    "bird": ("flies", "fly", "flying"),
    "lamp": ("stands", "stand", "standing"),
    "tree": ("stands", "stand", "standing"),
    "building": ("stands", "stand", "standing"),
}

HEADINGS = {
    "left": ("to the left",),
    "right": ("to the right",),
    "towards": ("towards us", "towards the viewer"),
    "away": ("away from us", "away from the viewer"),
    "": ("",),
}
DISTANCES = {"near": ("close by", "nearby"), "far": ("in the distance", "far off")}
LIGHTS = {
    "day": ("by day", "in daylight", "on a bright day"),
    "shadow": ("in the shade", "under a large shadow"),
    "night": ("at night", "in the dark"),
}
STREETS = {"day": "A bright street", "shadow": "A shady street", "night": "A dark street"}
BESIDE = ("beside {}", "with {} in view", "and {} is there too")

N_PHRASINGS = 6


def caption(facts: Facts, seed: int = 0) -> str:
    """Return one sentence with all facts; the seed chooses phrasing and words."""
    rng = np.random.default_rng([seed, 4])
    return phrase(facts, int(rng.integers(N_PHRASINGS)), rng)


def phrase(facts: Facts, phrasing: int, rng: np.random.Generator) -> str:
    """Return a sentence with all facts in a given phrasing, 0 to 5, with words drawn from `rng`."""
    subject = facts.subject
    who = _noun_phrase(subject, rng)
    heading = _pick(HEADINGS[subject.heading], rng)
    where = _pick(DISTANCES[subject.distance], rng)
    light = _pick(LIGHTS[facts.light], rng)
    verb = VERBS[subject.kind][0 if subject.count == 1 else 1]
    doing = VERBS[subject.kind][2]
    are = "is" if subject.count == 1 else "are"
    also = [_pick(BESIDE, rng).format(_noun_phrase(thing, rng)) for thing in facts.things[1:]]
    end = f", {also[0]}" if also else ""
    words = {
        0: f"{who} {verb} {heading} {where}{end}, {light}",
        1: f"{light}, {who} {verb} {heading} {where}{end}",
        2: f"there {are} {who} {doing} {heading} {where} {light}{end}",
        3: f"we see {who} {doing} {heading} {where}{end}, {light}",
        4: f"{where}, {who} {verb} {heading} {light}{end}",
        5: f"{STREETS[facts.light]}: {who} {doing} {heading} {where}{end}",
    }[phrasing]
    text = " ".join(words.split()).replace(" ,", ",")
    return f"{text[0].upper()}{text[1:]}."


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption can hold, sorted, in lower case."""
    texts = [*COUNTS, *STREETS.values(), *BESIDE, "is are there we see"]
    texts += [word for pairs in NOUNS.values() for pair in pairs for word in pair]
    texts += [form for forms in VERBS.values() for form in forms]
    for table in (HEADINGS, DISTANCES, LIGHTS):
        texts += [text for choices in table.values() for text in choices]
    return tuple(
        sorted({word for text in texts for word in text.replace("{}", "").lower().split()})
    )


def _noun_phrase(thing: Thing, rng: np.random.Generator) -> str:
    one, many = _pick(NOUNS[thing.kind], rng)
    return f"{COUNTS[thing.count]} {one if thing.count == 1 else many}"


def _pick(choices: Sequence[_T], rng: np.random.Generator) -> _T:
    return choices[int(rng.integers(len(choices)))]
