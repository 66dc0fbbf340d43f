"""The trigger evaluator: windows and narrations in, triggers out, at once and once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import zmq
from prometheus_client import CollectorRegistry, generate_latest

from contracts.displays import probes_of
from contracts.embedding import PatchEmbedding
from contracts.narration import Narration, Stamps, Status
from contracts.narration_wire import pack_narration
from contracts.trigger import Trigger, TriggerKind, WindowFacts, unpack_trigger
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.probes import ConceptProbes, PopulationProbes
from daemon.triggers.rule_file import STRAGGLER_NS, RuleBook
from daemon.triggers.rules import Rule
from daemon.triggers.sinks.thread import Delivery
from tests.support.daemon_components import Context
from tests.support.manual_clock import ManualClock
from tests.support.narrations import narration
from tests.support.triggers import concept_probes, huge, probes_that_cancel, rule, seen

STAMPS = tuple(name for name in Stamps.__dataclass_fields__ if name != "published")

EXPRESSIONS = {"all": "all", "VISp": "area:VISp", "few": "ids:1|2"}


@dataclass
class FakeSink:
    """Remembers what it was offered."""

    name: str = "sink"
    n_sent: int = 3
    n_failed: int = 2
    n_lost: int = 1
    problem: str = ""
    offered: list[Delivery] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def offer(self, delivery: Delivery) -> None:
        self.offered.append(delivery)

    def finish(self, *, deadline_s: float) -> None:
        self.ends.append(f"{self.name} finishes")

    def close(self, *, deadline_s: float) -> None:
        self.ends.append(f"{self.name} is closed")


@dataclass
class FakeLikeness:
    """Gives every narration the same cosine."""

    cosine: float = 0.9
    n_dropped: int = 4
    sockets: Sequence[zmq.Socket[bytes]] = ()
    asked: list[Narration] = field(default_factory=list)
    problem: str = ""
    ends: list[str] = field(default_factory=list)

    @property
    def n_unfinished(self) -> int:
        return len(self.asked)

    def submit(self, narration: Narration) -> None:
        self.asked.append(narration)

    def collect(self) -> Iterator[tuple[Narration, Mapping[str, float]]]:
        while self.asked:
            yield self.asked.pop(0), {"darkness": self.cosine}

    def close(self, *, deadline_s: float) -> None:
        self.asked.clear()
        self.ends.append("likeness is closed")


@dataclass
class EvaluatorBench:
    """An evaluator with a subscriber."""

    evaluator: TriggerEvaluator
    publisher: Publisher
    subscriber: zmq.Socket[bytes]
    counters: Counters
    clock: ManualClock
    registry: CollectorRegistry
    context: Context

    def published(self) -> list[Trigger]:
        """Return the triggers published since."""
        self.publisher.publish([b"trigger.zzz", b"end"])
        found = []
        while (parts := self.subscriber.recv_multipart())[1] != b"end":
            found.append(unpack_trigger(parts[1]))
        return found


@contextmanager
def subscribed_to(bench: EvaluatorBench, topic: bytes) -> Iterator[zmq.Socket[bytes]]:
    with bench.context.socket(zmq.SUB) as socket:
        socket.subscribe(topic)
        socket.set(zmq.RCVTIMEO, 5000)
        socket.connect(bench.publisher.address)
        assert bench.publisher.socket.poll(5000)
        bench.publisher.serve()
        yield socket


@pytest.fixture
def make(context: Context):
    """Return a function from rules to an evaluator with a subscriber."""
    opened: list[Publisher | zmq.Socket[bytes]] = []

    def made(
        *rules: Rule,
        likeness: FakeLikeness | None = None,
        probes: ConceptProbes | None = None,
        confidence_of: Callable[[PatchEmbedding], float | None] = lambda _: None,
        **sinks: FakeSink,
    ) -> EvaluatorBench:
        publisher = Publisher(context, "tcp://127.0.0.1:*")
        subscriber = context.socket(zmq.SUB)
        opened.extend((subscriber, publisher))
        subscriber.subscribe(b"trigger.")
        subscriber.set(zmq.RCVTIMEO, 5000)
        subscriber.connect(publisher.address)
        assert publisher.socket.poll(5000)
        publisher.serve()
        counters, clock, registry = Counters(), ManualClock(), CollectorRegistry()
        evaluator = TriggerEvaluator(
            RuleBook(rules, {}),
            probes=PopulationProbes(probes or concept_probes(), EXPRESSIONS),
            publisher=publisher,
            counters=counters,
            latencies=TriggerLatencies(registry),
            clock=clock,
            bundle="b" * 64,
            sinks=sinks,
            likeness=likeness,
            confidence_of=confidence_of,
        )
        return EvaluatorBench(evaluator, publisher, subscriber, counters, clock, registry, context)

    yield made
    for each in opened:
        each.close()


def test_a_window_triggers_at_once(make):
    """A concept that crosses its threshold is published by `evaluate`, with all its facts."""
    made = make(rule('probe "car" of VISp > 0.8', "car_seen"))
    made.clock.ns = 9_000_000
    made.evaluator.evaluate(seen(5, 0.9, ("all", "VISp"), host_ns=4_000_000))
    (found,) = made.published()
    assert (found.name, found.kind, found.population) == ("car_seen", TriggerKind.PROBE, "VISp")
    assert found.score == pytest.approx(0.9, abs=1e-5)
    assert found.scores["dog"] == pytest.approx(0.5)
    assert found.calibration == "area:VISp"
    assert found.window.seq == 5
    assert found.rule == 'probe "car" of VISp > 0.8'
    assert (found.stamps.encoded, found.stamps.published) == (4_000_000, 9_000_000)
    assert found.narration_id is None
    assert found.bundle == "b" * 64


def test_rules_are_of_one_population_each(make):
    """What one population shows is nothing to a rule of another."""
    made = make(
        rule('probe "car" of VISp > 0.8', "visp"),
        rule('probe "car" of all > 0.8', "all"),
        rule('probe "dark" of all > 0.8', "dark"),
        rule('probe "car" of few > 0.8', "few"),
    )
    made.evaluator.evaluate([*seen(0, 0.1, ("all",)), *seen(0, 0.9, ("VISp", "few"))])
    found = {each.name: each.calibration for each in made.published()}
    assert found == {"visp": "area:VISp", "few": "all"}


def test_ids_and_numbers_count_each_rule(make):
    """``seq`` counts a rule's triggers, and each has an id of its own."""
    made = make(rule('probe "car" of all > 0.8', "car"), rule('probe "dog" of all > 0.4', "dog"))
    for seq, probability in enumerate((0.9, 0.1, 0.9)):
        made.evaluator.evaluate(seen(seq, probability))
    found = made.published()
    assert [(each.name, each.seq) for each in found] == [("car", 0), ("dog", 0), ("car", 1)]
    assert len({each.id for each in found}) == 3


