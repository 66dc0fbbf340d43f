"""Evaluates the trigger rules on windows and narrations, and publishes what they trigger.

Theory of operation
-------------------
Everything here runs on the fast loop and never waits. There are three ways in:

* `evaluate`, right after a window was encoded: rules on concept probes. Their triggers leave before
  anything else happens to the window, because they are the fast path to a stimulus.
* `on_narration`, when a narration has been published: rules on words, from its text; rules on
  likeness are submitted to a sentence model in another process.
* `poll`, several times a second: cosines that the sentence model has returned since.

All three give a score to the rule's `Crossing`, which decides whether it fires. A rule that fires
is published first; logs, counts and sinks follow, since each of them costs time that a subscriber
would wait. Sinks are threads behind bounded queues, so that leaving a trigger there is one put.

Invariants (``tests/daemon/triggers/test_evaluator.py``):

1. A trigger is published before `evaluate` returns
   (``test_a_window_triggers_at_once``).
2. A probability that is not a number fires no rule
   (``test_a_window_that_is_no_number_triggers_nothing``).
3. A failed narration, or one that a later one has overtaken, fires no rule
   (``test_a_failed_narration_is_passed_over``,
   ``test_a_narration_that_was_overtaken_changes_nothing``).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import zmq
from numpy.typing import NDArray

from contracts.clock import Clock, ns_to_second, second_to_ns
from contracts.embedding import PatchEmbedding
from contracts.narration import Narration, Status
from contracts.trigger import (
    NarratorStamps,
    Trigger,
    TriggerKind,
    TriggerStamps,
    WindowFacts,
    pack_trigger,
    trigger_latency_ms,
)
from contracts.words import has_phrase, words_in
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.triggers.crossing import Crossing
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.likeness_client import Likeness
from daemon.triggers.probe_publisher import ProbePublisher, ShownRule
from daemon.triggers.probes import PopulationProbes
from daemon.triggers.rule_file import RuleBook
from daemon.triggers.rules import Rule, asking_for_confidence
from daemon.triggers.sinks.thread import Delivery

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where triggers go beside the publish socket."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as the rules name it
    @property
    def n_sent(self) -> int: ...  # noqa: D102 - deliveries that arrived
    @property
    def n_failed(self) -> int: ...  # noqa: D102 - deliveries that did not
    @property
    def n_lost(self) -> int: ...  # noqa: D102 - triggers that were never tried
    @property
    def problem(self) -> str: ...  # noqa: D102 - why triggers do not arrive; empty if they do

    def offer(self, delivery: Delivery) -> None:
        """Queue a trigger; called on the fast loop, never waits."""
        ...

    def finish(self, *, deadline_s: float) -> None:
        """Start to end: what is queued is delivered, until the deadline; never waits."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Deliver what is queued, until the deadline, and end."""
        ...


@dataclass(slots=True)
class _RuleState:
    """A rule, and what it remembers."""

    rule: Rule
    crossing: Crossing
    sinks: tuple[Sink, ...]
    column: int = -1
    """Of its concept in the probes' table; -1 for other kinds."""
    words: tuple[str, ...] = ()
    n_fired: int = 0


@dataclass(frozen=True, slots=True)
class _Crossed:
    """What made a rule fire."""

    score: float
    window: WindowFacts
    stamps: TriggerStamps
    """Up to ``decided``; ``published`` is stamped when the trigger leaves."""
    scores: dict[str, float] = field(default_factory=dict)
    narration: Narration | None = None
    confidence: float | None = None


