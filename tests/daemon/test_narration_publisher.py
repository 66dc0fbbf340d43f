"""Narrations as published: numbers, stamps that sum up, and messages that are always JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from contracts.embedding import PatchEmbedding
from contracts.narration import STAGES, Evidence, Narration, Status, Utterance
from contracts.window import Window
from daemon.counters import Counters
from daemon.narration_publisher import NarrationPublisher
from daemon.publisher import Publisher
from daemon.service.latencies import LatencyRecorder
from daemon.worker.narrator_client import (
    NarratedPopulation,
    PartialText,
    failed,
)
from tests.support.daemon_components import PROVENANCE, embeddings_of
from tests.support.manual_clock import ManualClock
from tests.support.tiny_bundle import tiny_windows


class KeptMessages:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, dict[str, Any]]] = []

    def publish(self, parts: Sequence[bytes]) -> None:
        """Keep it, read back."""
        self.messages.append((parts[0], json.loads(parts[1])))


class ObservedPublisher(NarrationPublisher):
    """A narration publisher with what it writes to."""

    def __init__(
        self,
        clock: ManualClock,
        on_narration: Callable[[Narration], None] = lambda _: None,
        labels: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.recording, self.counters = KeptMessages(), Counters()
        self.latencies = LatencyRecorder(CollectorRegistry())
        publisher = cast(Publisher, self.recording)
        super().__init__(
            publisher, self.counters, clock, self.latencies.record, on_narration, labels, **options
        )

    @property
    def messages(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Topics and messages."""
        return self.recording.messages


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def publisher(clock: ManualClock) -> ObservedPublisher:
    return ObservedPublisher(clock)


def narrated(window: Window, utterance: Utterance, population="all") -> NarratedPopulation:
    return NarratedPopulation(embeddings_of(window, [population])[0], utterance, PROVENANCE)


def test_each_population_counts_from_zero(publisher: ObservedPublisher):
    """Numbers have no holes within a population; ids name the daemon's run and are unique."""
    for window in tiny_windows(3):
        publisher.publish(narrated(window, Utterance("a", Status.OK)))
        publisher.publish(narrated(window, Utterance("b", Status.TRUNCATED), "PV"))
    seqs = [(topic, message["seq"]) for topic, message in publisher.messages]
    assert seqs == [
        (f"narration.{name}".encode(), seq) for seq in range(3) for name in ("all", "PV")
    ]
    assert len({message["id"] for _, message in publisher.messages}) == 6
    assert publisher.counters.narrations == {"ok": 3, "truncated": 3, "failed": 0}


def test_a_label_goes_with_the_name(clock: ManualClock):
    """The topic has a name of ASCII letters, the label that of the recording."""
    publisher = ObservedPublisher(clock, labels={"Sud": "Süd"})
    for population in ("Sud", "PV"):
        publisher.publish(narrated(tiny_windows(1)[0], Utterance("a", Status.OK), population))
    assert [
        (topic, message["population"], message["label"]) for topic, message in publisher.messages
    ] == [(b"narration.Sud", "Sud", "Süd"), (b"narration.PV", "PV", "PV")]


def test_two_runs_have_other_ids(clock: ManualClock):
    """A daemon that starts again does not repeat its ids."""
    ids = set()
    for _ in range(2):
        publisher = ObservedPublisher(clock)
        publisher.publish(narrated(tiny_windows(1)[0], Utterance("a", Status.OK)))
        ids.add(publisher.messages[0][1]["id"])
    assert len(ids) == 2


@given(st.lists(st.integers(0, 2**50), min_size=7, max_size=7))
def test_stages_sum_to_the_total_within_the_message(durations: list[int]):
    """As published: the six stages are the total, which is the last stamp less the first."""
    stamps = [sum(durations[: n + 1]) for n in range(7)]
    publisher = ObservedPublisher(ManualClock(stamps[6]))
    window = replace(
        tiny_windows(1)[0], newest_received_host_ns=stamps[0], complete_host_ns=stamps[1]
    )
    utterance = Utterance(
        "a",
        Status.OK,
        start_host_ns=stamps[3],
        first_token_host_ns=stamps[4],
        last_token_host_ns=stamps[5],
    )
    publisher.publish(
        NarratedPopulation(embeddings_of(window, host_ns=stamps[2])[0], utterance, PROVENANCE)
    )
    ((_, message),) = publisher.messages
    latency_ms = message["latency_ms"]
    assert list(message["host_ns"].values()) == stamps
    assert set(latency_ms) == {*STAGES, "total"}
    assert math.isclose(sum(latency_ms[stage] for stage in STAGES), latency_ms["total"])
    assert latency_ms["total"] == (stamps[6] - stamps[0]) / 1e6
    assert publisher.latencies.summary()["total"]["max"] == latency_ms["total"]


