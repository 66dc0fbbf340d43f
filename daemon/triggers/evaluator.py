"""The trigger desk: windows and narrations become scores, and scores triggers, which go out.

A window is judged on the fast loop, right after it was encoded: its triggers are published before
anything else happens to it. Words are heard when a narration is published. What takes long,
likeness and sinks, has processes and threads of its own.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import zmq
from numpy.typing import NDArray

from contracts.clock import Clock, ns_to_second, second_to_ns
from contracts.embedding import PatchEmbedding
from contracts.narration import Narration, Status
from contracts.trigger import (
    SpokenStamps,
    Trigger,
    TriggerKind,
    TriggerStamps,
    WindowFacts,
    pack_trigger,
    trigger_latency_ms,
)
from contracts.words import words_in
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.triggers.crossing import Crossing
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.likeness_client import Likeness
from daemon.triggers.probes import PopulationProbes
from daemon.triggers.rule_file import RuleBook
from daemon.triggers.rules import Rule
from daemon.triggers.sinks.thread import Delivery

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where triggers go beside the publish socket."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as the rules know it
    @property
    def n_sent(self) -> int: ...  # noqa: D102 - deliveries that arrived
    @property
    def n_failed(self) -> int: ...  # noqa: D102 - deliveries that did not
    @property
    def n_lost(self) -> int: ...  # noqa: D102 - triggers that were never tried
    @property
    def problem(self) -> str: ...  # noqa: D102 - why triggers do not arrive; empty if all is well

    def offer(self, delivery: Delivery) -> None:
        """Leave a trigger; called on the fast loop, never waits."""
        ...

    def finish(self, *, deadline_s: float) -> None:
        """Begin to end: what waits is delivered, until the deadline; never waits."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Deliver what waits, until the deadline, and end."""
        ...


@dataclass(slots=True)
class _RuleState:
    """A rule, and what it remembers."""

    rule: Rule
    crossing: Crossing
    sinks: tuple[Sink, ...]
    column: int = -1
    words: tuple[str, ...] = ()
    n_fired: int = 0


@dataclass(frozen=True, slots=True)
class _Crossed:
    """What made a rule fire."""

    score: float
    window: WindowFacts
    stamps: TriggerStamps
    """As far as it had come when the rule was found to be true."""
    scores: dict[str, float] = field(default_factory=dict)
    narration: Narration | None = None


