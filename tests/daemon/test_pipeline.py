"""The fast loop: the path of a spike, step by step, with everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq

from contracts.clock import NS_PER_S
from contracts.embedding import PatchEmbedding
from contracts.errors import PopulationMismatchError
from contracts.population import Population, Unit
from contracts.spikes import Mark, StreamEnd
from contracts.window import Window
from daemon.pipeline import MAX_MESSAGES
from daemon.service.monitor import check_population
from tests.support.daemon_components import Context, embeddings_of, hello_of
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import RUN, batch_of, ramp_population, ramp_spikes
from tests.support.ramp_session import (
    BIN_NS,
    RATE,
    Start,
    fed_loops,
    numbers,
    part_of,
    ramp,
    spans,
)

OTHER_RUN = "f" * 16
LEFT, RIGHT = list(range(8)), list(range(8, 16))


@pytest.fixture
def start(context: Context) -> Iterator[Start]:
    with fed_loops(context) as start:
        yield start


def test_windows_of_a_ramp_are_narrated(start: Start):
    """Every window holds its bins; one narration leaves for each."""
    daemon = start()
    daemon.receive(hello_of(), *ramp(0, 100))
    assert numbers(daemon.encoder.windows) == spans(0, 20, 40, 60, 80)
    assert daemon.counters.narrations["ok"] == 5
    assert daemon.publisher.n_published == 1 + 5  # the unit table, and the narrations
    assert daemon.loop.is_idle
    assert daemon.counters.spikes_binned == daemon.counters.spikes_received > 0


def test_burst_is_taken_in_steps(start: Start):
    """More messages than a step takes are left for the next one."""
    daemon = start()
    daemon.receive(hello_of(), *ramp(0, 600, n_bins=1))
    assert daemon.counters.messages_received == MAX_MESSAGES
    daemon.loop.step()
    daemon.loop.step()
    assert daemon.counters.messages_received == 601
    assert numbers(daemon.encoder.windows) == spans(*range(0, 600, 20))


def test_two_probes_cover_the_population_together(start: Start):
    """Odd and even bits on two streams, each in its own order: the windows are the ramp's."""
    odd, even = [15, 1, 3, 13, 5, 11, 7, 9], [0, 2, 4, 6, 8, 10, 12, 14]
    daemon = start()
    daemon.receive(hello_of(part_of(odd), stream="odd"))
    assert not daemon.ingest.is_settled
    daemon.receive(hello_of(part_of(even), stream="even"))
    assert daemon.ingest.is_settled
    daemon.receive(*ramp(0, 60, stream="odd", bits=odd))
    assert daemon.encoder.windows == []  # the slower probe decides
    daemon.receive(*ramp(0, 60, stream="even", bits=even))
    assert numbers(daemon.encoder.windows) == spans(0, 20, 40)
    assert daemon.counters.gap_bins == 0


def test_probe_that_joins_later_loses_nothing(start: Start):
    """The first probe is two seconds ahead when the second says hello: the windows are whole."""
    daemon = start()
    daemon.receive(hello_of(part_of(LEFT), stream="l"), *ramp(0, 200, stream="l", bits=LEFT))
    daemon.receive(hello_of(part_of(RIGHT), stream="r"), *ramp(0, 200, stream="r", bits=RIGHT))
    assert numbers(daemon.encoder.windows) == spans(*range(0, 200, 20))
    assert (daemon.counters.gap_bins, daemon.counters.spikes_late) == (0, 0)


def test_no_window_before_every_unit_is_announced(start: Start):
    """Half a population is not narrated, however long it sends."""
    daemon = start()
    daemon.receive(hello_of(part_of(LEFT)), *ramp(0, 200, bits=LEFT))
    assert daemon.counters.windows == 0
    assert daemon.counters.spikes_binned > 0
    with pytest.raises(PopulationMismatchError, match=r"8 units .*unit_id 8, 9"):
        check_population(daemon.ingest, first_hello_ns=0, timeout_s=1, now_ns=NS_PER_S)
    check_population(daemon.ingest, first_hello_ns=0, timeout_s=1, now_ns=NS_PER_S - 1)


