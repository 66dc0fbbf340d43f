"""Sources whose clocks break, against a daemon in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from contracts.manifest import Manifest
from contracts.population import Population, Unit
from contracts.spikes import Hello
from contracts.wire import pack
from evaluation.faults.scripted_source import ScriptedSource
from evaluation.faults.sockets import free_port
from tests.support.processes import DEADLINE_S, Neurrate, get
from tests.support.wait_until import wait_until


class RunningDaemon:
    """A daemon, and its statistics."""

    def __init__(self, process: Neurrate, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.process = process
        self.http = process.addresses()["http"]
        self.socket = context.socket(zmq.SUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.subscribe(b"stats")
        self.socket.connect(process.addresses()["publish"])
        self.newest: dict[str, Any] = {}

    def until(self, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Return the first statistics that meet a condition."""

        def holds() -> bool:
            assert self.process.process.poll() is None, self.process.text()
            while self.socket.poll(0):
                self.newest = json.loads(self.socket.recv_multipart()[1])
            return bool(self.newest and condition(self.newest))

        wait_until(holds, deadline_s=DEADLINE_S, what=what)
        return self.newest

    def narrates(self, n: int = 5) -> dict[str, Any]:
        """Wait for further windows while it is ready."""
        first = self.newest["counters"]["windows"] if self.newest else 0
        return self.until(
            lambda s: s["ready"] and s["counters"]["windows"] >= first + n, f"{n} windows"
        )

    def is_not_ready(self, *reasons: str) -> dict[str, Any]:
        """Wait until it is not ready, with these parts of a reason."""

        def has_reasons(stats: dict[str, Any]) -> bool:
            return all(reason in " ".join(stats["reasons"]) for reason in reasons)

        stats = self.until(has_reasons, f"{reasons}, newest {self.newest.get('reasons')}")
        assert get(f"{self.http}/readyz")[0] == 503
        return stats


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def daemon(tiny_bundle: Manifest, tmp_path: Path, stack: ExitStack) -> Callable[..., RunningDaemon]:
    """Start a daemon that connects to addresses."""
    context = stack.enter_context(zmq.Context())

    def start(*addresses: str) -> RunningDaemon:
        connect = [word for address in addresses for word in ("--connect", address)]
        words = (
            "run", "--bundle", tiny_bundle.folder, *connect, "--publish", "tcp://127.0.0.1:*",
            "--narrator", "retrieval", "--set", "http.port=0",
            "--set", "ingest.stream_timeout_s=1",
        )  # fmt: skip
        process = stack.enter_context(Neurrate(*words, folder=tmp_path, name="daemon"))
        one = RunningDaemon(process, context)
        stack.callback(one.socket.close)
        return one

    return start


def addresses(n: int) -> list[str]:
    return [f"tcp://127.0.0.1:{free_port()}" for _ in range(n)]


def test_broken_clock_costs_its_own_probe_alone(
    daemon: Callable[..., RunningDaemon], tiny_bundle: Manifest, stack: ExitStack
):
    """A burst an hour ahead, a jump that stays, a restart from zero, and a restart of both."""
    units = tiny_bundle.population.units
    left, right = addresses(2)
    first = ScriptedSource(left, units[:6], "probeA").__enter__()
    second = ScriptedSource(right, units[6:], "probeB").__enter__()
    stack.callback(first.__exit__, None, None, None)
    stack.callback(second.__exit__, None, None, None)
    one = daemon(left, right)
    one.narrates()

    second.send_shifted(10, 3600)
    before = one.until(lambda s: s["counters"]["wire_errors"]["jump"] >= 5, "a burst")
    stats = one.narrates(10)
    assert stats["counters"]["session_restarts"] == stats["counters"]["streams_aside"] == 0
    assert stats["session_s"] < before["session_s"] + 60

    second.shift_s = 60
    stats = one.is_not_ready("probeB is set aside: its time is 60.0 s ahead of the others")
    windows = stats["counters"]["windows"]
    one.until(lambda s: s["counters"]["windows"] > windows + 10, "windows without it")
    assert one.newest["streams"]["probeB"]["state"] == "aside"
    second.shift_s = 0
    one.narrates()

    second.__exit__(None, None, None)
    zero = ScriptedSource(right, units[6:], "probeB")
    zero.shift_s = -5000
    stack.enter_context(zero)
    one.is_not_ready("probeB is set aside: its time is 5000.0 s behind the others")
    assert one.newest["counters"]["session_restarts"] == 0

    first.__exit__(None, None, None)
    both = ScriptedSource(left, units[:6], "probeA")
    both.shift_s = -5000
    stack.enter_context(both)
    stats = one.narrates()
    assert stats["counters"]["session_restarts"] == 1
    assert stats["counters"]["streams_aside"] == 2
    assert {stream["state"] for stream in stats["streams"].values()} == {"live"}
    text = one.process.text()
    for event in (
        "stream joined", "stream's time jumped", "stream is set aside", "stream is followed again",
        "stream ended", "stream restarted", "session begins anew",
    ):  # fmt: skip
        assert event in text


def test_foreign_flood_of_hellos_and_a_namesake_disturb_nobody(
    daemon: Callable[..., RunningDaemon], tiny_bundle: Manifest, stack: ExitStack
):
    """Foreign hellos of 10^5 units, a new run in each, and a second source of the same name."""
    units = tiny_bundle.population.units
    sound, namesake, hostile = addresses(3)
    source = stack.enter_context(ScriptedSource(sound, units, "probeA"))
    one = daemon(sound, namesake, hostile)
    one.narrates()

    with ScriptedSource(namesake, units, "probeA"):
        one.is_not_ready("two sources send a stream named probeA")
    one.narrates()

    escape = Unit("\x1b[2J\x1b[31mall is well")
    huge = [bytes(part) for part in pack(_foreign([Unit(f"{n}") for n in range(100_000)]))]
    with zmq.Context() as context, context.socket(zmq.XPUB) as flood:
        flood.set(zmq.LINGER, 0)
        flood.bind(hostile)
        assert flood.poll(10_000)
        for n in range(30):
            flood.send_multipart(huge)
            small = _foreign([escape, *(Unit(f"{n}-{k}") for k in range(2000))], run=f"{n:016x}")
            flood.send_multipart(pack(small))
        one.is_not_ready("a source is refused: 2001 units in the stream are not in the encoder's")

        def are_refused(stats: dict[str, Any]) -> bool:
            # The queue before a loop that is held up drops what is too much, so more are sent.
            flood.send_multipart(pack(small))
            return _refused(stats) >= 60

        one.until(are_refused, "60 hellos")
        assert one.newest["counters"]["wire_errors"]["size"] > 0
    stats = one.narrates(20)
    counters = stats["counters"]
    assert counters["batches_lost"] == counters["stream_restarts"] == counters["gap_bins"] == 0
    assert counters["spikes_received"] == counters["spikes_binned"] <= source.n_spikes
    assert "\x1b" not in one.process.text()


def _refused(stats: dict[str, Any]) -> int:
    errors = stats["counters"]["wire_errors"]
    return int(sum(errors[reason] for reason in ("size", "rate", "population")))


def _foreign(units: list[Unit], *, run: str = "f" * 16) -> Hello:
    return Hello("other", run, "flood", Population(units))
