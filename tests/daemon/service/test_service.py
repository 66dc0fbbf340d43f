"""The daemon's life in this process: start, listen, end, and close everything."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from contracts.clock import NS_PER_S, HostClock
from contracts.embedding import PatchEmbedding
from contracts.errors import PopulationMismatchError, UserError
from contracts.manifest import Manifest
from contracts.population import Population
from contracts.spikes import Hello, SpikeBatch
from contracts.window import Window
from daemon.handover import EncodeWindow
from daemon.narrators.protocol import EndedRow
from daemon.service import monitor, wiring
from daemon.service.monitor import Monitor
from daemon.service.service import Service
from daemon.service.settings import Settings
from daemon.service.signals import StopRequest
from stream_sources.publisher import SpikePublisher
from stream_sources.source import new_run
from tests.support.daemon_components import EchoNarrator, FakeNarratorClient, StubEncoder
from tests.support.wait_until import wait_until

MS = 1_000_000


@pytest.fixture(autouse=True)
def stub_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wire a stub in place of ONNX Runtime, which would refuse the graph that is none."""

    def encoder(manifest: Manifest, chosen: Sequence[Any], **_: object) -> StubEncoder:
        return StubEncoder(HostClock(), [selection.name for selection in chosen])

    monkeypatch.setattr(wiring, "load_encoder", encoder)


class Source(threading.Thread):
    """A source in a thread of its own: so many empty batches, then its end.

    It is lossless, or live and at real time.
    """

    def __init__(
        self,
        population: Population,
        *,
        stream: str = "probeA",
        n_batches: int = 20,
        ends: bool = True,
        is_live: bool = False,
    ) -> None:
        super().__init__(name=f"source-{stream}")
        self._is_live = is_live
        self.hello = Hello(stream, new_run(), "test", population)
        self.endpoint = ""
        self.let_go = threading.Event()
        self._n_batches, self._ends = n_batches, ends

    def run(self) -> None:
        """Wait for the daemon, send, and greet until let go."""
        none = np.array([], dtype=np.int64), np.array([], dtype=np.uint32)
        with zmq.Context() as context:
            clock = HostClock()
            publisher = SpikePublisher(
                context, "tcp://127.0.0.1:*", self.hello, clock, is_lossless=not self._is_live
            )
            publisher._socket.set(zmq.LINGER, 1000)
            self.endpoint = publisher.endpoint
            while not publisher.n_subscribers and not self.let_go.is_set():
                publisher.serve(wait_ms=10)
            for seq in range(self._n_batches):
                start_ns = seq * 100 * MS
                if self._is_live and self.let_go.wait(0.1):
                    break
                publisher.send(
                    SpikeBatch(
                        self.hello.stream,
                        self.hello.run,
                        seq,
                        start_ns,
                        start_ns + 100 * MS,
                        *none,
                    ),
                    should_give_up=self.let_go.is_set,
                )
            if self._ends:
                publisher.send_end(should_give_up=self.let_go.is_set)
            while not self.let_go.is_set():
                publisher.serve(wait_ms=10)
            publisher.close()


@contextmanager
def source(population: Population, **how: Any) -> Iterator[Source]:
    one = Source(population, **how)
    one.start()
    wait_until(lambda: one.endpoint, what="a bound source")
    try:
        yield one
    finally:
        one.let_go.set()
        one.join(10)


def settings(manifest: Manifest, *sources: Source, **groups: Any) -> Settings:
    return Settings.model_validate(
        {
            "ingest": {
                "connect": tuple(source.endpoint for source in sources) or ("tcp://127.0.0.1:1",),
                "population_timeout_s": 1.0,
            },
            "encoder": {"bundle": manifest.folder},
            "publish": {"bind": "tcp://127.0.0.1:*"},
            "http": {"enabled": False},
            "narrator": {"backend": "retrieval", "mode": "sequential"},
            "service": {"exit_at_end": True, "shutdown_s": 5},
            **groups,
        }
    )


@contextmanager
def after(condition: Callable[[], object], act: Callable[[], object]) -> Iterator[None]:
    """Do something once a condition holds, while the service runs in this thread."""

    def wait() -> None:
        wait_until(condition)
        act()

    thread = threading.Thread(target=wait, name="after")
    thread.start()
    yield
    thread.join(20)


