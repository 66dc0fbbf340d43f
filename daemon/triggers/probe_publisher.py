"""Publishes what the concept probes give, decimated for displays, while somebody subscribes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, Clock, ns_to_second
from contracts.displays import PROBES_TOPIC, ProbeRule, ProbeScores, ProbeWindow, pack_probes
from contracts.window import Window
from daemon.publisher import Publisher
from daemon.triggers.rules import Rule

EVERY_NS = NS_PER_S // 10
"""Of session time, between two messages at least."""

MIN_APART_NS = NS_PER_S // 20
"""Of host time, likewise: a replay may be faster than real time."""

SCORE_DIGITS = 4


class ShownRule(NamedTuple):
    """A rule on a probe, and the column of its concept."""

    rule: Rule
    column: int


class ProbePublisher:
    """Publishes the probabilities of all concepts, and the score of each rule.

    `concepts` are those of the probes, in the order of their columns.
    """

    def __init__(
        self,
        publisher: Publisher,
        clock: Clock,
        rules: Sequence[ShownRule],
        concepts: Sequence[str],
    ) -> None:
        self._publisher = publisher
        self._clock = clock
        self._rules = rules
        self._concepts = concepts
        self._last_session_ns: int | None = None
        self._due_ns = 0
        self._seq = 0

    def publish(self, window: Window, probabilities: Mapping[str, NDArray[np.float32]]) -> None:
        """Publish the scores of one window if it is time; called on the fast loop, never waits."""
        if not self._publisher.has_subscriber(PROBES_TOPIC):
            return
        now_ns, last_ns = self._clock.now_ns(), self._last_session_ns
        is_soon = last_ns is not None and last_ns <= window.stop_ns < last_ns + EVERY_NS
        if is_soon or now_ns < self._due_ns:
            return
        self._last_session_ns, self._due_ns = window.stop_ns, now_ns + MIN_APART_NS
        known = {name: row for name, row in probabilities.items() if np.isfinite(row).all()}
        self._publisher.publish(pack_probes(self._scores(window, known, now_ns)))
        self._seq += 1

    def _scores(
        self, window: Window, probabilities: Mapping[str, NDArray[np.float32]], now_ns: int
    ) -> ProbeScores:
        values = {
            name: [round(value, SCORE_DIGITS) for value in row.tolist()]
            for name, row in probabilities.items()
        }
        return ProbeScores(
            seq=self._seq,
            host_ns=now_ns,
            window=ProbeWindow(
                seq=window.seq,
                start_s=ns_to_second(window.start_ns),
                stop_s=ns_to_second(window.stop_ns),
                frame_s=ns_to_second(window.frame_ns),
            ),
            rules={
                rule.name: ProbeRule(
                    population=rule.condition.population,
                    concept=rule.condition.what,
                    is_above=rule.level.is_above,
                    threshold=rule.level.threshold,
                    release=rule.level.release,
                    score=values[rule.condition.population][column],
                )
                for rule, column in self._rules
                if rule.condition.population in values
            },
            scores={
                name: dict(zip(self._concepts, row, strict=True)) for name, row in values.items()
            },
        )
