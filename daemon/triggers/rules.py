"""A rule's condition: one line of text, parsed; an error marks the place of the mistake.

::

    probe "CONCEPT" of POPULATION > NUMBER [and confidence > NUMBER] [for N windows]
    narration of POPULATION says "WORDS" [and confidence > NUMBER] [for N narrations]
    narration of POPULATION like "SENTENCE" > NUMBER [and confidence > NUMBER] [for N narrations]

``<`` fires when the concept disappears. What is decoded with less confidence counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from contracts.trigger import TriggerKind
from daemon.triggers.crossing import Level

MAX_DWELL = 10_000
"""Windows or narrations in a row, at most: eleven minutes at fifteen a second."""

WORD_THRESHOLD = 0.5
"""Of a word, whose score is 1 or 0."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Control characters (C0, DEL, C1): a concept, a sentence or an argument of a process has none."""

# Quoted text, an operator, a word, or a quotation mark without a partner, which is an error to be
# pointed at: every character belongs to some token, so that no mistake is skipped.
_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[<>]=?|[^\s<>"']+|["'])""")


@dataclass(frozen=True, slots=True)
class RuleCondition:
    """What a rule fires on."""

    kind: TriggerKind
    what: str  # a concept, words or a sentence
    population: str  # a name of the settings' table of populations
    is_above: bool  # ``>`` or ``says``; else ``<``
    threshold: float
    dwell: int  # windows or narrations in a row
    above_confidence: float | None = None  # what is decoded with no more counts for nothing

    def is_sure(self, confidence: float | None) -> bool:
        """Return whether a decoding of this confidence counts; None is not known."""
        if self.above_confidence is None:
            return True
        return confidence is not None and confidence > self.above_confidence


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str  # its triggers go out under ``trigger.<name>``
    text: str  # the condition as it was written
    condition: RuleCondition
    level: Level  # the condition's numbers, with release and refractory time
    is_dry: bool = False  # its triggers are published only, and given to no sink
    sinks: tuple[str, ...] = ()  # names of those that get its triggers


def asking_for_confidence(rules: Iterable[Rule]) -> frozenset[str]:
    """Return the populations whose confidence some of the rules ask for."""
    conditions = [rule.condition for rule in rules]
    return frozenset(one.population for one in conditions if one.above_confidence is not None)


class RuleConditionError(ValueError):
    """A condition that cannot be read.

    `problem` is what was expected and found; `marked` the condition, and a line that points to the
    place.
    """

    def __init__(self, problem: str, text: str, at: int) -> None:
        # A tab or line break would move the mark away from its place in the line above.
        shown = _CONTROL.sub(" ", re.sub(r"\s", " ", text))
        self.problem = problem
        self.marked = f"      {shown}\n      {' ' * at}^"
        super().__init__(f"{problem}\n{self.marked}")


def read_condition(text: str) -> RuleCondition:
    """Parse a condition.

    Raises
    ------
    RuleConditionError
        With the place marked.

    Examples
    --------
    >>> condition = read_condition('probe "car" of VISp > 0.8 for 2 windows')
    >>> condition.what, condition.population, condition.threshold, condition.dwell
    ('car', 'VISp', 0.8, 2)
    """
    return _Parser(text).condition()


class _Parser:
    """Takes the tokens of a condition one by one, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [(match[1], match.start(1)) for match in _TOKEN.finditer(text)]
        self._next = 0  # index of the token that is taken next

    def condition(self) -> RuleCondition:
        subject = self._word("probe", "narration")
        kind, what = TriggerKind.PROBE, ""
        if subject == "probe":
            what = self._quoted("the concept")
        self._word("of")
        population = self._name()
        if subject == "narration":
            kind = (
                TriggerKind.WORD if self._word("says", "like") == "says" else TriggerKind.LIKENESS
            )
            what = self._quoted("a word" if kind is TriggerKind.WORD else "a sentence")
        is_above, threshold = True, WORD_THRESHOLD
        if kind is not TriggerKind.WORD:
            is_above = self._word(">", "<") == ">"
            threshold = self._number()
        above_confidence = self._confidence()
        dwell = self._dwell("window" if kind is TriggerKind.PROBE else "narration")
        return RuleCondition(kind, what, population, is_above, threshold, dwell, above_confidence)

    def _confidence(self) -> float | None:
        if self._next == len(self._tokens) or self._tokens[self._next][0] != "and":
            return None
        self._word("and")
        self._word("confidence")
        self._word(">")
        return self._number()

    def _dwell(self, counted: str) -> int:
        if self._next == len(self._tokens):
            return 1
        self._word("for")
        token, at = self._take("a whole number")
        # Nine digits are beyond the limit, and a longer text is no number to be read at all: int()
        # refuses thousands of digits with an error of its own.
        n = int(token.lstrip("0")[:9] or 0) if token.isascii() and token.isdigit() else 0
        if not 1 <= n <= MAX_DWELL:
            raise self._error(f"a whole number from 1 to {MAX_DWELL:,}", token, at)
        self._word(f"{counted}s", counted)  # both: "for 1 window" reads as well
        if self._next < len(self._tokens):
            raise self._error("nothing more", *self._tokens[self._next])
        return n

    def _word(self, *allowed: str) -> str:
        expected = " or ".join(allowed)
        token, at = self._take(expected)
        if token not in allowed:
            raise self._error(expected, token, at)
        return token

    def _quoted(self, what: str) -> str:
        expected = f"{what} in quotation marks"
        # A token that starts with a quotation mark ends with its partner, or is the mark alone.
        token, at = self._take(expected)
        if token[0] not in "\"'" or not token[1:-1].strip():
            raise self._error(expected, token, at)
        if control := _CONTROL.search(token):
            raise self._error(f"{expected}, on one line", control[0], at + control.start())
        return token[1:-1]

    def _name(self) -> str:
        token, at = self._take("the name of a population")
        if token[0] in "\"'<>":
            raise self._error("the name of a population", token, at)
        return token

    def _number(self) -> float:
        token, at = self._take("a number")
        # Not float() itself, which also takes "nan", "inf" and "1_000".
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", token):
            raise self._error("a number, such as 0.8", token, at)
        return float(token)

    def _take(self, expected: str) -> tuple[str, int]:
        # The place of a missing token is behind the text, where it would have to be written.
        if self._next == len(self._tokens):
            raise self._error(expected, "the end", len(self._text))
        self._next += 1
        return self._tokens[self._next - 1]

    def _error(self, expected: str, found: str, at: int) -> RuleConditionError:
        found = found if found == "the end" else repr(found)
        if found in ("'\"'", '"\'"'):
            found = "a quotation mark without its partner"
        return RuleConditionError(f"expected {expected}, found {found}", self._text, at)
