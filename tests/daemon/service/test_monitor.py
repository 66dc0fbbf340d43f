"""Why the daemon is not ready: the sentences about streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.clock import NS_PER_S
from contracts.population import Population, Unit
from daemon.service.monitor import RunawayWatch, stream_problems
from daemon.stream_registry import StreamState
from tests.support.daemon_components import Context, hello_of
from tests.support.ramp_session import BIN_NS, FedLoop, Start, fed_loops, part_of, ramp

LEFT, RIGHT = list(range(8)), list(range(8, 16))
OTHER_RUN = "f" * 16
HOUR_BINS = 3600 * 100


@pytest.fixture
def start(context: Context) -> Iterator[Start]:
    with fed_loops(context) as start:
        yield start


def problems(daemon: FedLoop, *, after_s: float = 0) -> list[str]:
    now_ns = NS_PER_S + round(after_s * NS_PER_S)
    return stream_problems(daemon.ingest, daemon.loop.ring, now_ns=now_ns, memory_ns=3 * NS_PER_S)


def two_probes(daemon: FedLoop) -> None:
    daemon.source.send(hello_of(part_of(LEFT), stream="l"), hello_of(part_of(RIGHT), stream="r"))
    daemon.receive(*ramp(0, 100, stream="l", bits=LEFT), *ramp(0, 100, stream="r", bits=RIGHT))
    assert problems(daemon) == []


def test_no_source(start: Start):
    """Nobody has said hello."""
    assert "no source has said hello" in problems(start())[0]


def test_refused_source_is_named_while_it_repeats_its_hello(start: Start):
    """The reason names both sides, and goes once the source has been silent for a while."""
    daemon = start()
    daemon.receive(hello_of(Population([Unit("900")])))
    (problem,) = problems(daemon)
    assert problem.startswith("a source is refused: 16 units of the encoder's population are not")
    assert "unit_id 900 " in problem
    assert "no source has said hello" in problems(daemon, after_s=4)[0]


def test_missing_units_are_named(start: Start):
    """Half of the population is announced."""
    daemon = start()
    daemon.receive(hello_of(part_of(LEFT)))
    assert problems(daemon) == [
        "8 units of the encoder have not been announced by any stream: 8, 9, 10, 11, 12 and 3 more"
    ]


def test_stream_set_aside_is_named_with_its_offset(start: Start):
    """An hour ahead, confirmed: which stream, by how much, and what to do."""
    daemon = start()
    two_probes(daemon)
    daemon.receive(*ramp(HOUR_BINS + 100, HOUR_BINS + 500, stream="r", bits=RIGHT, first_seq=10))
    (problem,) = problems(daemon)
    assert problem.startswith("r is set aside: its time is 3604.0 s ahead of the others")
    assert daemon.counters.streams_aside == 1
    daemon.receive(*ramp(100, 200, stream="l", bits=LEFT, first_seq=10))
    assert daemon.encoder.windows[-1].blind_streams == ("r",)


def test_stream_that_catches_up_is_named(start: Start):
    """Back from silence two seconds behind: its spikes are late for a while."""
    daemon = start()
    two_probes(daemon)
    daemon.ingest.registry.streams["r"].state = StreamState.BLIND
    daemon.ingest.registry.clocks.unseat("r")
    daemon.loop.stop_waiting_for("r")
    daemon.receive(*ramp(100, 400, stream="l", bits=LEFT, first_seq=10))
    daemon.receive(*ramp(100, 120, stream="r", bits=RIGHT, first_seq=10))
    (problem,) = problems(daemon)
    assert problem.startswith("r is 2.8 s behind the others and catches up")
    daemon.receive(*ramp(120, 450, stream="r", bits=RIGHT, first_seq=12))
    daemon.receive(*ramp(400, 450, stream="l", bits=LEFT, first_seq=40))
    assert problems(daemon) == []
    assert daemon.loop.ring.complete_until_ns == 450 * BIN_NS


def test_second_source_is_named(start: Start):
    """Its run and what to do, for as long as it sends."""
    daemon = start()
    daemon.receive(hello_of(), *ramp(0, 20))
    daemon.ingest.registry.is_taken("probeA", OTHER_RUN, connection=9, host_ns=NS_PER_S)
    (problem,) = problems(daemon)
    assert problem.startswith(
        f"two sources send a stream named probeA; the second one (run {OTHER_RUN})"
    )
    assert problems(daemon, after_s=4) == []


def test_stream_that_runs_away_is_named_once_it_loses_batches(start: Start):
    """To lead and wait is what a lossless replay does; to lead and lose is not."""
    daemon = start()
    two_probes(daemon)
    registry, ring, watch = daemon.ingest.registry, daemon.loop.ring, RunawayWatch()
    daemon.receive(*ramp(100, 700, stream="l", bits=LEFT, first_seq=10))
    assert daemon.ingest.waiting_streams() == set()  # one socket for both
    assert watch.problems(registry, ring, now_ns=0) == []
    daemon.receive(*ramp(750, 800, stream="l", bits=LEFT, first_seq=75))
    (problem,) = watch.problems(registry, ring, now_ns=NS_PER_S)
    assert problem.startswith("l is 7.0 s ahead of the others, left unread meanwhile, and loses")
    assert watch.problems(registry, ring, now_ns=62 * NS_PER_S) == []