def test_replay_ends_with_everything_narrated(stub_bundle: Manifest):
    """Two seconds of silence: 23 windows, two populations, one summary."""
    with source(stub_bundle.population) as one:
        summary = Service(
            settings(stub_bundle, one, populations={"all": "all", "none": "silent"})
        ).run()
    counters = summary["counters"]
    assert counters["windows"] == counters["windows_encoded"] == (240 - 20) // 10 + 1
    assert counters["narrations"] == {"ok": 46, "truncated": 0, "failed": 0}
    assert sum(counters["windows_dropped"].values()) == 0
    assert counters["batches_lost"] == 0
    assert summary["streams"]["probeA"] == {"covered_until_s": 2.0, "state": "ended"}
    assert summary["session_s"] == pytest.approx(2.0)


def test_encoder_that_cannot_keep_up_is_stated_at_the_start(
    stub_bundle: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Before the first spike the log says what a window takes; a note says it for as long."""
    slow = StubEncoder(HostClock())
    slow.window_s = 0.5
    monkeypatch.setattr(wiring, "load_encoder", lambda *_, **__: slow)
    caplog.set_level("INFO")
    with source(stub_bundle.population, n_batches=3) as one:
        summary = Service(settings(stub_bundle, one)).run()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    stated = next(line for line in lines if line[1].startswith("encoder measured: a window takes"))
    assert stated[1].endswith(
        "500 ms through 1 population; one comes every 83.3 ms: up to 600 % of the fast loop's time"
    )
    (note,) = summary["notes"]
    assert "and one comes every 83.3 ms: spikes wait" in note
    assert ("WARNING", f"the encoder cannot keep up: {note}") in lines
    assert lines.index(stated) < [message for _, message in lines].index("stream joined")


@pytest.mark.parametrize("is_live", [True, False])
def test_daemon_that_cannot_keep_up_is_not_ready_until_it_can(
    stub_bundle: Manifest, monkeypatch: pytest.MonkeyPatch, is_live: bool
):
    """A window takes a second for a while: 503 with the reason, then 200. A replay may wait."""
    encoder, client, stop = StubEncoder(HostClock()), FakeNarratorClient(), StopRequest()
    encode, is_slow, found = encoder.encode, threading.Event(), list[dict[str, Any]]()

    def encode_slowly(windows: Sequence[Window]) -> Sequence[PatchEmbedding]:
        if is_slow.is_set():
            time.sleep(1)
        return encode(windows)

    monkeypatch.setattr(encoder, "encode", encode_slowly)
    monkeypatch.setattr(wiring, "load_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(wiring, "_narrator_client", lambda *_: client)
    addresses: dict[str, str] = {}

    def ready() -> Any:
        try:
            with urllib.request.urlopen(f"{addresses['http']}/readyz", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def watch() -> None:
        try:
            wait_until(lambda: ready()["ready"], what="ready")
            is_slow.set()
            n_windows = len(encoder.windows)
            if is_live:
                wait_until(lambda: not ready()["ready"], what="not ready")
                found.append(ready())
            else:
                wait_until(lambda: len(encoder.windows) > n_windows + 2)
                found.append(ready())
            is_slow.clear()
            wait_until(lambda: ready()["ready"], what="ready again")
        finally:
            stop.is_made = True

    with (
        source(stub_bundle.population, n_batches=100_000, is_live=is_live) as one,
        after(lambda: addresses, watch),
    ):
        live = settings(
            stub_bundle, one, http={"port": 0}, service={"exit_at_end": False, "shutdown_s": 0.1}
        )
        live = live.model_copy(
            update={"narrator": live.narrator.model_copy(update={"mode": "worker"})}
        )
        Service(live, stop=stop, on_bound=addresses.update).run()
    (state,) = found
    assert state["conditions"]["ingest"] is not is_live
    if is_live:
        assert (
            "which is busy with encoding and publishing. Use fewer populations"
            in state["reasons"][0]
        )
        assert state["reasons"][0].startswith("ingest: spikes wait ")


def test_end_of_one_probe_before_the_other_has_begun_is_no_end(
    stub_bundle: Manifest, monkeypatch: pytest.MonkeyPatch
):
    """The first of two probes is done before the second is up: the daemon waits for it."""
    units = stub_bundle.population.units
    left, right = Population(units[:6]), Population(units[6:])
    with source(left, stream="left") as one, source(right, stream="right") as two:
        both = settings(stub_bundle, one)
        late = both.model_copy(
            update={"ingest": both.ingest.model_copy(update={"population_timeout_s": 20.0})}
        )
        daemon = Service(late)
        ended: list[str] = []
        tick = Monitor.tick

        def tick_and_connect(monitor: Monitor) -> None:
            tick(monitor)
            if monitor._components.registry.have_all_ended and not ended:
                ended.append("left")
                monitor._components.loop.ingest.connect([two.endpoint])

        monkeypatch.setattr(Monitor, "tick", tick_and_connect)
        summary = daemon.run()
    assert ended
    assert set(summary["streams"]) == {"left", "right"}
    assert {stream["state"] for stream in summary["streams"].values()} == {"ended"}


def test_units_that_nobody_announces_stop_it(stub_bundle: Manifest):
    """Half a population for longer than the timeout: the other half is named."""
    half = Population(stub_bundle.population.units[:6])
    with source(half, n_batches=1, ends=False) as one:
        with pytest.raises(PopulationMismatchError) as raised:
            Service(settings(stub_bundle, one)).run()
    assert raised.value.missing == tuple(u.label for u in stub_bundle.population.units[6:])


@pytest.mark.parametrize(("stream_timeout_s", "population_timeout_s"), [(0.5, 60), (20, 0.5)])
def test_units_that_nobody_announces_are_done_without(
    stub_bundle: Manifest, stream_timeout_s: float, population_timeout_s: float
):
    """Asked to, it begins without half of the units: ready, with a note; gauge and stats agree."""
    half = Population(stub_bundle.population.units[:6])
    stop = StopRequest()
    states: list[tuple[tuple[str, ...], int]] = []

    def tick_and_look(monitor: Monitor) -> None:
        tick(monitor)
        components = monitor._components
        if components.counters.windows == 23 and components.health.is_ready:
            states.append((components.health.notes, components.gauges.units_missing))
            stop.is_made = True

    tick = Monitor.tick
    with source(half) as one, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "tick", tick_and_look)
        lenient = settings(stub_bundle, one, service={"exit_at_end": False, "shutdown_s": 5})
        ingest = {
            "missing_units": "mean",
            "stream_timeout_s": stream_timeout_s,
            "population_timeout_s": population_timeout_s,
        }
        lenient = lenient.model_copy(update={"ingest": lenient.ingest.model_copy(update=ingest)})
        summary = Service(lenient, stop=stop).run()
    ((note,), n_missing) = states[0]
    assert note.startswith("6 units are held at their mean: no source sends ")
    assert n_missing == 6
    assert summary["notes"] == [note]
    assert summary["counters"]["windows"] == (240 - 20) // 10 + 1


def test_daemon_that_is_not_ready_for_long_says_why_in_its_log(
    stub_bundle: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Half of the units never come: nobody who looks at the log alone waits for narrations."""
    monkeypatch.setattr("daemon.service.monitor.NOT_READY_NS", NS_PER_S // 10)
    half = Population(stub_bundle.population.units[:6])
    stop = StopRequest()

    def logged() -> list[str]:
        lines = [record for record in caplog.records if record.getMessage() == "not ready"]
        return [vars(record)["reasons"] for record in lines]

    with source(half) as one:
        endless = settings(stub_bundle, one, service={"exit_at_end": False, "shutdown_s": 5})
        with after(logged, lambda: setattr(stop, "is_made", True)):
            Service(endless, stop=stop).run()
    (reasons,) = logged()  # the next would come after a minute
    assert "streams: " in reasons


def test_no_unit_at_all_is_not_done_without(stub_bundle: Manifest):
    """A source of another session is waited out, not narrated as a mean."""
    foreign = Population(
        [replace(unit, unit_id=f"9{unit.unit_id}") for unit in stub_bundle.population.units]
    )
    with source(foreign, n_batches=1, ends=False) as one:
        lenient = settings(stub_bundle, one)
        ingest = {"missing_units": "mean", "extra_units": "ignore", "stream_timeout_s": 0.1}
        lenient = lenient.model_copy(update={"ingest": lenient.ingest.model_copy(update=ingest)})
        with pytest.raises(PopulationMismatchError):
            Service(lenient).run()


def test_stop_from_outside_ends_it_without_a_source(stub_bundle: Manifest):
    """Asked to stop, a daemon without a source ends with a summary of zeros."""
    stop, bound = StopRequest(), []

    def on_bound(addresses: dict[str, str]) -> None:
        bound.append(addresses)
        stop.is_made = True

    summary = Service(settings(stub_bundle), stop=stop, on_bound=on_bound).run()
    assert bound[0]["publish"].startswith("tcp://127.0.0.1:")
    assert summary["counters"]["messages_received"] == 0
    assert summary["ready"] is False


def test_signal_ends_it_and_the_handlers_come_back(stub_bundle: Manifest):
    """SIGTERM to this very process: a gentle end, and our handlers as before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    is_bound = threading.Event()
    with after(is_bound.is_set, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        summary = Service(settings(stub_bundle), on_bound=lambda _: is_bound.set()).run()
    assert summary["counters"]["windows"] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_start_that_fails_closes_everything(stub_bundle: Manifest, tmp_path: Path):
    """A worker whose narrator cannot load: the user's error, no process, the port free again."""
    from tests.support.tiny_bundle import write_stub_bundle

    bare = write_stub_bundle(tmp_path / "bare")
    bound: list[str] = []
    wrong = settings(bare, narrator={"backend": "retrieval", "mode": "worker"})
    with pytest.raises(UserError, match=r"the narrator cannot start: .*captions\.jsonl"):
        Service(wrong, on_bound=lambda addresses: bound.append(addresses["publish"])).run()
    with zmq.Context() as context, context.socket(zmq.XPUB) as probe:
        probe.bind(bound[0])


def test_windows_cut_off_by_shutdown_are_counted(
    stub_bundle: Manifest, monkeypatch: pytest.MonkeyPatch
):
    """A narrator that never answers: at the deadline the one it has and the one that waits."""

    class Stuck(FakeNarratorClient):
        """Holds one window and lets the newest one wait."""

        def offer(self, encode: EncodeWindow) -> None:
            self.offered = [*self.offered[:1], encode()]

    client, stop = Stuck(), StopRequest()
    monkeypatch.setattr(wiring, "_narrator_client", lambda *_: client)
    with (
        source(stub_bundle.population) as one,
        after(lambda: client.n_unfinished == 2, lambda: setattr(stop, "is_made", True)),
    ):
        quick = settings(stub_bundle, one, service={"shutdown_s": 0.1})
        summary = Service(quick, stop=stop).run()
    assert client.is_closed
    assert summary["counters"]["windows_dropped"]["shutdown"] == 2


def test_narrator_that_returns_nan_does_not_stop_the_loop(
    stub_bundle: Manifest, monkeypatch: pytest.MonkeyPatch
):
    """Not-a-number from a model is left out of the message, and the replay ends as usual."""

    class Nan(EchoNarrator):
        """Narrates with a log-probability that is not a number."""

        def step(self) -> Sequence[EndedRow]:
            return [
                replace(row, utterance=replace(row.utterance, mean_logprob=math.nan))
                for row in super().step()
            ]

    monkeypatch.setattr(wiring, "load_narrator", lambda *_, **__: Nan(HostClock()))
    with source(stub_bundle.population) as one:
        summary = Service(settings(stub_bundle, one)).run()
    assert summary["counters"]["narrations"]["ok"] == summary["counters"]["windows"] > 0


def test_statistics_come_once_a_second_and_at_the_end(stub_bundle: Manifest):
    """A subscriber gets counters, streams and why the daemon is not ready."""
    stop = StopRequest()
    received: list[dict[str, Any]] = []

    def listen(address: str) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set(zmq.LINGER, 0)
            socket.subscribe(b"stats")
            socket.connect(address)
            while len(received) < 2 and socket.poll(10_000):
                received.append(json.loads(socket.recv_multipart()[1]))
        stop.is_made = True

    threads: list[threading.Thread] = []

    def on_bound(addresses: dict[str, str]) -> None:
        threads.append(threading.Thread(target=listen, args=(addresses["publish"],)))
        threads[0].start()

    Service(settings(stub_bundle), stop=stop, on_bound=on_bound).run()
    threads[0].join(20)
    first, second = received
    assert 0.9 < (second["host_ns"] - first["host_ns"]) / 1e9 < 1.5
    assert any("no source has said hello" in reason for reason in second["reasons"])
    assert monitor.STATS_EVERY_NS == 1_000_000_000
