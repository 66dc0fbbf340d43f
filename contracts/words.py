"""Words of a sentence, as concepts are counted and as rules on narrations match them."""

from __future__ import annotations

import re
from collections.abc import Sequence

IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "buses": "bus",
}
"""Plurals of what stands in pictures that no simple rule makes."""

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")

_ABSENT = re.compile(
    r"\b(?:no|without)\b.*?(?=[.,;:!?]|\b(?:and|but|with|while|in|on|at|near|under|behind|is|are)\b|$)",
    re.DOTALL,
)
"""What a sentence states to be absent, to the end of the phrase."""


def words_in(sentence: str) -> tuple[str, ...]:
    """Return the words of a sentence in their order, lower case, plurals as singulars.

    What follows "no" or "without" is left out, to the end of the phrase. Other ways to say that
    something is absent are not understood: "a street free of cars" has cars.

    >>> words_in("Two buses pass a grey house; 3 boxes.")
    ('two', 'bus', 'pass', 'a', 'grey', 'house', 'box')
    >>> words_in("A road without cars or people on a hill, no visible dog.")
    ('a', 'road', 'on', 'a', 'hill')
    """
    return tuple(singular(word) for word in _WORD.findall(_ABSENT.sub(" ", sentence.lower())))


def has_phrase(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Return whether words contain those of a phrase, one after the other.

    >>> has_phrase(words_in("Two red buses wait."), words_in("red bus"))
    True
    """
    n = len(phrase)
    return any(tuple(words[i : i + n]) == tuple(phrase) for i in range(len(words) - n + 1))


def singular(word: str) -> str:
    """Return the singular of a regular plural, and any other word as it is.

    >>> [singular(word) for word in ("cars", "cities", "people", "glasses", "grass", "bus")]
    ['car', 'city', 'person', 'glass', 'grass', 'bus']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:ss|x|ch|sh)es$", word):
        return word[:-2]
    if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