def absent_bits(window: Window) -> list[int]:
    """Return the units that a window's encoder is to hold at their mean."""
    return [] if window.absent_units is None else np.flatnonzero(window.absent_units).tolist()


def test_units_that_nobody_sends_are_absent_from_the_start(start: Start):
    """Settled without half of the units: the windows from the first spike on say which."""
    daemon = start(does_without=True)
    daemon.receive(hello_of(part_of(LEFT)), *ramp(0, 60, bits=LEFT))
    assert daemon.encoder.windows == []
    assert not daemon.loop.does_without_missing
    daemon.loop.settle()
    daemon.receive(*ramp(60, 100, bits=LEFT, first_seq=6))
    assert [window.first_bin for window in daemon.encoder.windows] == [0, 20, 40, 60, 80]
    assert {tuple(absent_bits(window)) for window in daemon.encoder.windows} == {tuple(RIGHT)}
    assert daemon.loop.does_without_missing


def test_unit_that_comes_later_is_used_once_a_window_is_within_its_stream(start: Start):
    """A second probe begins at bin 70: the window from 60 does without it, that from 80 has it."""
    daemon = start(does_without=True)
    daemon.receive(hello_of(part_of(LEFT), stream="l"), *ramp(0, 60, stream="l", bits=LEFT))
    daemon.loop.settle()
    daemon.receive(
        hello_of(part_of(RIGHT), stream="r"),
        *ramp(60, 120, stream="l", bits=LEFT, first_seq=6),
        *ramp(70, 120, stream="r", bits=RIGHT),
    )
    absent = {window.first_bin: absent_bits(window) for window in daemon.encoder.windows}
    assert absent == {0: RIGHT, 20: RIGHT, 40: RIGHT, 60: RIGHT, 80: [], 100: []}
    assert not daemon.ingest.registry.missing_units()


def test_unit_whose_first_spikes_are_late_is_absent_until_they_are_not(start: Start):
    """A second probe begins at bin 50, and bins below 70 are complete: 60 to 70 lack its spikes."""
    daemon = start(does_without=True)
    daemon.receive(hello_of(part_of(RIGHT), stream="r"), *ramp(0, 60, stream="r", bits=RIGHT))
    daemon.loop.settle()
    daemon.receive(
        *ramp(60, 70, stream="r", bits=RIGHT, first_seq=6),
        hello_of(part_of(LEFT), stream="l"),
        *ramp(50, 100, stream="l", bits=LEFT),
        *ramp(70, 100, stream="r", bits=RIGHT, first_seq=7),
    )
    assert daemon.counters.spikes_late > 0
    absent = {window.first_bin: absent_bits(window) for window in daemon.encoder.windows}
    assert absent == {0: LEFT, 20: LEFT, 40: LEFT, 60: LEFT, 80: []}


def test_unit_that_a_restart_lacks_is_absent_until_one_has_it(start: Start):
    """A source restarted with half of its units, and again with all of them."""
    daemon = start(does_without=True)
    daemon.receive(hello_of(), *ramp(0, 40))
    daemon.receive(hello_of(part_of(LEFT), run=OTHER_RUN), *ramp(40, 80, run=OTHER_RUN, bits=LEFT))
    daemon.receive(hello_of(run="e" * 16), *ramp(80, 140, run="e" * 16))
    absent = {window.first_bin: absent_bits(window) for window in daemon.encoder.windows}
    assert absent == {0: [], 20: [], 40: RIGHT, 60: RIGHT, 80: [], 100: [], 120: []}