class TriggerEvaluator:
    """Judges windows and narrations by the rules, and publishes what they trigger.

    Parameters
    ----------
    book : RuleBook
    probes : PopulationProbes or None
        Of the populations that rules on probes name; None where no rule does.
    publisher : Publisher
    counters : Counters
    latencies : TriggerLatencies
    clock : Clock
    bundle : str
        sha256 of the bundle's manifest.
    sinks : mapping
        By name. They are the desk's to close.
    likeness : Likeness or None
        For rules on likeness; the desk's to close.
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
    ) -> None:
        self._probes = probes
        self._publisher = publisher
        self._counters = counters
        self._latencies = latencies
        self._clock = clock
        self._bundle = bundle
        self._sinks = dict(sinks or {})
        self._likeness = likeness
        self._run = secrets.token_hex(4)
        watched = [self._watch(rule) for rule in book.rules]
        kinds = {kind: [each for each in watched if _kind(each) is kind] for kind in TriggerKind}
        self._on_probes = kinds[TriggerKind.PROBE]
        self._on_words = kinds[TriggerKind.WORD]
        self._on_likeness = kinds[TriggerKind.LIKENESS]
        self._watched = watched
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
        """Narrations that likeness has been asked about, and has neither answered nor dropped."""
        return self._likeness.n_unfinished if self._likeness else 0

    @property
    def problem(self) -> str:
        """Why some rule or sink does not work now; empty if all is well."""
        found = [self._likeness.problem] if self._likeness else []
        found += [sink.problem for sink in self._sinks.values()]
        return "; ".join(filter(None, found))

    def evaluate(self, embeddings: Sequence[PatchEmbedding]) -> None:
        """Publish what one window triggers; called on the fast loop, never waits.

        Parameters
        ----------
        embeddings : sequence of PatchEmbedding
            One window, through every population.
        """
        if self._probes is None or not embeddings:
            return
        found = self._probes.probabilities(embeddings)
        session_ns = embeddings[0].window.stop_ns
        said = []
        for each in self._on_probes:
            probability = found.get(each.rule.condition.population)
            if probability is None:
                continue
            score = float(probability[each.column])
            if each.crossing.take(score, session_ns):
                said.append(self._say(each, self._seen(embeddings[0], score, probability)))
        self._follow_up(said)

    def on_narration(self, narration: Narration) -> None:
        """Publish what a narration triggers; called on the fast loop, never waits.

        What is like a sentence is found out elsewhere, and published by `poll`.

        Parameters
        ----------
        narration : Narration
            One that has been published. A failed one has no words and is passed over.
        """
        if narration.said.status is Status.FAILED:
            return
        on_words = [each for each in self._on_words if _is_about(each, narration)]
        if on_words:
            said = words_in(narration.said.text)
            for each in on_words:
                self._weigh(each, float(_has(said, each.words)), narration)
        if self._likeness and any(_is_about(each, narration) for each in self._on_likeness):
            self._likeness.ask(narration)

    def poll(self) -> None:
        """Publish what likeness has found since, and take the counts; never waits."""
        if self._likeness:
            for narration, cosines in self._likeness.collect():
                for each in self._on_likeness:
                    if _is_about(each, narration):
                        self._weigh(each, cosines[each.rule.condition.what], narration)
        self._take_counts()

    def close(self, *, deadline_s: float) -> None:
        """Deliver what waits, until the deadline, and let go of sinks and processes."""
        stop_ns = self._clock.now_ns() + second_to_ns(deadline_s)

        def remaining_s() -> float:
            return max(0.05, ns_to_second(stop_ns - self._clock.now_ns()))

        for sink in self._sinks.values():  # all at once, so that none waits for another's end
            sink.finish(deadline_s=remaining_s())
        for sink in self._sinks.values():
            sink.close(deadline_s=remaining_s())
        if self._likeness:  # last: nothing that it could still find out is of use
            self._likeness.close(deadline_s=remaining_s())
        self._take_counts()

    def _watch(self, rule: Rule) -> _RuleState:
        named = () if rule.is_dry else rule.sinks
        sinks = tuple(self._sinks[name] for name in named)
        watched = _RuleState(rule, Crossing(rule.level), sinks)
        if self._probes and rule.condition.kind is TriggerKind.PROBE:
            watched.column = self._probes.concepts.index(rule.condition.what)
        if rule.condition.kind is TriggerKind.WORD:
            watched.words = words_in(rule.condition.what)
        return watched

    def _seen(
        self, embedding: PatchEmbedding, score: float, probability: NDArray[np.float32]
    ) -> _Crossed:
        decided_ns = self._clock.now_ns()
        window = embedding.window
        names = self._probes.concepts if self._probes else ()
        stamps = TriggerStamps(
            newest_spike_received=window.newest_received_host_ns,
            window_complete=window.complete_host_ns,
            encoded=embedding.encoded_host_ns,
            decided=decided_ns,
            published=decided_ns,
        )
        scores = dict(zip(names, probability.tolist(), strict=True))
        return _Crossed(score, WindowFacts.of(window), stamps, scores)

    def _weigh(self, each: _RuleState, score: float, narration: Narration) -> None:
        """Take in what a narration is worth to a rule, and publish the trigger if it fires."""
        if not each.crossing.take(score, second_to_ns(narration.window_stop_s)):
            return
        decided_ns = self._clock.now_ns()
        stamps = TriggerStamps(
            newest_spike_received=narration.stamps.newest_spike_received,
            window_complete=narration.stamps.window_complete,
            encoded=narration.stamps.encoded,
            decided=decided_ns,
            published=decided_ns,
            spoken=SpokenStamps.of(narration.stamps),
        )
        found = _Crossed(score, WindowFacts.told_in(narration), stamps, narration=narration)
        self._follow_up([self._say(each, found)])

    def _say(self, each: _RuleState, found: _Crossed) -> tuple[_RuleState, Delivery]:
        """Publish a trigger, and nothing else."""
        rule, narration = each.rule, found.narration
        population = rule.condition.population
        calibrations = self._probes.calibrations if self._probes and not narration else {}
        trigger = Trigger(
            id=f"{self._run}-{rule.name}-{each.n_fired}",
            seq=each.n_fired,
            name=rule.name,
            kind=rule.condition.kind,
            rule=rule.text,
            population=population,
            dry_run=rule.is_dry,
            score=found.score,
            threshold=rule.level.threshold,
            window=found.window,
            stamps=replace(found.stamps, published=self._clock.now_ns()),
            bundle=self._bundle,
            calibration=calibrations.get(population),
            scores=found.scores,
            narration_id=narration.id if narration else None,
            text=narration.said.text if narration else None,
        )
        parts = pack_trigger(trigger)
        self._publisher.publish(parts)
        each.n_fired += 1
        return each, Delivery(trigger, parts[1])

    def _follow_up(self, said: Sequence[tuple[_RuleState, Delivery]]) -> None:
        """Count and log triggers, and give them to the sinks, whose threads wake up at once."""
        for _, delivery in said:
            trigger = delivery.trigger
            durations_ms = trigger_latency_ms(trigger.stamps)
            self._counters.triggers[trigger.name] += 1
            self._latencies.record(trigger.kind.value, durations_ms)
            _log(trigger, durations_ms)
        for each, delivery in said:
            for sink in each.sinks:
                sink.offer(delivery)

    def _take_counts(self) -> None:
        counters = self._counters
        for each in self._watched:
            counters.triggers_refractory[each.rule.name] = each.crossing.n_passed_over
        for name, sink in self._sinks.items():
            counters.trigger_sink_sent[name] = sink.n_sent
            counters.trigger_sink_failed[name] = sink.n_failed
            counters.trigger_sink_dropped[name] = sink.n_lost
        if self._likeness:
            counters.likeness_dropped = self._likeness.n_dropped


def _kind(each: _RuleState) -> TriggerKind:
    return each.rule.condition.kind


def _is_about(each: _RuleState, narration: Narration) -> bool:
    return each.rule.condition.population == narration.population


def _has(said: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether some words stand in others, one after the other."""
    n = len(wanted)
    return any(tuple(said[at : at + n]) == tuple(wanted) for at in range(len(said) - n + 1))


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
