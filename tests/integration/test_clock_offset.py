"""A source on another machine, as far as clocks tell: asked over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import neurrate_client as client
import numpy as np
import pytest

from contracts.allow_list import ServerKeys
from contracts.clock import NS_PER_S, HostClock
from contracts.keys import ClientKeys
from contracts.spikes import Hello, SpikeBatch
from daemon import source_clocks
from daemon.counters import Counters
from daemon.ingest import Ingest
from daemon.source_clocks import ClockReport
from daemon.stream_registry import StreamRegistry
from stream_sources.publisher import SpikePublisher
from tests.support.daemon_components import Context, wait_for_messages
from tests.support.keys import client_keys, new_pair, server_keys
from tests.support.ramp_population import RUN, ramp_population
from tests.support.wait_until import wait_until

POPULATION = ramp_population(4)
BATCH_NS = 10_000_000


class ShiftedClock(HostClock):
    """Five seconds ahead, and 300 ppm too fast."""

    def now_ns(self) -> int:
        """Return its time."""
        return their_time(super().now_ns())


def their_time(ns: int) -> int:
    return ns + 5 * NS_PER_S + ns * 300 // 1_000_000


@pytest.fixture(autouse=True)
def other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the daemon take its own clock for another one, and ask more often."""
    monkeypatch.setattr(source_clocks, "host_clock_id", lambda: "0" * 16)
    monkeypatch.setattr(source_clocks, "PING_NS", 10_000_000)


class EmptySpans:
    """A publisher that sends an empty batch at each call."""

    def __init__(self, publisher: SpikePublisher) -> None:
        self.publisher = publisher
        self._seq = 0

    def send(self) -> None:
        start_ns = self._seq * BATCH_NS
        empty = np.empty(0, np.int64), np.empty(0, np.uint32)
        batch = SpikeBatch("probeA", RUN, self._seq, start_ns, start_ns + BATCH_NS, *empty)
        self.publisher.send(batch)
        self._seq += 1


@contextmanager
def source_of(context: Context, keys: ServerKeys | None = None) -> Iterator[EmptySpans]:
    hello = Hello("probeA", RUN, "test", POPULATION)
    publisher = SpikePublisher(context, "tcp://127.0.0.1:*", hello, ShiftedClock(), keys=keys)
    try:
        yield EmptySpans(publisher)
    finally:
        publisher.close()
        publisher.wait()


@contextmanager
def ingest_of(address: str, keys: ClientKeys | None = None) -> Iterator[Ingest]:
    ingest = Ingest(StreamRegistry(POPULATION, "refuse"), Counters(), HostClock())
    ingest.connect([address], [keys])
    try:
        yield ingest
    finally:
        ingest.close()


def estimate(source: EmptySpans, ingest: Ingest, n_reports: int = 5) -> ClockReport:
    """Send and receive until the clock is known, and then so many times more; each is true."""
    n_known = 0
    report = ClockReport({}, {}, {})

    def is_known() -> bool:
        nonlocal n_known, report
        source.send()
        wait_for_messages(ingest, timeout_ms=20)
        for _ in ingest.receive(max_messages=1000):
            pass
        before_ns = time.monotonic_ns()
        report = ingest.source_clocks.report()
        if "probeA" not in report.offset_s:
            return False
        truth_s = (before_ns - their_time(before_ns)) / NS_PER_S
        assert abs(report.offset_s["probeA"] - truth_s) <= report.error_s["probeA"] + 1e-6
        n_known += 1
        return n_known >= n_reports and "probeA" in report.delay_s

    wait_until(is_known, what="an estimate")
    return report


@pytest.mark.parametrize("has_keys", [False, True])
def test_the_offset_is_known_within_its_error(has_keys: bool, context: Context, tmp_path: Path):
    """With keys and without; the delay is corrected by it."""
    mine = new_pair()
    keys = server_keys(tmp_path, mine) if has_keys else None
    with (
        source_of(context, keys=keys) as source,
        ingest_of(source.publisher.endpoint, client_keys(keys, mine) if keys else None) as ingest,
    ):
        report = estimate(source, ingest)
        assert report.offset_s["probeA"] < -5
        assert -report.error_s["probeA"] <= report.delay_s["probeA"] < 100
        # A ping is no subscription: nothing of it reaches the source's socket.
        assert source.publisher.n_subscribers == 1


class SlowBack(threading.Thread):
    """Passes a connection on; what comes back waits for a while."""

    def __init__(self, target: str, delay_s: float) -> None:
        super().__init__(daemon=True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target, self._delay_s = (host, int(port)), delay_s
        self._open: list[socket.socket] = []

    def run(self) -> None:
        """Take one connection."""
        with suppress(OSError):
            here, _ = self._listening.accept()
            there = socket.create_connection(self._target)
            self._open = [here, there]
            back = threading.Thread(target=self._pass, args=(there, here, self._late))
            back.start()
            self._pass(here, there, lambda: None)
            back.join()

    def close(self) -> None:
        """End it."""
        for one in (self._listening, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.join()

    def _late(self) -> None:
        time.sleep(self._delay_s)

    def _pass(self, source: socket.socket, sink: socket.socket, wait: Callable[[], None]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                wait()
                sink.sendall(data)


def test_an_unequal_link_is_within_the_error(context: Context):
    """A way back of 0.2 s and more: the middle is wrong, and the error says by how much."""
    with source_of(context) as source:
        slow = SlowBack(source.publisher.endpoint, 0.2)
        slow.start()
        try:
            with ingest_of(slow.address) as ingest:
                report = estimate(source, ingest)
                assert report.error_s["probeA"] >= 0.1
        finally:
            slow.close()


def test_a_source_of_the_client_answers(context: Context):
    """Its clock is the daemon's here, which the daemon does not know: the offset is 0."""
    units = [client.Unit(one.unit_id, one.probe) for one in POPULATION.units]
    with (
        client.Publisher("tcp://127.0.0.1:0", stream="probeA", units=units) as source,
        ingest_of(source.address) as ingest,
    ):

        def is_known() -> bool:
            start_ns = source.n_batches * BATCH_NS
            source.batch(start_ns, start_ns + BATCH_NS)
            wait_for_messages(ingest, timeout_ms=20)
            for _ in ingest.receive(max_messages=1000):
                pass
            return "probeA" in ingest.source_clocks.report().offset_s

        wait_until(is_known)
        report = ingest.source_clocks.report()
        assert abs(report.offset_s["probeA"]) <= report.error_s["probeA"]
        source.end()


def test_one_machine_needs_no_pings(context: Context, monkeypatch: pytest.MonkeyPatch):
    """Source and daemon with one clock: delays are plain, and nobody asks."""
    clock_id = "c" * 16
    monkeypatch.setattr(source_clocks, "host_clock_id", lambda: clock_id)
    monkeypatch.setattr("stream_sources.publisher.host_clock_id", lambda: clock_id)
    with source_of(context) as source, ingest_of(source.publisher.endpoint) as ingest:

        def has_delay() -> bool:
            source.send()
            wait_for_messages(ingest, timeout_ms=20)
            for _ in ingest.receive(max_messages=1000):
                pass
            report = ingest.source_clocks.report()
            assert report.offset_s == {}
            return "probeA" in report.delay_s

        wait_until(has_delay)
        assert ingest.source_clocks.next_ping(0) is None