def test_population_without_a_unit_is_not_narrated(start: Start):
    """Its narration fails with the reason; the others, and their triggers, go on."""

    class PopulationsSeen:
        """Remembers the populations that it was given."""

        def __init__(self) -> None:
            self.populations: set[str] = set()

        def evaluate(self, embeddings: Sequence[PatchEmbedding]) -> None:
            """Take a window."""
            self.populations |= {embedding.population for embedding in embeddings}

    def encode(windows: Sequence[Window]) -> list[PatchEmbedding]:
        return [
            replace(embedding, n_units=8, n_absent=sum(bit in absent_bits(window) for bit in bits))
            for window in windows
            for embedding, bits in zip(
                embeddings_of(window, ("l", "r")), (LEFT, RIGHT), strict=True
            )
        ]

    triggers = PopulationsSeen()
    daemon = start(does_without=True, populations=("l", "r"), triggers=triggers)
    daemon.encoder.encode = encode  # type: ignore[method-assign]
    published: list[dict[str, Any]] = []
    daemon.publisher.publish = lambda parts: published.append(json.loads(parts[1]))  # type: ignore[method-assign]
    daemon.receive(hello_of(part_of(LEFT)))
    published.clear()  # of the unit table
    daemon.loop.settle()
    daemon.receive(*ramp(0, 40, bits=LEFT))
    assert triggers.populations == {"l"}
    by_population = {message["population"]: message for message in published}
    assert by_population["l"]["status"] == "ok"
    assert by_population["l"]["n_missing_units"] == 0
    assert by_population["r"]["status"] == "failed"
    assert by_population["r"]["reason"] == "no source sends a unit of this population"
    assert (by_population["r"]["n_units"], by_population["r"]["n_missing_units"]) == (8, 8)
    assert daemon.counters.narrations == {"ok": 2, "truncated": 0, "failed": 2}
    assert daemon.counters.windows_dropped["no_units"] == 0


def test_window_of_which_no_population_has_a_unit_is_counted(start: Start):
    """Nothing is offered to the narrator, and the window counts as dropped."""
    daemon = start(does_without=True)
    encode = daemon.encoder.encode
    daemon.encoder.encode = lambda windows: [  # type: ignore[method-assign]
        replace(embedding, n_absent=embedding.n_units) for embedding in encode(windows)
    ]
    daemon.receive(hello_of(), *ramp(0, 40))
    assert daemon.counters.windows_dropped["no_units"] == daemon.counters.windows == 2
    assert daemon.counters.narrations["failed"] == 2
    assert daemon.loop.is_idle


def test_foreign_stream_after_settling_stops_nobody(start: Start):
    """A second source of another session is counted at every hello and batch, never raised."""
    foreign = Population([Unit("900"), Unit("901")])
    daemon = start()
    daemon.source.send(hello_of(), *ramp(0, 40))
    for seq in range(3):
        daemon.source.send(hello_of(foreign, stream="b"), *ramp(0, 10, stream="b", first_seq=seq))
    daemon.receive(StreamEnd("b", RUN, 3, 0), *ramp(40, 80, first_seq=4))
    assert numbers(daemon.encoder.windows) == spans(0, 20, 40, 60)
    assert daemon.counters.wire_errors["population"] == 3
    assert daemon.counters.wire_errors["no_hello"] == 4


def test_restart_with_fewer_units_does_not_unsettle(start: Start):
    """A source that comes back with half of its units is accepted, and the daemon continues."""
    daemon = start()
    daemon.source.send(hello_of(), *ramp(0, 40))
    daemon.receive(hello_of(part_of(LEFT), run=OTHER_RUN), *ramp(40, 80, run=OTHER_RUN, bits=LEFT))
    assert numbers(daemon.encoder.windows) == spans(0, 20, 40, 60)
    check_population(daemon.ingest, first_hello_ns=0, timeout_s=1, now_ns=99 * NS_PER_S)
    assert daemon.ingest.registry.missing_units() == [str(bit) for bit in range(8, 16)]


def test_lost_batches_are_gaps_and_nothing_shifts(start: Start):
    """The bins of a lost batch are empty and counted; the others keep their place."""
    batches = ramp(0, 60)
    daemon = start()
    daemon.receive(hello_of(), *batches[:2], *batches[3:])
    assert numbers(daemon.encoder.windows) == [
        *spans(0),
        [*[0] * 10, *range(30, 40)],
        *spans(40),
    ]
    assert [window.n_gap_bins for window in daemon.encoder.windows] == [0, 10, 0]
    assert (daemon.counters.batches_lost, daemon.counters.gap_bins) == (1, 10)