def test_a_window_that_is_no_number_triggers_nothing(make):
    """NaN from an encoder is neither above nor below anything."""
    made = make(rule('probe "car" of all > 0.8'), rule('probe "dog" of all < 0.2', "gone"))
    embeddings = seen(0, 0.9)
    embeddings[0].patches[:] = float("nan")
    made.evaluator.evaluate(embeddings)
    made.evaluator.evaluate([])
    assert made.published() == []


def test_a_window_that_overflows_triggers_nothing(make):
    """Finite patches too large to be added up are no score, and the next window is judged."""
    made = make(rule('probe "car" of all > 0.8'), probes=probes_that_cancel())
    made.evaluator.evaluate(huge(0))
    made.evaluator.evaluate(seen(1, 0.9))
    assert [each.window.seq for each in made.published()] == [1]


@pytest.mark.parametrize(
    ("word", "text", "fires"),
    [
        ("dark", "The street is dark.", True),
        ("Dark", "DARK street", True),
        ("car", "Two cars drive away.", True),
        ("cars", "A car drives away.", True),
        ("car", "A carpet lies there.", False),
        ("dark", "There is darkness.", False),
        ("car", "A street with no cars.", False),
        ("car", "A street without cars, and a car.", True),
        ("traffic light", "Two traffic lights.", True),
        ("traffic light", "A light in the traffic.", False),
    ],
)
def test_words_are_heard_as_concepts_are_counted(make, word: str, text: str, fires: bool):
    """Any case, singular or plural, whole words in their order, and not what is absent."""
    made = make(rule(f'narration of all says "{word}"'))
    made.evaluator.on_narration(narration(text=text))
    assert bool(made.published()) == fires


