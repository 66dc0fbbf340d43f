"""The loop of a recorder with a source in the same process, by a clock that the test moves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import zmq

from contracts.clock import NS_PER_S, HostClock
from contracts.journal import Origin
from contracts.narration_wire import load
from contracts.spikes import Hello
from stream_sources.publisher import SpikePublisher
from subscribers.recorder.record import RecordOptions, record
from tests.support.journals import RUN, WALL_NS, batch, population, read_journal
from tests.support.manual_clock import ManualClock

N_BATCHES = 30
STEP_NS = NS_PER_S * 3 // 10
JUMP_NS = -3600 * NS_PER_S


def test_jump_of_the_wall_clock_is_logged_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Stamps go on; the recorder's own messages have both clocks, and a line says by how much."""
    clock = ManualClock()
    sent = 0

    def wall_ns() -> int:
        return WALL_NS + clock.ns + (JUMP_NS if sent > N_BATCHES // 2 else 0)

    def should_stop() -> bool:
        nonlocal sent
        publisher.serve(wait_ms=10)
        if publisher.n_subscribers and sent < N_BATCHES:
            publisher.send(batch(sent))
            sent += 1
            clock.ns += STEP_NS
        return sent == N_BATCHES

    with zmq.Context() as context, caplog.at_level(logging.WARNING):
        hello = Hello("probeA", RUN, "nwb:1", population())
        publisher = SpikePublisher(context, "tcp://127.0.0.1:*", hello, HostClock())
        try:
            options = RecordOptions(tmp_path / "j", (publisher.endpoint,), (), min_free_bytes=1)
            report = record(options, clock, should_stop=should_stop, wall_ns=wall_ns)
        finally:
            publisher.close(is_urgent=True)
    assert report.accounts["received"]["spikes"] >= N_BATCHES - 1  # the last one may be on its way
    assert not report.accounts["holes"]
    messages = read_journal(tmp_path / "j")
    assert {message.wall_ns - message.host_ns for message in messages} == {WALL_NS}
    own = [load(one.parts[1]) for one in messages if one.origin is Origin.RECORDER]
    offsets_ns = [one["wall_ns"] - one["host_ns"] for one in own]
    assert sorted(set(offsets_ns), reverse=True) == [WALL_NS, WALL_NS + JUMP_NS]
    jumps = [line.__dict__["by_s"] for line in caplog.records if line.msg == "wall clock jumped"]
    assert jumps == [-3600.0]