def test_window_comes_with_its_gaps(publisher: ObservedPublisher):
    """Bounds in session seconds, the frame it describes, gaps and blind streams."""
    window = replace(tiny_windows(2)[1], n_gap_bins=4, blind_streams=("probeB",))
    publisher.publish(narrated(window, Utterance("a", Status.OK)))
    ((_, message),) = publisher.messages
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
def test_what_is_no_number_is_left_out(number: float, publisher: ObservedPublisher):
    """A model that gives NaN costs its own number, not the loop: JSON cannot hold it."""
    evidence = Evidence("3", "A dog.", number)
    utterance = Utterance("a", Status.OK, mean_logprob=number, evidence=evidence)
    publisher.publish(narrated(tiny_windows(1)[0], utterance))
    ((_, message),) = publisher.messages
    assert (message["text"], message["mean_logprob"], message["evidence"]) == ("a", None, None)


def test_failure_is_published_with_its_reason(publisher: ObservedPublisher, clock: ManualClock):
    """A batch that came to nothing has a message for each population, and stamps in order."""
    embeddings = embeddings_of(tiny_windows(1)[0], ("all", "PV"))
    for failure in failed(embeddings, "the narrator worker died", PROVENANCE, clock):
        publisher.publish(failure)
    for _, message in publisher.messages:
        assert (message["status"], message["reason"], message["text"]) == (
            "failed",
            "the narrator worker died",
            "",
        )
        assert list(message["host_ns"].values()) == sorted(message["host_ns"].values())
    assert publisher.counters.narrations["failed"] == 2


def test_the_text_is_logged_at_debug(
    publisher: ObservedPublisher, caplog: pytest.LogCaptureFixture
):
    """At DEBUG a second line has the text, with its population and window."""
    caplog.set_level("DEBUG", logger="daemon.narration_publisher")
    publisher.publish(narrated(tiny_windows(1)[0], Utterance("A dog sits.", Status.OK)))
    (line,) = [record for record in caplog.records if record.levelname == "DEBUG"]
    fields = vars(line)
    assert (fields["text"], fields["population"], fields["window"]) == ("A dog sits.", "all", 0)
    assert fields["window_start_s"] < fields["window_stop_s"]


def test_one_line_a_narration(publisher: ObservedPublisher, caplog: pytest.LogCaptureFixture):
    """The log has one line for each narration, with its window and its stages."""
    caplog.set_level("INFO")
    publisher.publish(narrated(tiny_windows(1)[0], Utterance("a", Status.OK, n_tokens=5)))
    (record,) = caplog.records
    assert record.message == "narrated"
    assert vars(record)["population"] == "all"
    assert {f"{stage}_ms" for stage in (*STAGES, "total")} <= set(vars(record))


def test_age_grows_from_stage_to_stage(publisher: ObservedPublisher):
    """Counted from the newest spike: the last age is the total latency."""
    publisher.publish(narrated(tiny_windows(1)[0], Utterance("a", Status.OK)))
    ((_, message),) = publisher.messages
    stamps = message["host_ns"]
    born_ns = stamps.pop("newest_spike_received")
    assert message["age_ms"] == {name: (ns - born_ns) / 1e6 for name, ns in stamps.items()}
    assert message["age_ms"]["published"] == message["latency_ms"]["total"]


def test_sentence_is_published_as_it_grows(publisher: ObservedPublisher, clock: ManualClock):
    """On a topic of its own, with its window; it is no narration and counts as none."""
    (embedding,) = embeddings_of(tiny_windows(2)[1], ["PV"])
    publisher.publish_partial(PartialText(embedding, "A car", 2))
    ((topic, message),) = publisher.messages
    assert topic == b"partial.PV"
    assert (message["text"], message["n_tokens"], message["window"]["seq"]) == ("A car", 2, 1)
    assert message["host_ns"]["published"] <= clock.ns
    assert sum(publisher.counters.narrations.values()) == 0


def test_callback_gets_what_was_published(clock: ManualClock):
    """After it has been published, each narration is given to the callback."""
    received: list[Narration] = []
    publisher = ObservedPublisher(clock, received.append)
    publisher.publish(narrated(tiny_windows(1)[0], Utterance("a", Status.OK)))
    assert [narration.id for narration in received] == [publisher.messages[0][1]["id"]]


def test_each_narration_says_how_sure_its_decoding_is(clock: ManualClock):
    """Asked once for each, with its embedding; one that failed has no text to be sure of."""
    asked: list[str] = []

    def confidence_of(embedding: PatchEmbedding) -> float:
        asked.append(embedding.population)
        return 0.87654

    publisher = ObservedPublisher(clock, confidence_of=confidence_of)
    (window,) = tiny_windows(1)
    publisher.publish(narrated(window, Utterance("A car.", Status.OK), "VISp"))
    publisher.publish(narrated(window, Utterance("", Status.FAILED, "why"), "LGd"))
    assert [message["confidence"] for _, message in publisher.messages] == [0.877, None]
    assert asked == ["VISp"]