def test_a_narration_triggers_with_its_own_life(make):
    """The narration's stamps, id and words go with the trigger."""
    made = make(rule('narration of VISp says "car"', "car_said"))
    made.clock.ns = 70_000_000
    said = replace(narration(population="VISp", seq=4), n_gap_bins=2, blind_streams=("probe_b",))
    made.evaluator.on_narration(narration(population="all"))
    made.evaluator.on_narration(said)
    (found,) = made.published()
    assert (found.kind, found.narration_id, found.text) == ("word", said.id, said.utterance.text)
    assert (found.score, found.threshold, found.scores, found.calibration) == (1, 0.5, {}, None)
    assert found.stamps.in_order() == {
        **{name: getattr(said.stamps, name) for name in STAMPS},
        "narrated": said.stamps.published,
        "decided": 70_000_000,
        "published": 70_000_000,
    }
    assert found.window == WindowFacts(
        said.window_seq,
        said.window_start_s,
        said.window_stop_s,
        said.frame_s,
        said.n_gap_bins,
        said.blind_streams,
    )


def test_a_failed_narration_is_passed_over(make):
    """What was never said neither triggers nor arms a rule again."""
    made = make(rule('narration of all says "car"'), likeness=FakeLikeness())
    made.evaluator.on_narration(narration(seq=0))
    made.evaluator.on_narration(narration(seq=1, text="", status=Status.FAILED))
    made.evaluator.on_narration(narration(seq=2))
    assert len(made.published()) == 1


def test_a_narration_that_was_overtaken_changes_nothing(make):
    """One of an older window that comes late is no new run of the source."""
    made = make(
        rule('narration of all says "car"', refractory_s=60, straggler_s=STRAGGLER_NS / 1e9)
    )
    for seq, text in ((4, "A car."), (3, "A dog."), (5, "A car."), (6, "A dog."), (7, "A car.")):
        made.evaluator.on_narration(narration(seq=seq, text=text))
    assert [each.window.seq for each in made.published()] == [4]
    made.evaluator.poll()
    assert made.counters.triggers_refractory == {"seen": 1}


def test_likeness_is_found_elsewhere_and_published_by_poll(make):
    """`hear` only asks; the trigger comes when the answer is there."""
    likeness = FakeLikeness()
    made = make(rule('narration of all like "darkness" > 0.5', "night"), likeness=likeness)
    made.evaluator.on_narration(narration(population="VISp"))
    made.evaluator.on_narration(narration(seq=1, text="It is night."))
    assert made.published() == []
    made.evaluator.poll()
    (found,) = made.published()
    assert (found.kind, found.score, found.text) == ("likeness", 0.9, "It is night.")
    assert made.counters.likeness_dropped == 4


def test_what_likeness_has_not_answered_is_known(make):
    """Whoever ends the daemon can wait for it; a rule that cannot work is a problem."""
    likeness = FakeLikeness()
    made = make(rule('narration of all like "darkness" > 0.5', "night"), likeness=likeness)
    assert (made.evaluator.n_unfinished, made.evaluator.problem) == (0, "")
    made.evaluator.on_narration(narration())
    likeness.problem = "no model"
    assert (made.evaluator.n_unfinished, made.evaluator.problem) == (1, "no model")
    made.evaluator.poll()
    assert made.evaluator.n_unfinished == 0
    made = make(rule('narration of all says "car"'))
    assert (made.evaluator.n_unfinished, made.evaluator.problem) == (0, "")


