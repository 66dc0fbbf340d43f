"""The desk: numbers, stamps that sum up, and messages that are always JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from contracts.narration import STAGES, Evidence, Narration, Status, Utterance
from contracts.window import Window
from daemon.counters import Counters
from daemon.narration_publisher import NarrationPublisher
from daemon.publisher import Publisher
from daemon.service.latencies import LatencyRecorder
from daemon.worker.narrator_client import (
    InlineClient,
    NarratedPopulation,
    PartialText,
    failed,
)
from tests.support.daemon_components import PROVENANCE, EchoNarrator, embeddings_of
from tests.support.manual_clock import ManualClock
from tests.support.tiny_bundle import tiny_windows


class Shelf:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, dict[str, Any]]] = []

    def publish(self, parts: Sequence[bytes]) -> None:
        """Keep it, read back."""
        self.messages.append((parts[0], json.loads(parts[1])))


class Desk(NarrationPublisher):
    """A desk with what it writes to."""

    def __init__(
        self, clock: ManualClock, on_narration: Callable[[Narration], None] = lambda _: None
    ) -> None:
        self.shelf, self.counters = Shelf(), Counters()
        self.latencies = LatencyRecorder(CollectorRegistry())
        publisher = cast(Publisher, self.shelf)
        super().__init__(publisher, self.counters, self.latencies, clock, on_narration)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def desk(clock: ManualClock) -> Desk:
    return Desk(clock)


def said(window: Window, utterance: Utterance, population="all") -> NarratedPopulation:
    return NarratedPopulation(embeddings_of(window, [population])[0], utterance, PROVENANCE)


def test_each_population_counts_from_zero(desk: Desk):
    """Numbers have no holes within a population; ids name the daemon's run and are unique."""
    for window in tiny_windows(3):
        desk.publish(said(window, Utterance("a", Status.OK)))
        desk.publish(said(window, Utterance("b", Status.TRUNCATED), "PV"))
    seqs = [(topic, message["seq"]) for topic, message in desk.shelf.messages]
    assert seqs == [
        (f"narration.{name}".encode(), seq) for seq in range(3) for name in ("all", "PV")
    ]
    assert len({message["id"] for _, message in desk.shelf.messages}) == 6
    assert desk.counters.narrations == {"ok": 3, "truncated": 3, "failed": 0}


def test_two_runs_have_other_ids(clock: ManualClock):
    """A daemon that starts again does not repeat its ids."""
    ids = set()
    for _ in range(2):
        desk = Desk(clock)
        desk.publish(said(tiny_windows(1)[0], Utterance("a", Status.OK)))
        ids.add(desk.shelf.messages[0][1]["id"])
    assert len(ids) == 2


@given(st.lists(st.integers(0, 2**50), min_size=7, max_size=7))
def test_stages_sum_to_the_total_within_the_message(durations: list[int]):
    """As published: the six stages are the total, which is the last stamp less the first."""
    stamps = [sum(durations[: n + 1]) for n in range(7)]
    desk = Desk(ManualClock(stamps[6]))
    window = replace(
        tiny_windows(1)[0], newest_received_host_ns=stamps[0], complete_host_ns=stamps[1]
    )
    word = Utterance(
        "a",
        Status.OK,
        start_host_ns=stamps[3],
        first_token_host_ns=stamps[4],
        last_token_host_ns=stamps[5],
    )
    desk.publish(NarratedPopulation(embeddings_of(window, host_ns=stamps[2])[0], word, PROVENANCE))
    ((_, message),) = desk.shelf.messages
    latency_ms = message["latency_ms"]
    assert list(message["host_ns"].values()) == stamps
    assert set(latency_ms) == {*STAGES, "total"}
    assert math.isclose(sum(latency_ms[stage] for stage in STAGES), latency_ms["total"])
    assert latency_ms["total"] == (stamps[6] - stamps[0]) / 1e6
    assert desk.latencies.summary()["total"]["max"] == latency_ms["total"]