class TriggerEvaluator:
    """Evaluates windows and narrations by the rules, and publishes what they trigger.

    `probes` are those of the populations that rules name, None where no rule does; `bundle` is the
    sha256 of its manifest. `confidence_of` says how sure a decoding is, for the rules that ask.
    `close` closes the sinks and `likeness`.
    """

    def __init__(
        self,
        book: RuleBook,
        *,
        probes: PopulationProbes | None,
        publisher: Publisher,
        counters: Counters,
        latencies: TriggerLatencies,
        clock: Clock,
        bundle: str,
        sinks: Mapping[str, Sink] | None = None,
        likeness: Likeness | None = None,
        confidence_of: Callable[[PatchEmbedding], float | None] = lambda _: None,
    ) -> None:
        self._probes = probes
        self._confidence_of = confidence_of
        self._publisher = publisher
        self._counters = counters
        self._latencies = latencies
        self._clock = clock
        self._bundle = bundle
        self._sinks = dict(sinks or {})
        self._likeness = likeness
        # Trigger ids start with it: a daemon that was restarted never repeats an id.
        self._run = secrets.token_hex(4)
        self._rules = [self._state_of(rule) for rule in book.rules]
        self._of_kind = {
            kind: [state for state in self._rules if state.rule.condition.kind is kind]
            for kind in TriggerKind
        }
        # Populations whose confidence is measured in each window; others would cost for nothing.
        self._asked = asking_for_confidence(book.of_kind(TriggerKind.PROBE))
        on_probes = [ShownRule(one.rule, one.column) for one in self._of_kind[TriggerKind.PROBE]]
        self._shown = ProbePublisher(publisher, clock, on_probes, self.concepts)
        # Zeros at the start, so that a rule that never fired is a line in /metrics too.
        names = [rule.name for rule in book.rules]
        for counter in (counters.triggers, counters.triggers_refractory):
            counter.update(dict.fromkeys(names, 0))
        self._take_counts()

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """Sockets to be polled by the loop."""
        return self._likeness.sockets if self._likeness else ()

    @property
    def n_unfinished(self) -> int:
        """Narrations submitted to the sentence model and neither compared nor dropped yet."""
        return self._likeness.n_unfinished if self._likeness else 0

    @property
    def problem(self) -> str:
        """Why some rule or sink does not work now; empty if all do."""
        problems = [self._likeness.problem] if self._likeness else []
        problems += [sink.problem for sink in self._sinks.values()]
        return "; ".join(filter(None, problems))

    def evaluate(self, embeddings: Sequence[PatchEmbedding]) -> None:
        """Publish what one window triggers; called on the fast loop, never waits.

        The embeddings are of one window, through every population.
        """
        # Rules on narrations alone: the encoder's output need not be looked at.
        if self._probes is None or not embeddings:
            return
        probabilities = self._probes.probabilities(embeddings)
        confidences = {
            one.population: self._confidence_of(one)
            for one in embeddings
            if one.population in self._asked
        }
        session_ns = embeddings[0].window.stop_ns
        fired = []
        for state in self._of_kind[TriggerKind.PROBE]:
            of_population = probabilities.get(state.rule.condition.population)
            # The encoder may have been given some populations only: those that triggers need go
            # through it first.
            if of_population is None:
                continue
            score = float(of_population[state.column])
            condition = state.rule.condition
            confidence = confidences.get(condition.population)
            is_sure = condition.is_sure(confidence)
            if state.crossing.take(score, session_ns, is_sure=is_sure):
                crossed = self._window_crossed(embeddings[0], score, of_population, confidence)
                fired.append(self._publish(state, crossed))
        # Only after the last rule: logs and sinks of the first must not delay the others.
        self._follow_up(fired)
        self._shown.publish(embeddings[0].window, probabilities)

    def on_narration(self, narration: Narration) -> None:
        """Publish what a narration's words trigger; called on the fast loop, never waits.

        A failed narration has no words and is passed over. Rules on likeness are evaluated in
        another process, and their triggers published by `poll`.
        """
        if narration.utterance.status is Status.FAILED:
            return
        on_words = [
            state for state in self._of_kind[TriggerKind.WORD] if _is_about(state, narration)
        ]
        # The text is split once for all rules, and not at all where none is about this population.
        if on_words:
            words = words_in(narration.utterance.text)
            for state in on_words:
                self._take_score(state, float(has_phrase(words, state.words)), narration)
        on_likeness = self._of_kind[TriggerKind.LIKENESS]
        if self._likeness and any(_is_about(state, narration) for state in on_likeness):
            self._likeness.submit(narration)

    def poll(self) -> None:
        """Publish what the sentence model has found since, and take the counts; never waits."""
        if self._likeness:
            for narration, cosines in self._likeness.collect():
                for state in self._of_kind[TriggerKind.LIKENESS]:
                    if _is_about(state, narration):
                        self._take_score(state, cosines[state.rule.condition.what], narration)
        self._take_counts()

    def close(self, *, deadline_s: float) -> None:
        """Deliver what is queued, until the deadline, and close sinks and processes."""
        stop_ns = self._clock.now_ns() + second_to_ns(deadline_s)

        def remaining_s() -> float:
            # Never zero: each still gets the moment that an orderly end takes.
            return max(0.05, ns_to_second(stop_ns - self._clock.now_ns()))

        for sink in self._sinks.values():  # all at once, so that none waits for another's end
            sink.finish(deadline_s=remaining_s())
        for sink in self._sinks.values():
            sink.close(deadline_s=remaining_s())
        if self._likeness:  # last: nothing that it could still find is of use
            self._likeness.close(deadline_s=remaining_s())
        self._take_counts()

    @property
    def concepts(self) -> Sequence[str]:
        """Those of the probes; none where no rule is on a probe."""
        return self._probes.concepts if self._probes else ()

    def _state_of(self, rule: Rule) -> _RuleState:
        # Dry rules have no sinks, rather than sinks that are skipped: none is reached by mistake.
        names = () if rule.is_dry else rule.sinks
        state = _RuleState(rule, Crossing(rule.level), tuple(self._sinks[name] for name in names))
        if self._probes and rule.condition.kind is TriggerKind.PROBE:
            state.column = self._probes.concepts.index(rule.condition.what)
        if rule.condition.kind is TriggerKind.WORD:
            state.words = words_in(rule.condition.what)
        return state

    def _window_crossed(
        self,
        embedding: PatchEmbedding,
        score: float,
        probability: NDArray[np.float32],
        confidence: float | None,
    ) -> _Crossed:
        decided_ns = self._clock.now_ns()
        window = embedding.window
        stamps = TriggerStamps(
            newest_spike_received=window.newest_received_host_ns,
            window_complete=window.complete_host_ns,
            encoded=embedding.encoded_host_ns,
            decided=decided_ns,
            published=decided_ns,
        )
        scores = dict(zip(self.concepts, probability.tolist(), strict=True))
        return _Crossed(score, WindowFacts.of(window), stamps, scores, confidence=confidence)

    def _take_score(self, state: _RuleState, score: float, narration: Narration) -> None:
        """Give a rule the score of a narration, and publish the trigger if the rule fires."""
        # The window's time and not the narration's: a rule must fire at the same windows whatever
        # the narrator's pace.
        is_sure = state.rule.condition.is_sure(narration.confidence)
        stop_ns = second_to_ns(narration.window_stop_s)
        if not state.crossing.take(score, stop_ns, is_sure=is_sure):
            return
        decided_ns = self._clock.now_ns()
        stamps = TriggerStamps(
            newest_spike_received=narration.stamps.newest_spike_received,
            window_complete=narration.stamps.window_complete,
            encoded=narration.stamps.encoded,
            decided=decided_ns,
            published=decided_ns,
            narrator=NarratorStamps.of(narration.stamps),
        )
        crossed = _Crossed(
            score,
            WindowFacts.of_narration(narration),
            stamps,
            narration=narration,
            confidence=narration.confidence,
        )
        self._follow_up([self._publish(state, crossed)])

    def _publish(self, state: _RuleState, crossed: _Crossed) -> tuple[_RuleState, Delivery]:
        """Publish a trigger, and do nothing else."""
        rule, narration = state.rule, crossed.narration
        population = rule.condition.population
        # Words and cosines have no calibration: only a probe's probability does.
        calibrations = self._probes.calibrations if self._probes and not narration else {}
        trigger = Trigger(
            id=f"{self._run}-{rule.name}-{state.n_fired}",
            seq=state.n_fired,
            name=rule.name,
            kind=rule.condition.kind,
            rule=rule.text,
            population=population,
            dry_run=rule.is_dry,
            score=crossed.score,
            threshold=rule.level.threshold,
            window=crossed.window,
            stamps=replace(crossed.stamps, published=self._clock.now_ns()),
            bundle=self._bundle,
            calibration=calibrations.get(population),
            scores=crossed.scores,
            confidence=crossed.confidence,
            narration_id=narration.id if narration else None,
            text=narration.utterance.text if narration else None,
        )
        parts = pack_trigger(trigger)
        self._publisher.publish(parts)
        state.n_fired += 1
        return state, Delivery(trigger, parts[1])

    def _follow_up(self, fired: Sequence[tuple[_RuleState, Delivery]]) -> None:
        """Count and log triggers, then offer them to the sinks."""
        for _, delivery in fired:
            trigger = delivery.trigger
            durations_ms = trigger_latency_ms(trigger.stamps)
            self._counters.triggers[trigger.name] += 1
            self._latencies.record(trigger.kind.value, durations_ms)
            _log(trigger, durations_ms)
        # Last: a sink's thread wakes at once and competes for the interpreter with what follows.
        for state, delivery in fired:
            for sink in state.sinks:
                sink.offer(delivery)

    def _take_counts(self) -> None:
        # The sinks' own threads count; metrics are read from counters of the fast loop only.
        counters = self._counters
        for state in self._rules:
            counters.triggers_refractory[state.rule.name] = state.crossing.n_passed_over
        for name, sink in self._sinks.items():
            counters.trigger_sink_sent[name] = sink.n_sent
            counters.trigger_sink_failed[name] = sink.n_failed
            counters.trigger_sink_dropped[name] = sink.n_lost
        if self._likeness:
            counters.likeness_dropped = self._likeness.n_dropped


def _is_about(state: _RuleState, narration: Narration) -> bool:
    return state.rule.condition.population == narration.population


def _log(trigger: Trigger, durations_ms: Mapping[str, float]) -> None:
    """Write the one canonical line of a trigger."""
    logger.info(
        "triggered",
        extra={
            "rule": trigger.name,
            "population": trigger.population,
            "window": trigger.window.seq,
            "window_stop_s": round(trigger.window.stop_s, 3),
            "score": round(trigger.score, 4),
            "dry_run": trigger.dry_run,
            "total_ms": round(durations_ms["total"], 2),
        },
    )
