"""The daemon as a process: started, narrating, killed, asked to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from contracts.manifest import Manifest
from evaluation.latency.process_usage import worker_of
from tests.support.processes import DEADLINE_S, Neurrate, get
from tests.support.wait_until import wait_until

Start = Callable[..., Neurrate]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start commands, and end those that are left."""
    started: list[Neurrate] = []

    def begin(*words: object, name: str, output: int | None = None) -> Neurrate:
        started.append(Neurrate(*words, folder=tmp_path, name=name, output=output))
        return started[-1]

    yield begin
    for command in reversed(started):
        command.__exit__(None, None, None)


@pytest.fixture
def start_daemon(start: Start, tiny_bundle: Manifest) -> Start:
    """Start a daemon that retrieves captions: a narrator that loads in no time."""

    def begin(
        spikes: str,
        *words: object,
        publish: str = "tcp://127.0.0.1:*",
        name: str = "daemon",
        output: int | None = None,
    ) -> Neurrate:
        return start(
            "run", "--bundle", tiny_bundle.folder, "--connect", spikes,
            "--publish", publish, "--narrator", "retrieval",
            "--set", "http.port=0", *words, name=name, output=output,
        )  # fmt: skip

    return begin


@pytest.fixture
def start_source(start: Start, recording: Path) -> Start:
    """Start a source of the recording."""

    def begin(
        *words: object,
        bind: str = "tcp://127.0.0.1:*",
        name: str = "source",
        output: int | None = None,
    ) -> Neurrate:
        return start("stream", "nwb", recording, "--bind", bind, *words, name=name, output=output)

    return begin


@contextmanager
def subscriber(address: str, topic: bytes = b"narration.") -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.subscribe(topic)
        socket.connect(address)
        yield socket


