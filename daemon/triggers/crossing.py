"""When a rule fires: a pure state machine over scores, without sockets or clocks.

Theory of operation
-------------------
A crossing has a *threshold*, a *release* on its other side, a *dwell* and a *refractory time*.

::

    armed ── dwell scores in a row beyond the threshold ──► fires, not armed
    not armed ── a score at the release or on its far side ──► armed

A rule for ``>`` starts armed, so that a concept that is present at the start fires. A rule for
``<`` starts not armed: what disappears must have been present. The refractory time is counted from
one firing to the next in session time. A crossing that would fire within it is passed over as a
whole: firing later would report as new what began long before.

A score of a window that was decoded with too little confidence says nothing about the concept: it
arms no rule and is not beyond the threshold, so that a dwell begins anew.

Time that runs backwards is another run of the source, and the rule starts afresh. A score that is
not a number is treated as if there had been none.

Invariants (``tests/daemon/triggers/test_crossing.py``):

1. Never two firings within the refractory time        ``test_never_within_the_refractory_time``
2. Never before the dwell is full                      ``test_never_before_the_dwell``
3. Between two firings lies a score at the release     ``test_one_firing_per_crossing``
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NEVER = -(2**63)
"""Session nanoseconds before any other."""


@dataclass(frozen=True, slots=True)
class Level:
    """The numbers of a rule's condition."""

    is_above: bool  # whether it fires above the threshold, or below it
    threshold: float  # a score beyond it counts; one that is equal does not
    release: float  # a score that is equal, or on the other side, arms the rule again
    dwell: int = 1  # scores in a row that must be beyond the threshold; 1 or more
    refractory_ns: int = 0  # session time between two firings, at least
    # a score that is older than the one before it, by no more than this, is passed over: narrations
    # may overtake each other, windows do not
    straggler_ns: int = 0


class Crossing:
    """The state of one rule."""

    def __init__(self, level: Level) -> None:
        self.n_passed_over = 0  # crossings that came within the refractory time
        # With the sign of a rule for "<" turned round, "beyond" is "greater" for both kinds.
        self._sign = 1.0 if level.is_above else -1.0
        self._threshold = self._sign * level.threshold
        self._release = self._sign * level.release
        self._level = level
        self._last_ns = NEVER
        self._is_armed = level.is_above
        self._n_beyond = 0
        self._fired_ns = NEVER

    def take(self, score: float, session_ns: int, *, is_sure: bool = True) -> bool:
        """Take in a score; return whether the rule fires now.

        A score is a probability, a cosine, or 1 or 0 for a word that is said or not; `session_ns`
        is the end of its window. Without `is_sure` the window's confidence is too low for the rule.
        """
        # A little older than the last one: a narration that was overtaken. Counted as a step
        # backwards in time it would arm the rule a second time for the same scene.
        if self._last_ns - self._level.straggler_ns <= session_ns < self._last_ns:
            return False
        if session_ns < self._last_ns:
            self._start_afresh()
        # Also for a score that is no number: its window has passed, and a later one that is older
        # has been overtaken.
        self._last_ns = session_ns
        # Neither arms, nor counts, nor breaks a dwell: nothing is known about this window.
        if math.isnan(score):
            return False
        if not is_sure:
            self._n_beyond = 0
            return False
        score = self._sign * score
        if score <= self._release:
            self._is_armed = True
        self._n_beyond = self._n_beyond + 1 if score > self._threshold else 0
        if not self._is_armed or self._n_beyond < self._level.dwell:
            return False
        # Also within the refractory time: such a crossing is passed over as a whole.
        self._is_armed = False
        if session_ns - self._fired_ns < self._level.refractory_ns:
            self.n_passed_over += 1
            return False
        self._fired_ns = session_ns
        return True

    def _start_afresh(self) -> None:
        self._is_armed = self._level.is_above
        self._n_beyond = 0
        self._fired_ns = NEVER
