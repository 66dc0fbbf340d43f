"""The whole path over real sockets in one process: a ramp goes in, every window comes out."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from contracts.binning import BinRate
from contracts.clock import NS_PER_S, HostClock
from contracts.manifest import Manifest
from contracts.population import Population
from contracts.spikes import Hello, Mark, SpikeBatch
from contracts.window import Window, WindowSpec
from daemon.narrators.retrieval import RetrievalNarrator
from daemon.worker.narrator_client import InlineClient
from stream_sources.player import PlayReport, play
from stream_sources.publisher import SpikePublisher
from stream_sources.source import SpikeBlock, cut_batches, new_run
from tests.support.daemon_components import Context, DaemonLoop, daemon_loop, wait_for_messages
from tests.support.manual_clock import ManualClock
from tests.support.ramp_population import batch_of, ramp_numbers, ramp_population, ramp_spikes
from tests.support.tiny_bundle import CAPTIONS
from tests.support.wait_until import wait_until

RATE = BinRate(120)
SPEC = WindowSpec(RATE, n_bins=20, stride_bins=10)
SECONDS = 10
N_BINS = 120 * SECONDS
EVERY_WINDOW = list(range(0, N_BINS - 19, 10))


class RampProbe:
    """Ten seconds of the ramp's bits that this probe records."""

    label = "ramp"
    n_spikes = None
    span_ns = (0, SECONDS * NS_PER_S)

    def __init__(self, bits: Sequence[int], *, stream: str = "probeA", batch_ns: int) -> None:
        self.stream, self.run = stream, new_run()
        self.population = Population([ramp_population().units[bit] for bit in bits])
        self._bits, self._batch_ns = list(bits), batch_ns

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches."""
        times, units = ramp_spikes(RATE, 0, N_BINS)
        mine = np.isin(units, self._bits)
        row_of = {bit: row for row, bit in enumerate(self._bits)}
        rows = np.array([row_of[int(unit)] for unit in units[mine]], dtype=np.uint32)
        block = SpikeBlock(0, SECONDS * NS_PER_S, times[mine], rows)
        return cut_batches([block], stream=self.stream, run=self.run, batch_ns=self._batch_ns)

    def marks(self) -> Iterator[Mark]:
        """Yield a mark a second."""
        for second in range(SECONDS):
            start_ns = second * NS_PER_S
            yield Mark(self.stream, self.run, start_ns, start_ns + 1, "movie", second)

    def close(self) -> None:
        """Do nothing."""


class Playing(threading.Thread):
    """A source that is played to its end in a thread of its own."""

    def __init__(self, source: RampProbe, *, speed: float | None) -> None:
        super().__init__(name=f"play-{source.stream}")
        self.endpoint = ""
        self.report: PlayReport | None = None
        self.must_stop = False
        self._source, self._speed = source, speed

    def run(self) -> None:
        """Play, and leave when everything has been sent."""
        source = self._source
        hello = Hello(source.stream, source.run, source.label, source.population)
        with zmq.Context() as context:
            publisher = SpikePublisher(
                context,
                "tcp://127.0.0.1:*",
                hello,
                HostClock(),
                is_lossless=self._speed is None,
            )
            self.endpoint = publisher.endpoint
            self.report = play(
                source,
                publisher,
                HostClock(),
                speed=self._speed,
                wait_for_subscribers=1,
                should_stop=lambda: self.must_stop,
            )
            publisher.close()


@contextmanager
def played(*sources: RampProbe, speed: float | None = None) -> Iterator[list[Playing]]:
    threads = [Playing(source, speed=speed) for source in sources]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(thread.endpoint for thread in threads), what="bound sources")
    try:
        yield threads
    finally:
        for thread in threads:
            thread.must_stop = True
            thread.join(20)


@contextmanager
def subscriber(daemon: DaemonLoop, topic: bytes = b"narration.") -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.subscribe(topic)
        socket.connect(daemon.publisher.address)
        assert daemon.publisher.socket.poll(5000)
        daemon.publisher.serve()
        yield socket


def run_until(daemon: DaemonLoop, condition: Callable[[], object]) -> None:
    """Step the loop as the service does, until a condition holds."""

    def step() -> object:
        wait_for_messages(daemon.ingest, timeout_ms=20)
        daemon.loop.step()
        daemon.publisher.serve()
        return condition()

    wait_until(step, deadline_s=30, what=f"{daemon.counters}")


def messages(socket: zmq.Socket[bytes], n: int) -> list[dict[str, Any]]:
    received: list[dict[str, Any]] = []
    for _ in range(n):
        assert socket.poll(5000), f"only {len(received)} of {n} messages"
        received.append(json.loads(socket.recv_multipart()[1]))
    return received


def check_windows(windows: Sequence[Window], first_bins: Sequence[int]) -> None:
    assert [window.first_bin for window in windows] == list(first_bins)
    for window in windows:
        expected = list(range(window.first_bin, window.first_bin + 20))
        assert ramp_numbers(window.counts) == expected


@pytest.mark.parametrize(("speed", "batch_ms"), [(None, 100), (None, 3), (50, 10), (20, 40)])
def test_every_window_is_narrated_and_received(
    speed: float | None, batch_ms: int, context: Context, stub_bundle: Manifest
):
    """At any speed and length of batch: whole windows, the right captions, in order, once."""
    source = RampProbe(range(16), batch_ns=batch_ms * 1_000_000)
    client = InlineClient(RetrievalNarrator(stub_bundle))
    with (
        daemon_loop(
            context, HostClock(), SPEC, narrator_client=client, populations=("all", "PV")
        ) as daemon,
        subscriber(daemon) as socket,
        played(source, speed=speed) as (thread,),
    ):
        daemon.ingest.connect([thread.endpoint])
        run_until(daemon, lambda: daemon.ingest.registry.have_all_ended)
        check_windows(daemon.encoder.windows, EVERY_WINDOW)
        received = messages(socket, 2 * len(EVERY_WINDOW))
    counters = daemon.counters
    assert thread.report is not None
    assert counters.spikes_binned == counters.spikes_received == thread.report.n_spikes
    assert counters.marks_received == SECONDS
    assert (counters.batches_lost, counters.gap_bins, counters.spikes_late) == (0, 0, 0)
    for n, message in enumerate(received):
        assert message["population"] == ("all", "PV")[n % 2]
        assert message["seq"] == message["window"]["seq"] == n // 2
        assert message["text"] == CAPTIONS[n // 2 % 3]
        stages = dict(message["latency_ms"])
        total = stages.pop("total")
        assert min(stages.values()) >= 0
        assert sum(stages.values()) == pytest.approx(total)


def test_two_probes_over_two_connections(context: Context):
    """Even and odd bits from two sources, cut otherwise, at ten times real time: whole windows."""
    probes = [
        RampProbe(range(0, 16, 2), stream="even", batch_ns=10_000_000),
        RampProbe(range(15, 0, -2), stream="odd", batch_ns=37_000_000),
    ]
    with (
        daemon_loop(context, HostClock(), SPEC) as daemon,
        played(*probes, speed=10) as threads,
    ):
        daemon.ingest.connect([thread.endpoint for thread in threads])
        run_until(daemon, lambda: len(daemon.ingest.registry.streams) == 2)
        run_until(daemon, lambda: daemon.ingest.registry.have_all_ended)
        check_windows(daemon.encoder.windows, EVERY_WINDOW)
    counters = daemon.counters
    assert (counters.batches_lost, counters.gap_bins, counters.spikes_late) == (0, 0, 0)


def test_stalled_loop_loses_and_says_what(context: Context):
    """A live source runs away from a loop that hangs: no bin is shifted, every loss is counted."""
    clock = ManualClock()
    n_batches = 60_000  # more than the queues and buffers on the way hold
    hello = Hello("probeA", "0" * 16, "ramp", ramp_population())
    rate = BinRate(100)
    spec = WindowSpec(rate, n_bins=20, stride_bins=20)
    publisher = SpikePublisher(context, "tcp://127.0.0.1:*", hello, clock)
    with daemon_loop(context, clock, spec) as daemon:
        daemon.ingest.connect([publisher.endpoint])

        def is_settled() -> bool:
            publisher.serve(wait_ms=5)
            daemon.loop.step()
            return daemon.ingest.is_settled

        wait_until(is_settled, what="the hello")
        times, units = ramp_spikes(rate, 0, n_batches)
        edges = np.searchsorted(times, [rate.start_ns(b) for b in range(n_batches + 1)])

        def send(seq: int) -> None:
            spikes = slice(edges[seq], edges[seq + 1])
            start_ns, stop_ns = rate.start_ns(seq), rate.start_ns(seq + 1)
            publisher.send(
                batch_of(times[spikes], units[spikes], start_ns, stop_ns, seq=seq, run="0" * 16)
            )

        for seq in range(n_batches - 100):  # the loop hangs
            send(seq)
        quiet = 0
        while quiet < 5:
            quiet = 0 if wait_for_messages(daemon.ingest, timeout_ms=20) else quiet + 1
            daemon.loop.step()
        for seq in range(n_batches - 100, n_batches):  # the loop is back
            send(seq)
            wait_for_messages(daemon.ingest, timeout_ms=20)
            daemon.loop.step()
        newest = daemon.ingest.registry.streams["probeA"]
        run_until(daemon, lambda: newest.next_seq == n_batches)
        counters = daemon.counters
        assert counters.batches_lost == newest.n_lost > 0
        n_arrived = counters.messages_received - counters.hellos_received
        assert n_arrived + counters.batches_lost == n_batches
        for window in daemon.encoder.windows:
            expected = range(window.first_bin, window.first_bin + 20)
            found = ramp_numbers(window.counts)
            assert all(n in {0, e} for n, e in zip(found, expected, strict=True))
            n_empty = sum(n == 0 and e != 0 for n, e in zip(found, expected, strict=True))
            assert n_empty == window.n_gap_bins
        assert [window.first_bin for window in daemon.encoder.windows[-4:]] == [
            n_batches - 80 + 20 * n for n in range(4)
        ]
    publisher.close()


def test_lossless_source_waits_for_a_stalled_loop(context: Context):
    """The same with a lossless source: the loop hangs for a while and nothing is missing."""
    source = RampProbe(range(16), batch_ns=300_000)  # 33,000 batches: beyond every queue
    with daemon_loop(context, HostClock(), SPEC) as daemon, played(source) as (thread,):
        daemon.ingest.connect([thread.endpoint])
        run_until(daemon, lambda: daemon.counters.windows > 3)
        thread.join(0.5)  # the loop hangs
        assert thread.is_alive()
        run_until(daemon, lambda: daemon.ingest.registry.have_all_ended)
        check_windows(daemon.encoder.windows, EVERY_WINDOW)
    assert daemon.counters.batches_lost == 0


def test_new_subscriber_gets_the_last_narrations_at_once(context: Context, stub_bundle: Manifest):
    """Who joins after the end gets each population's last narration, marked as a repeat."""
    source = RampProbe(range(16), batch_ns=100_000_000)
    client = InlineClient(RetrievalNarrator(stub_bundle))
    with (
        daemon_loop(
            context, HostClock(), SPEC, narrator_client=client, populations=("all", "PV")
        ) as daemon,
        played(source) as (thread,),
    ):
        daemon.ingest.connect([thread.endpoint])
        run_until(daemon, lambda: daemon.ingest.registry.have_all_ended)
        with subscriber(daemon) as socket:
            received = messages(socket, 2)
    assert {message["population"] for message in received} == {"all", "PV"}
    assert all(message["repeat"] for message in received)
    assert {message["seq"] for message in received} == {len(EVERY_WINDOW) - 1}


def test_subscriber_that_never_reads_delays_nobody(context: Context, stub_bundle: Manifest):
    """The loop continues, and the subscriber beside it receives every narration."""
    source = RampProbe(range(16), batch_ns=50_000_000)
    client = InlineClient(RetrievalNarrator(stub_bundle))
    names = tuple(f"p{n}" for n in range(8))
    with (
        daemon_loop(
            context, HostClock(), SPEC, narrator_client=client, populations=names
        ) as daemon,
        subscriber(daemon),
        subscriber(daemon) as good,
        played(source) as (thread,),
    ):
        daemon.ingest.connect([thread.endpoint])
        received: list[dict[str, Any]] = []

        def has_received_all() -> bool:
            while good.poll(0):
                received.append(json.loads(good.recv_multipart()[1]))
            return len(received) == len(EVERY_WINDOW) * len(names)

        run_until(daemon, has_received_all)
        assert [m["window"]["seq"] for m in received if m["population"] == "p7"] == list(
            range(len(EVERY_WINDOW))
        )
