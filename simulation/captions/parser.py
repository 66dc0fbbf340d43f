"""Parses facts from any sentence, word by word and without a grammar.

It knows more words than the captions use, so that a larger model's sentences can be scored too.
The first thing that is named is the subject; heading, distance and its own number belong to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from simulation.captions.phrases import NOUNS

SYNONYMS = {
    "car": "automobile vehicle taxi truck van",
    "pedestrian": "man woman child walker",
    "cyclist": "bicyclist biker bicycle bike",
    "dog": "puppy hound",
    "bird": "pigeon crow seagull",
    "lamp": "lamppost streetlamp streetlight lantern",
    "tree": "",
    "building": "tower skyscraper",
}
"""In the singular; an s makes the plural."""

IRREGULAR = {"men": "pedestrian", "women": "pedestrian", "children": "pedestrian"}

NUMBERS = {
    **{"a": 1, "an": 1, "one": 1, "single": 1, "lone": 1},
    **{"two": 2, "pair": 2, "couple": 2, "three": 3},
}
HEADING_WORDS = {
    **{"left": "left", "leftwards": "left", "right": "right", "rightwards": "right"},
    **{"towards": "towards", "toward": "towards", "approaching": "towards", "away": "away"},
}
DISTANCE_WORDS = {
    **{"close": "near", "nearby": "near", "foreground": "near"},
    **{"far": "far", "distance": "far", "distant": "far", "background": "far"},
}
LIGHT_WORDS = {
    **{"day": "day", "daylight": "day", "bright": "day", "sunny": "day", "daytime": "day"},
    **{"shade": "shadow", "shady": "shadow", "shadow": "shadow", "shadows": "shadow"},
    **{"night": "night", "dark": "night", "darkness": "night", "nighttime": "night"},
}

NUMBER_REACH = 3
"""Words before a noun in which its number is looked for: "two large street lamps"."""


@dataclass(frozen=True, slots=True)
class ParsedThing:
    """A thing that a sentence names; None where it does not say."""

    kind: str
    count: int | None = None  # without a number word 1 for a singular, None for a plural
    heading: str | None = None  # of the subject alone, as is distance
    distance: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedCaption:
    """What a sentence claims; each kind once, in the order of the sentence."""

    light: str | None
    things: tuple[ParsedThing, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of things that are named."""
        return frozenset(thing.kind for thing in self.things)

    def thing(self, kind: str) -> ParsedThing | None:
        """Return what is said of a kind; None if it is not named."""
        return next((thing for thing in self.things if thing.kind == kind), None)


def parse(text: str) -> ParsedCaption:
    """Read a sentence; of two words that contradict each other, the first counts."""
    words = re.findall(r"[a-z]+", text.lower())
    light = next((LIGHT_WORDS[word] for word in words if word in LIGHT_WORDS), None)
    heading = next(
        (HEADING_WORDS[word] for word in _without_far_away(words) if word in HEADING_WORDS), None
    )
    distance = next((DISTANCE_WORDS[word] for word in words if word in DISTANCE_WORDS), None)
    things: list[ParsedThing] = []
    for at, word in enumerate(words):
        kind, is_plural = _KIND_OF.get(word, ("", False))
        if not kind or any(thing.kind == kind for thing in things):
            continue
        count = _number(words[max(0, at - NUMBER_REACH) : at], is_plural=is_plural)
        is_subject = not things
        things.append(
            ParsedThing(kind, count, heading, distance) if is_subject else ParsedThing(kind, count)
        )
    return ParsedCaption(light, tuple(things))


def _number(before: list[str], *, is_plural: bool) -> int | None:
    for word in reversed(before):
        if word in _KIND_OF:
            break
        if word in NUMBERS:
            return NUMBERS[word]
    return None if is_plural else 1


def _without_far_away(words: list[str]) -> list[str]:
    """Leave out the "away" of "far away", which is a distance."""
    return [
        word
        for at, word in enumerate(words)
        if not (word == "away" and words[at - 1 : at] == ["far"])
    ]


def _kinds() -> dict[str, tuple[str, bool]]:
    kinds = {word: (kind, True) for word, kind in IRREGULAR.items()}
    for kind, forms in NOUNS.items():
        for one, many in forms:
            kinds[one.split()[-1]] = (kind, False)
            kinds[many.split()[-1]] = (kind, True)
        for one in SYNONYMS[kind].split():
            kinds[one] = (kind, False)
            kinds[f"{one}s"] = (kind, True)
    return kinds


_KIND_OF = _kinds()