def test_a_sink_whose_deliveries_fail_is_a_problem(make):
    """Each sink that says so is named, beside what is wrong with likeness."""
    rules = (
        rule('narration of all like "darkness" > 0.5', "night", sinks=("a", "b")),
        rule('probe "car" of all > 0.8', "car", sinks=("c",)),
    )
    sinks = {"a": FakeSink("a"), "b": FakeSink("b"), "c": FakeSink("c")}
    likeness = FakeLikeness()
    made = make(*rules, likeness=likeness, **sinks)
    assert made.evaluator.problem == ""
    sinks["a"].problem, sinks["c"].problem = "a fails", "c fails"
    assert made.evaluator.problem == "a fails; c fails"
    likeness.problem = "no model"
    assert made.evaluator.problem == "no model; a fails; c fails"


def test_a_dry_rule_reaches_no_sink(make):
    """It is published, says so, and nobody else hears of it."""
    sink = FakeSink()
    made = make(
        rule('probe "car" of all > 0.8', "dry", is_dry=True, sinks=("sink",)),
        rule('probe "car" of all > 0.8', "wet", sinks=("sink",)),
        sink=sink,
    )
    made.evaluator.evaluate(seen(0, 0.9))
    assert {each.name: each.dry_run for each in made.published()} == {"dry": True, "wet": False}
    assert [each.trigger.name for each in sink.offered] == ["wet"]
    assert json.loads(sink.offered[0].payload)["name"] == "wet"


def test_counts_and_latencies(make):
    """Triggers by rule, deliveries by sink, and a histogram of stages by kind."""
    made = make(rule('probe "car" of all > 0.8', "car", sinks=("a",)), a=FakeSink("a"))
    assert made.counters.triggers == {"car": 0}
    made.clock.ns = 12_000_000
    made.evaluator.evaluate(seen(0, 0.9, host_ns=4_000_000))
    made.evaluator.poll()
    counters = made.counters
    assert counters.triggers == {"car": 1}
    sinks = (
        counters.trigger_sink_sent,
        counters.trigger_sink_failed,
        counters.trigger_sink_dropped,
    )
    assert sinks == ({"a": 3}, {"a": 2}, {"a": 1})
    page = generate_latest(made.registry).decode()
    name = "neurrate_trigger_stage_duration_seconds"
    assert f'{name}_sum{{kind="probe",stage="total"}} 0.008' in page
    assert f'{name}_bucket{{kind="probe",le="0.006",stage="total"}} 0.0' in page
    assert f'{name}_bucket{{kind="probe",le="0.008",stage="total"}} 1.0' in page


def test_close_closes_everything(make):
    """All sinks are told to end before any is waited for: one that hangs costs no other's time.

    The sentence model comes last, because its end may take what time is left.
    """
    ends: list[str] = []
    a, b = FakeSink("a", ends=ends), FakeSink("b", ends=ends)
    likeness = FakeLikeness(ends=ends)
    made = make(rule('probe "car" of all > 0.8', sinks=("a", "b")), likeness=likeness, a=a, b=b)
    made.evaluator.close(deadline_s=0.5)
    sinks = ["a finishes", "b finishes", "a is closed", "b is closed"]
    assert ends == [*sinks, "likeness is closed"]