def next_message(socket: zmq.Socket[bytes], *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    assert socket.poll(round(deadline_s * 1000)), f"nothing received for {deadline_s} s"
    return dict(json.loads(socket.recv_multipart()[1]))


def stats_until(
    address: str, condition: Callable[[dict[str, Any]], object], *, deadline_s: float = DEADLINE_S
) -> dict[str, Any]:
    """Return the first statistics that meet a condition."""
    newest: dict[str, Any] = {}

    def holds() -> bool:
        newest.update(next_message(socket))
        return bool(condition(newest))

    with subscriber(address, b"stats") as socket:
        wait_until(holds, deadline_s=deadline_s, what=f"statistics, newest {newest}")
    return newest


def test_replay_ends_by_itself_with_every_spike_accounted_for(
    start_source: Start, start_daemon: Start
):
    """A whole recording at full speed: sent, received and binned are one number."""
    source = start_source("--speed", "max")
    daemon = start_daemon(source.addresses()["spikes"], "--exit-at-end")
    assert daemon.wait() == 0, daemon.text()
    assert source.wait() == 0, source.text()
    counters = daemon.summary()["counters"]
    assert source.summary()["n_spikes"] == 1200
    assert (counters["spikes_received"], counters["spikes_binned"]) == (1200, 1200)
    narrated = counters["narrations"]["ok"]  # one population
    assert counters["windows"] == narrated + sum(counters["windows_dropped"].values())
    assert counters["batches_lost"] == 0


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end of a pipe that takes nothing more, and that nobody reads."""
    reader, writer = os.pipe()
    os.write(writer, b"x" * fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096))
    yield writer
    os.close(reader)
    os.close(writer)


def test_output_that_nobody_reads_stops_no_process(
    start_source: Start, start_daemon: Start, full_pipe: int
):
    """Standard output and error are full: every window is narrated, and SIGTERM ends all."""
    source = start_source("--speed", "40", "--wait-subscribers", 1, output=full_pipe)
    daemon = start_daemon(
        source.addresses()["spikes"], "--set", "log.level=DEBUG", output=full_pipe
    )
    stats = stats_until(
        daemon.addresses()["publish"],
        lambda stats: any(stream["state"] == "ended" for stream in stats["streams"].values()),
    )
    assert stats["counters"]["spikes_binned"] == 1200
    asked = time.monotonic()
    for process in (daemon, source):
        process.signal(signal.SIGTERM)
    assert daemon.wait(deadline_s=30) == 0
    assert source.wait(deadline_s=30) in {0, -signal.SIGTERM}  # at its end it waits for a reader
    assert time.monotonic() - asked < 20
    assert daemon.summary()["counters"]["narrations"]["ok"] > 0


def test_two_speeds_give_the_same_narrations(start_source: Start, start_daemon: Start):
    """In the sequential mode the same narrations come out at any speed, window by window."""
    narrated: list[list[tuple[int, str]]] = []
    for speed in ("40", "max"):
        source = start_source("--speed", speed, "--wait-subscribers", 2, name=f"source-{speed}")
        spikes = source.addresses()["spikes"]
        daemon = start_daemon(
            spikes, "--exit-at-end", "--set", "narrator.mode=sequential", name=f"daemon-{speed}"
        )
        narrated.append(_narrations_until_the_end(daemon, spikes))
        assert daemon.wait() == 0, daemon.text()
    assert narrated[0] == narrated[1]
    assert [seq for seq, _ in narrated[0]] == list(range(narrated[0][0][0], narrated[0][-1][0] + 1))


def test_worker_narrates_what_the_sequential_mode_does(
    start_source: Start, start_daemon: Start
) -> None:
    """Every window that a worker narrated has the text that the specification gives it."""
    narrated: dict[str, dict[int, str]] = {}
    for mode, speed in (("sequential", "max"), ("worker", "40")):
        source = start_source("--speed", speed, "--wait-subscribers", 2, name=f"source-{mode}")
        spikes = source.addresses()["spikes"]
        daemon = start_daemon(
            spikes, "--exit-at-end", "--set", f"narrator.mode={mode}", name=f"daemon-{mode}"
        )
        narrated[mode] = dict(_narrations_until_the_end(daemon, spikes))
        assert daemon.wait() == 0, daemon.text()
    assert narrated["worker"]
    assert narrated["worker"].items() <= narrated["sequential"].items()


def _narrations_until_the_end(daemon: Neurrate, spikes: str) -> list[tuple[int, str]]:
    """Return the narrations of a daemon until it ends, window by window, none missed."""
    narrations: list[tuple[int, str]] = []
    with subscriber(daemon.addresses()["publish"], b"") as socket:
        next_message(socket)  # statistics: from here on nothing is missed
        with subscriber(spikes, b"spikes"):  # the second subscriber that the source waits for
            while daemon.process.poll() is None or socket.poll(200):
                if socket.poll(100):
                    message = next_message(socket)
                    if "text" in message:
                        narrations.append((message["window"]["seq"], message["text"]))
    return narrations


def test_probes_replayed_side_by_side_lose_nothing(start_source: Start, start_daemon: Start):
    """Two sources at full speed, a ring that holds little: the faster one waits for the other."""
    sources = [
        start_source(
            "--units", f"probe:{probe}", "--stream", probe, "--speed", "max", "--batch-ms", ms,
            name=probe,
        )
        for probe, ms in (("probeA", 2), ("probeB", 100))
    ]  # fmt: skip
    spikes = [source.addresses()["spikes"] for source in sources]
    daemon = start_daemon(
        spikes[0], "--connect", spikes[1], "--exit-at-end", "--set", "ring.capacity_s=3"
    )
    assert daemon.wait() == 0, daemon.text()
    counters = daemon.summary()["counters"]
    assert sum(source.wait() for source in sources) == 0
    assert (counters["spikes_binned"], counters["overrun_bins"]) == (1200, 0)
    assert counters["streams_blind"] == counters["batches_lost"] == counters["gap_bins"] == 0


def test_daemon_and_worker_keep_to_their_cores(start_source: Start, start_daemon: Start):
    """The daemon to those named, and the worker to all that there were."""
    source = start_source()
    first = min(os.sched_getaffinity(0))
    daemon = start_daemon(source.addresses()["spikes"], "--set", f"service.cores=[{first}]")
    daemon.addresses()
    process = psutil.Process(daemon.process.pid)
    assert process.cpu_affinity() == [first]
    worker = psutil.Process(worker_of(process.pid))
    everything = sorted(os.sched_getaffinity(0))
    wait_until(lambda: worker.cpu_affinity() == everything, what="the worker's cores")


def test_first_signal_stops_gently(start_source: Start, start_daemon: Start):
    """SIGTERM ends a narrating daemon with code 0 and a summary; its worker goes too."""
    daemon = start_daemon(start_source().addresses()["spikes"])
    with subscriber(daemon.addresses()["publish"]) as socket:
        next_message(socket)
    workers = psutil.Process(daemon.process.pid).children()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0, daemon.text()
    assert daemon.summary()["counters"]["windows"] > 0
    assert workers
    assert not [worker for worker in workers if worker.is_running()]


def test_second_signal_stops_at_once(start_source: Start, start_daemon: Start):
    """A second SIGINT does not wait for a narrator that is stuck."""
    daemon = start_daemon(start_source().addresses()["spikes"], "--set", "service.shutdown_s=300")
    with subscriber(daemon.addresses()["publish"]) as socket:
        next_message(socket)
    (worker,) = psutil.Process(daemon.process.pid).children()
    worker.suspend()
    stats_until(
        daemon.addresses()["publish"], lambda s: s["counters"]["windows_dropped"]["narrator_busy"]
    )
    daemon.signal(signal.SIGINT)
    wait_until(lambda: "asked to stop" in daemon.text(), what="the first signal")
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 1
    worker.kill()


def test_killed_worker_is_replaced_and_windows_go_on(start_source: Start, start_daemon: Start):
    """kill -9 of the narrator costs its batch; the next worker narrates, no spike is lost."""
    source = start_source()
    daemon = start_daemon(source.addresses()["spikes"], "--exit-at-end")
    publish = daemon.addresses()["publish"]
    with subscriber(publish) as socket:
        next_message(socket)
    (worker,) = psutil.Process(daemon.process.pid).children()
    worker.kill()
    stats_until(publish, lambda s: s["counters"]["worker_restarts"] == 1 and s["ready"])
    with subscriber(publish) as socket:
        seqs = [next_message(socket)["window"]["seq"] for _ in range(3)]
    assert seqs == sorted(seqs)
    assert daemon.wait() == 0, daemon.text()
    counters = daemon.summary()["counters"]
    assert counters["spikes_binned"] == source.summary()["n_spikes"] == 1200


def test_stopped_narrator_delays_nothing(start_source: Start, start_daemon: Start):
    """SIGSTOP: windows continue and no spike is lost; SIGCONT: then the newest window is next.

    A busy machine may hold any process for seconds, so that the worker may miss its heartbeat at
    other times too, and the recording must not end meanwhile.
    """
    source = start_source("--loop", "--seconds", 10 * DEADLINE_S)
    patient = ("--set", f"ingest.stream_timeout_s={DEADLINE_S}")
    daemon = start_daemon(source.addresses()["spikes"], *patient)
    publish = daemon.addresses()["publish"]
    with subscriber(publish) as socket:
        next_message(socket)
    (worker,) = psutil.Process(daemon.process.pid).children()
    worker.suspend()
    missed = stats_until(publish, lambda s: "missed its heartbeat for" in " ".join(s["reasons"]))
    later = stats_until(
        publish, lambda s: s["counters"]["windows"] >= missed["counters"]["windows"] + 10
    )
    assert later["queue"] == {"waiting": 1, "unfinished": 1}
    given_up = [s["counters"]["windows_dropped"]["worker_stopped"] for s in (missed, later)]
    assert given_up[0] == given_up[1]  # it is sent nothing more
    with subscriber(publish) as socket:
        assert next_message(socket)["repeat"]  # from here on nothing is missed
        worker.resume()
        while (first := next_message(socket))["status"] == "failed":
            pass  # held once more
    # A grid that begins at zero: by then so many windows had been cut, and this is none of them.
    assert first["window"]["seq"] >= later["counters"]["windows"] - 1
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0, daemon.text()
    counters = daemon.summary()["counters"]
    assert counters["worker_restarts"] == counters["batches_lost"] == 0
    assert counters["spikes_binned"] == counters["spikes_received"]


def test_all_windows_are_narrated_in_a_process_of_their_own(
    start_source: Start, start_daemon: Start
):
    """Under the policy `all` a lossless source is slowed to the narrator: nothing is dropped."""
    source = start_source("--speed", "max")
    policy = ("--set", "handover.policy=all", "--set", "handover.capacity=2")
    daemon = start_daemon(source.addresses()["spikes"], "--exit-at-end", *policy)
    assert daemon.wait() == 0, daemon.text()
    counters = daemon.summary()["counters"]
    assert counters["narrations"]["ok"] == counters["windows"] > 10
    assert sum(counters["windows_dropped"].values()) == counters["streams_blind"] == 0
    assert counters["spikes_binned"] == source.summary()["n_spikes"] == 1200


def test_silent_source_is_reported_and_its_return_is_taken(
    start_source: Start, start_daemon: Start
):
    """kill -9 of the source: blind, not ready, with the reason; then a new one is read."""
    source = start_source()
    spikes = source.addresses()["spikes"]
    daemon = start_daemon(spikes, "--set", "ingest.stream_timeout_s=0.5")
    publish, http = daemon.addresses()["publish"], daemon.addresses()["http"]
    stats_until(publish, lambda s: s["counters"]["windows"] > 0)
    os.kill(source.process.pid, signal.SIGKILL)
    stats_until(publish, lambda s: s["streams"]["nwb"]["state"] == "blind")
    status, body = get(f"{http}/readyz")
    assert status == 503
    assert "silent for too long: nwb" in body
    assert get(f"{http}/healthz")[0] == 200
    start_source(bind=spikes, name="source2")
    back = stats_until(publish, lambda s: s["streams"]["nwb"]["state"] == "live" and s["ready"])
    assert back["counters"]["stream_restarts"] == 1
    assert get(f"{http}/readyz")[0] == 200
    assert "neurrate_windows_total" in get(f"{http}/metrics")[1]


def test_source_outlives_a_killed_daemon_and_the_worker_does_not(
    start_source: Start, start_daemon: Start
):
    """kill -9 of the daemon: acquisition continues, no worker is left, the next daemon joins."""
    source = start_source()
    spikes = source.addresses()["spikes"]
    daemon = start_daemon(spikes)
    stats_until(daemon.addresses()["publish"], lambda s: s["counters"]["windows"] > 0)
    (worker,) = psutil.Process(daemon.process.pid).children()
    os.kill(daemon.process.pid, signal.SIGKILL)
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE,
               what="the worker's end")  # fmt: skip
    assert source.process.poll() is None
    second = start_daemon(spikes, name="daemon2")
    joined = stats_until(second.addresses()["publish"], lambda s: s["counters"]["windows"] > 0)
    assert joined["counters"]["batches_lost"] == 0  # what it never asked for is not lost


def test_lossless_source_waits_for_the_next_daemon(start_source: Start, start_daemon: Start):
    """At full speed a source whose daemon was killed stops, and continues when one is back."""
    source = start_source("--speed", "max", "--batch-ms", "1")
    spikes = source.addresses()["spikes"]
    daemon = start_daemon(spikes, "--set", "narrator.mode=sequential")
    publish = daemon.addresses()["publish"]
    with subscriber(publish) as socket:
        next_message(socket)
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.wait()
    assert source.process.poll() is None
    second = start_daemon(spikes, "--exit-at-end", name="daemon2")
    assert second.wait() == 0, second.text()
    assert source.wait() == 0, source.text()
    assert source.summary()["n_spikes"] == 1200


def test_other_population_is_refused_with_the_missing_units(
    start: Start, start_daemon: Start, start_source: Start, tmp_path: Path
):
    """A recording of other units: not ready, with the ids on both sides; the right one is read."""
    from tests.support.nwb_files import random_trains, write_units

    other = write_units(tmp_path / "other.nwb", random_trains())
    source = start("stream", "nwb", other, "--bind", "tcp://127.0.0.1:*", name="source")
    spikes = source.addresses()["spikes"]
    daemon = start_daemon(spikes)
    publish = daemon.addresses()["publish"]
    refused = stats_until(publish, lambda s: s["counters"]["wire_errors"]["population"] > 1)
    assert (
        "12 units of the encoder's population are not in the stream: unit_id probeA/950900"
        in " ".join(refused["reasons"])
    )
    source.signal(signal.SIGTERM)
    source.wait()
    start_source(bind=spikes, name="right")
    stats_until(publish, lambda s: s["ready"] and s["counters"]["windows"])


def test_other_population_ends_a_run_that_should_end(
    start: Start, start_daemon: Start, tmp_path: Path
):
    """A replay of the wrong recording would never end: exit code 2, one sentence."""
    from tests.support.nwb_files import random_trains, write_units

    other = write_units(tmp_path / "other.nwb", random_trains())
    source = start("stream", "nwb", other, "--bind", "tcp://127.0.0.1:*", name="source")
    daemon = start_daemon(source.addresses()["spikes"], "--exit-at-end")
    assert daemon.wait() == 2
    assert "12 units of the encoder's population are not in the stream: unit_id probeA/950900" in (
        daemon.text()
    )
    assert "Traceback" not in daemon.text()


def test_stream_that_lacks_units_is_refused_after_a_while(
    start: Start, start_daemon: Start, recording: Path
):
    """Half of the units announced and the rest never: exit code 2 names who is missing."""
    source = start(
        "stream", "nwb", recording, "--units", "probe:probeA", "--bind", "tcp://127.0.0.1:*",
        name="source",
    )  # fmt: skip
    daemon = start_daemon(
        source.addresses()["spikes"], "--exit-at-end", "--set", "ingest.population_timeout_s=0.5"
    )
    assert daemon.wait() == 2
    assert "6 units of the encoder's population are not in the stream: unit_id probeB/950906" in (
        daemon.text()
    )


def test_taken_port_is_reported(start_daemon: Start):
    """A port in use: exit code 2, which one, and what to do."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        daemon = start_daemon("tcp://127.0.0.1:1", publish=f"tcp://127.0.0.1:{port}")
        assert daemon.wait() == 2
    assert f"Cannot bind tcp://127.0.0.1:{port}: address already in use" in daemon.text()