def test_window_comes_with_its_faults(desk: Desk):
    """Bounds in session seconds, the frame it describes, gaps and blind streams."""
    window = replace(tiny_windows(2)[1], n_gap_bins=4, blind_streams=("probeB",))
    desk.publish(said(window, Utterance("a", Status.OK)))
    ((_, message),) = desk.shelf.messages
    assert message["window"] == {
        "seq": 1,
        "start_s": 0.083333334,
        "stop_s": 0.25,
        "frame_s": 0.2,
        "n_gap_bins": 4,
        "blind_streams": ["probeB"],
    }
    assert message["repeat"] is False


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(number: float, desk: Desk):
    """A model that gives NaN costs its own number, not the loop: JSON cannot hold it."""
    evidence = Evidence("3", "A dog.", number)
    word = Utterance("a", Status.OK, mean_logprob=number, evidence=evidence)
    desk.publish(said(tiny_windows(1)[0], word))
    ((_, message),) = desk.shelf.messages
    assert (message["text"], message["mean_logprob"], message["evidence"]) == ("a", None, None)


def test_failure_is_published_with_its_reason(desk: Desk, clock: ManualClock):
    """A batch that came to nothing has a message for each population, and stamps in order."""
    embeddings = embeddings_of(tiny_windows(1)[0], ("all", "PV"))
    for narrated in failed(embeddings, "the narrator worker died", PROVENANCE, clock):
        desk.publish(narrated)
    for _, message in desk.shelf.messages:
        assert (message["status"], message["reason"], message["text"]) == (
            "failed",
            "the narrator worker died",
            "",
        )
        assert list(message["host_ns"].values()) == sorted(message["host_ns"].values())
    assert desk.counters.narrations["failed"] == 2


def test_one_line_a_narration(desk: Desk, caplog: pytest.LogCaptureFixture):
    """The log has one line for each narration, with its window and its stages."""
    caplog.set_level("INFO")
    desk.publish(said(tiny_windows(1)[0], Utterance("a", Status.OK, n_tokens=5)))
    (record,) = caplog.records
    assert record.message == "narrated"
    assert vars(record)["population"] == "all"
    assert {f"{stage}_ms" for stage in (*STAGES, "total")} <= set(vars(record))


def test_inline_port_narrates_every_window_in_order(clock: ManualClock):
    """In the sequential mode nothing is replaced; what is collected is finished."""
    port = InlineClient(EchoNarrator(clock))
    for window in tiny_windows(4):
        port.offer(embeddings_of(window))
    assert port.n_unfinished == 1
    assert [each.utterance.text for each in port.collect()] == [f"all {n}" for n in range(4)]
    assert port.n_unfinished == 0
    port.close(deadline_s=0)


def test_age_grows_from_stage_to_stage(desk: Desk):
    """Counted from the newest spike: the last age is the total latency."""
    desk.publish(said(tiny_windows(1)[0], Utterance("a", Status.OK)))
    ((_, message),) = desk.shelf.messages
    stamps = message["host_ns"]
    born_ns = stamps.pop("newest_spike_received")
    assert message["age_ms"] == {name: (ns - born_ns) / 1e6 for name, ns in stamps.items()}
    assert message["age_ms"]["published"] == message["latency_ms"]["total"]


def test_sentence_is_published_as_it_grows(desk: Desk, clock: ManualClock):
    """On a topic of its own, with its window; it is no narration and counts as none."""
    (embedding,) = embeddings_of(tiny_windows(2)[1], ["PV"])
    desk.publish_partial(PartialText(embedding, "A car", 2))
    ((topic, message),) = desk.shelf.messages
    assert topic == b"partial.PV"
    assert (message["text"], message["n_tokens"], message["window"]["seq"]) == ("A car", 2, 1)
    assert message["host_ns"]["published"] <= clock.ns
    assert sum(desk.counters.narrations.values()) == 0


def test_listener_hears_what_was_published(clock: ManualClock):
    """After it is out, each narration is told to whoever was given at the start."""
    heard: list[Narration] = []
    desk = Desk(clock, heard.append)
    desk.publish(said(tiny_windows(1)[0], Utterance("a", Status.OK)))
    assert [each.id for each in heard] == [desk.shelf.messages[0][1]["id"]]