def test_duplicates_are_counted_once(start: Start):
    """Every batch twice, in any order: the windows do not change."""
    batches = ramp(0, 60)
    daemon = start()
    daemon.receive(hello_of(), *(batch for batch in batches for _ in range(2)), *batches[::-1])
    assert numbers(daemon.encoder.windows) == spans(0, 20, 40)
    assert daemon.counters.batches_duplicate == 12


def test_empty_batches_are_silence_and_not_loss(start: Start):
    """Windows of nothing are narrated without a gap."""
    none = np.array([], dtype=np.int64), np.array([], dtype=np.uint32)
    daemon = start()
    daemon.receive(hello_of(), batch_of(*none, 0, 40 * BIN_NS))
    assert numbers(daemon.encoder.windows) == [[0] * 20] * 2
    assert daemon.counters.gap_bins == 0


def test_marks_in_any_place_change_no_window(start: Start):
    """Marks before the hello, before their batch and after it are counted; the last two leave."""
    mark = Mark("probeA", RUN, 100, 200, "movie", 1)
    daemon = start()
    daemon.receive(mark, hello_of(), mark, *ramp(0, 20), mark)
    assert numbers(daemon.encoder.windows) == spans(0)
    assert (daemon.counters.marks_received, daemon.counters.marks_dropped) == (3, 1)
    assert daemon.publisher.n_published == 1 + 2 + 1  # the unit table, marks, a narration


def test_unit_table_too_large_for_a_listener_is_not_published(start: Start, monkeypatch, caplog):
    """Or its subscribers would be disconnected again and again; the stream is followed."""
    monkeypatch.setattr("daemon.source_publisher.MAX_UNITS_BYTES", 100)
    daemon = start()
    daemon.receive(hello_of(), *ramp(0, 20))
    assert numbers(daemon.encoder.windows) == spans(0)
    assert daemon.publisher.n_published == 1  # the narration
    assert "unit table not published" in caplog.text


def test_restarted_session_is_narrated_from_its_beginning(start: Start):
    """A new run that goes back in time is cut anew, once; its numbers have no mixture."""
    daemon = start()
    daemon.source.send(hello_of(), *ramp(100, 160))
    daemon.receive(hello_of(run=OTHER_RUN), *ramp(0, 40, run=OTHER_RUN))
    assert numbers(daemon.encoder.windows) == spans(100, 120, 140, 0, 20)
    assert daemon.counters.stream_restarts == 1
    assert daemon.counters.spikes_late == 0


def test_blind_stream_is_not_waited_for_and_comes_back(start: Start):
    """Windows continue without it and name it; with its next batch it is waited for again."""
    daemon = start()
    daemon.source.send(hello_of(part_of(LEFT), stream="l"), hello_of(part_of(RIGHT), stream="r"))
    daemon.source.send(*ramp(0, 20, stream="l", bits=LEFT), *ramp(0, 20, stream="r", bits=RIGHT))
    daemon.receive(*ramp(20, 60, stream="l", bits=LEFT, first_seq=2))
    assert len(daemon.encoder.windows) == 1
    daemon.loop.stop_waiting_for("r")
    assert [window.blind_streams for window in daemon.encoder.windows] == [(), ("r",), ("r",)]
    assert daemon.counters.streams_blind == 1
    daemon.source.send(*ramp(60, 80, stream="r", bits=RIGHT, first_seq=6))
    daemon.receive(*ramp(60, 80, stream="l", bits=LEFT, first_seq=6))
    assert daemon.encoder.windows[-1].blind_streams == ()
    assert numbers(daemon.encoder.windows[-1:]) == spans(60)
    assert daemon.counters.batches_lost == 4