def test_triggers_are_never_repeated(make, context: Context):
    """Whoever joins hears the last narration again, and no trigger of before."""
    made = make(rule('probe "car" of all > 0.8'))
    for seq, probability in enumerate((0.9, 0.1, 0.9)):
        made.evaluator.evaluate(seen(seq, probability))
    assert len(made.published()) == 2
    made.publisher.publish(pack_narration(narration()))
    late = context.socket(zmq.SUB)
    late.subscribe(b"")
    late.set(zmq.RCVTIMEO, 5000)
    late.connect(made.publisher.address)
    assert made.publisher.socket.poll(5000)
    made.publisher.serve()
    made.publisher.publish([b"end", b""])
    topics = [late.recv_multipart()[0]]
    while topics[-1] != b"end":
        topics.append(late.recv_multipart()[0])
    late.close()
    assert topics == [b"narration.all", b"end"]


def test_a_rule_on_a_probe_asks_how_sure_its_population_is(make):
    """VISp is sure and all units are not: one of two equal rules fires, and says how sure."""
    asked: list[str] = []

    def confidence_of(embedding: PatchEmbedding) -> float:
        asked.append(embedding.population)
        return {"all": 0.6, "VISp": 0.8}[embedding.population]

    text = 'probe "car" of {} > 0.8 and confidence > 0.7'
    made = make(
        rule(text.format("all"), "by_all"),
        rule(text.format("VISp"), "by_VISp"),
        rule('probe "car" of few > 0.8', "by_few"),
        confidence_of=confidence_of,
    )
    made.evaluator.evaluate(seen(5, 0.9, ("all", "VISp", "few")))
    found = {trigger.name: trigger.confidence for trigger in made.published()}
    assert found == {"by_VISp": 0.8, "by_few": None}
    assert sorted(asked) == ["VISp", "all"]


def test_a_rule_on_words_takes_the_narrations_confidence(make):
    """The same words fire where the decoding was sure, and do not where it was not or unknown."""
    made = make(rule('narration of all says "car" and confidence > 0.7', "car_said"))
    for seq, confidence in enumerate((0.69, None, 0.75)):
        made.evaluator.on_narration(narration(seq=seq, confidence=confidence))
    (found,) = made.published()
    assert (found.window.seq, found.confidence) == (2, 0.75)


def test_a_rule_on_likeness_takes_the_narrations_confidence(make):
    """As one on words does."""
    text = 'narration of all like "darkness" > 0.5 and confidence > 0.7'
    made = make(rule(text, "like_a_car"), likeness=FakeLikeness())
    for seq, confidence in enumerate((0.2, 0.9)):
        made.evaluator.on_narration(narration(seq=seq, confidence=confidence))
        made.evaluator.poll()
    (found,) = made.published()
    assert found.window.seq == 1


def test_probabilities_are_published_while_somebody_subscribes(make):
    """A tenth of a second apart; of all concepts, with the score of each rule."""
    bench = make(rule('probe "car" of all > 0.8', release=0.5))
    bench.evaluator.evaluate(seen(0, 0.25))
    with subscribed_to(bench, b"probes") as socket:
        for seq in (1, 2, 3):
            bench.evaluator.evaluate(seen(seq, 0.25))
            bench.clock.ns += 83_000_000
        bench.publisher.publish([b"probes.end", b"{}"])
        messages = []
        while (parts := socket.recv_multipart())[0] != b"probes.end":
            messages.append(probes_of(json.loads(parts[1])))
    assert [(one.seq, one.window.seq) for one in messages] == [(0, 1), (1, 3)]
    assert messages[0].scores["all"]["car"] == pytest.approx(0.25, abs=1e-4)
    shown = messages[0].rules["seen"]
    assert (shown.concept, shown.threshold, shown.release) == ("car", 0.8, 0.5)
    assert shown.score == messages[0].scores["all"]["car"]


def test_probabilities_that_are_no_numbers_are_not_published(make):
    """JSON has none; the rules of that population are left out as well."""
    bench = make(rule('probe "car" of all > 0.8'), probes=probes_that_cancel())
    with subscribed_to(bench, b"probes") as socket:
        bench.evaluator.evaluate(huge(1))
        message = probes_of(json.loads(socket.recv_multipart()[1]))
    assert (message.scores, message.rules) == ({}, {})