def test_ended_stream_is_not_waited_for(start: Start):
    """One probe's end lets the other's windows continue, and lost last batches are counted."""
    daemon = start()
    daemon.source.send(hello_of(part_of(LEFT), stream="l"), hello_of(part_of(RIGHT), stream="r"))
    daemon.source.send(*ramp(0, 20, stream="l", bits=LEFT), *ramp(0, 20, stream="r", bits=RIGHT))
    daemon.source.send(StreamEnd("r", RUN, n_batches=7, n_spikes=0))
    daemon.receive(*ramp(20, 60, stream="l", bits=LEFT, first_seq=2))
    assert len(daemon.encoder.windows) == 3
    assert daemon.counters.batches_lost == 5
    assert not daemon.ingest.registry.have_all_ended


def test_end_of_another_run_does_not_end_the_stream(start: Start):
    """A stale end leaves the stream live: it still holds the watermark and counts its gaps."""
    daemon = start()
    daemon.source.send(hello_of(part_of(LEFT), stream="l"), hello_of(part_of(RIGHT), stream="r"))
    daemon.source.send(*ramp(0, 20, stream="l", bits=LEFT), *ramp(0, 20, stream="r", bits=RIGHT))
    daemon.source.send(StreamEnd("r", OTHER_RUN, n_batches=7, n_spikes=0))
    daemon.receive(*ramp(20, 60, stream="l", bits=LEFT, first_seq=2))
    assert len(daemon.encoder.windows) == 1
    assert daemon.loop.ring.blind_streams == ()


def test_spikes_of_unknown_units_are_counted(start: Start):
    """Where extra units are ignored their spikes are unknown and the windows are whole."""
    population = Population([Unit("900"), *ramp_population().units])
    times, units = ramp_spikes(RATE, 0, 20)
    times = np.append(times, [5, 6]).astype(np.int64)
    units = np.append(units + 1, [0, 4_000_000_000]).astype(np.uint32)
    daemon = start(extra_units="ignore")
    daemon.receive(hello_of(population), batch_of(times, units, 0, 20 * BIN_NS))
    assert numbers(daemon.encoder.windows) == spans(0)
    assert daemon.counters.spikes_unknown == 2
    assert daemon.counters.spikes_binned + 2 == daemon.counters.spikes_received


@pytest.mark.parametrize("far_ns", [2**61, -(2**61)])
def test_batch_from_nowhere_never_raises(far_ns: int, start: Start):
    """A clock that jumps by decades: nothing raises, every spike is binned, late or unknown."""
    one = np.array([far_ns], dtype=np.int64), np.array([3], dtype=np.uint32)
    daemon = start()
    daemon.source.send(hello_of(), *ramp(0, 40), batch_of(*one, far_ns, far_ns + 10, seq=4))
    daemon.receive(*ramp(40, 80, first_seq=5))
    counters = daemon.counters
    assert numbers(daemon.encoder.windows)[:2] == spans(0, 20)
    assert counters.spikes_received == counters.spikes_binned + counters.spikes_late


def test_stamps_of_a_published_narration_sum_up(start: Start, context: Context):
    """From the path itself: each stage is there, none is negative, and they sum to the total."""

    class Ticking(ManualClock):
        def now_ns(self) -> int:
            self.ns += 1_000_003
            return self.ns

    daemon = start(Ticking(), populations=("all", "PV"))
    with context.socket(zmq.SUB) as socket:
        socket.subscribe(b"narration.")
        socket.connect(daemon.publisher.address)
        assert daemon.publisher.socket.poll(5000)
        daemon.publisher.serve()
        daemon.receive(hello_of(), *ramp(0, 20))
        for name in (b"narration.all", b"narration.PV"):
            assert socket.poll(5000)
            topic, payload = socket.recv_multipart()
            latency_ms = json.loads(payload)["latency_ms"]
            total = latency_ms.pop("total")
            assert topic == name
            assert min(latency_ms.values()) > 0
            assert sum(latency_ms.values()) == pytest.approx(total)
