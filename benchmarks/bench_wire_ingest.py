"""How many spikes one core takes in from a socket: Ingest and BinRing against bare pyzmq.

    python -m benchmarks.bench_wire_ingest
    python -m benchmarks.bench_wire_ingest --quick      (seconds; for tests)

What bounds it
--------------
A 10 ms batch is four ZeroMQ parts over TCP loopback: 12 bytes a spike, and two kernel copies, one
ZeroMQ copy and one copy into Python before anybody looks. For large batches that traffic is the
bound, for small ones the fixed cost of a message: system calls and ZeroMQ's own thread, some dozens
of Python calls to check a header, and some twenty numpy calls to bin. So spikes a second grow
with the size of the batch, and messages a second hardly change; read both columns.

A process on another core sends messages packed beforehand, losslessly, as fast as they are taken.
The receiver, ZeroMQ's thread included, is held on one core. Three receivers take turns on the same
bytes: "raw" calls recv_multipart and no more; "frombuffer" also makes the two arrays; "ingest" is
what the daemon does (Ingest, BinRing.add). "cpu / wall" near 1 says that the receiver, not
the sender or another tenant of the core, set the pace; where it is lower, "spikes per cpu second"
is what a core of its own would take. A message's duration is taken from the end of the one before,
waiting excluded; ZeroMQ's thread is in it only where it took the core meanwhile, so rates are
counted over whole runs.

The daemon needs 100 messages a second for each stream at real time. "5 million spikes a second in
10 ms batches" is 50,000 spikes a batch; smaller batches reach it only in replays faster than time.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import zmq
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Options, Result, read_options, report, stop
from benchmarks.spike_data import (
    BATCH_NS,
    CAPACITY_BINS,
    N_UNITS,
    RATE,
    RUN,
    STREAM,
    WINDOW_BINS,
    population,
    spike_batches,
)
from contracts.clock import HostClock
from contracts.spikes import Hello, SpikeBatch, StreamEnd
from contracts.wire import MAX_MESSAGE_BYTES, TIME_DTYPE, UNIT_DTYPE, pack
from daemon.bin_ring import BinRing
from daemon.counters import Counters
from daemon.ingest import Ingest
from daemon.stream_registry import StreamRegistry
from peer_guard.source_stream import MAX_WAITING

MESSAGES_OF_A_ROUND = {300: 5_000, 3_000: 3_000, 50_000: 200}
"""By spikes in a batch: a quarter of a second or more, and at most 120 MB."""

AIM_SPIKES_PER_S = 5e6
MAX_MESSAGES = 64
"""What the loop takes before it looks elsewhere."""

WAIT_MS = 10_000

Socket = zmq.Socket[bytes]
Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True, slots=True)
class Round:
    """What one receiver did with one run of messages.

    Attributes
    ----------
    durations_ns : array, shape (n_messages,), int64, nanoseconds
    wall_s, cpu_s : float
        From the first batch to the end; processor time of all threads of the receiving process.
    """

    durations_ns: NDArray[np.int64]
    wall_s: float
    cpu_s: float


class Receiver:
    """One way to take spikes in: a socket, and a step that reads what is there."""

    has_begun = False
    has_ended = False
    n_spikes = 0

    def connect(self, endpoint: str) -> None:
        """Listen to the sender."""
        raise NotImplementedError

    def wait(self, timeout_ms: int) -> bool:
        """Wait until there is something to read; False if there is not."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection."""
        raise NotImplementedError

    def step(self) -> Iterator[None]:
        """Yield once for each batch taken in, until the socket is empty."""
        raise NotImplementedError


class RawReceiver(Receiver):
    """`recv_multipart`, with or without the two arrays."""

    def __init__(self, context: Context, *, makes_arrays: bool) -> None:
        self.socket = context.socket(zmq.SUB)
        self.socket.set(zmq.RCVHWM, MAX_WAITING)
        self.socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.set(zmq.LINGER, 0)
        self.socket.subscribe(b"")
        self._makes_arrays = makes_arrays

    def connect(self, endpoint: str) -> None:
        """Listen to the sender."""
        self.socket.connect(endpoint)

    def wait(self, timeout_ms: int) -> bool:
        """Wait until there is something to read; False if there is not."""
        return bool(self.socket.poll(timeout_ms))

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def step(self) -> Iterator[None]:
        """Count spikes by the length of their buffer."""
        for _ in range(MAX_MESSAGES):
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) == 2:
                self.has_begun = True
                self.has_ended = parts[0].startswith(b"end.")
                continue
            if self._makes_arrays:
                np.frombuffer(parts[2], TIME_DTYPE)
                np.frombuffer(parts[3], UNIT_DTYPE)
            self.n_spikes += len(parts[3]) // UNIT_DTYPE.itemsize
            yield


class DaemonReceiver(Receiver):
    """`Ingest` and `BinRing`, as the daemon's fast loop uses them."""

    def __init__(self) -> None:
        registry = StreamRegistry(population(), "refuse")
        self._ingest = Ingest(registry, Counters(), HostClock())
        self._ring = BinRing(RATE, N_UNITS, capacity_bins=CAPACITY_BINS, window_bins=WINDOW_BINS)

    def connect(self, endpoint: str) -> None:
        """Listen to the sender."""
        self._ingest.connect([endpoint])

    def wait(self, timeout_ms: int) -> bool:
        """Wait until there is something to read; False if there is not."""
        if self._ingest.has_messages:
            return True
        return bool(select.select(self._ingest.poll_fds, (), (), timeout_ms / 1000)[0])

    def close(self) -> None:
        """End the connection."""
        self._ingest.close()

    def step(self) -> Iterator[None]:
        """Bin spikes."""
        for message in self._ingest.receive(max_messages=MAX_MESSAGES):
            match message:
                case SpikeBatch():
                    self._ring.add(message)
                    yield
                case Hello():
                    self.has_begun = True
                case StreamEnd():
                    self.has_ended = True
        self.n_spikes += self._ring.take_report().n_binned


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # before ZeroMQ makes its thread, which inherits it
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for n_spikes, n_messages in MESSAGES_OF_A_ROUND.items():
        case = f"{n_spikes:,} spikes"
        n_sent = n_messages // 50 if options.is_quick else n_messages
        rounds = _rounds(options, cores[-1], n_spikes=n_spikes, n_messages=n_sent)
        rows += [
            row(case, name, np.concatenate([r.durations_ns for r in of]))
            for name, of in rounds.items()
        ]
        figures += _figures(case, rounds, n_spikes * n_sent, n_sent)
    os.sched_setaffinity(0, cores)
    result = Result(
        benchmark="wire_ingest",
        parameters={
            "n_units": N_UNITS,
            "bins_per_s": RATE.bins_per_s,
            "batch_ms": BATCH_NS // 1_000_000,
            "has_core_each": len(cores) > 1,
        },
        limits={"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)},
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def _rounds(
    options: Options, sender_core: int, *, n_spikes: int, n_messages: int
) -> dict[str, list[Round]]:
    """Let the three receivers take turns on the same messages."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    arguments = (theirs, sender_core, options.seed, n_messages, n_spikes)
    sender = spawn.Process(target=_send, args=arguments, daemon=True)
    sender.start()
    endpoint = ours.recv()
    makers: dict[str, Callable[[Context], Receiver]] = {
        "ingest": lambda _: DaemonReceiver(),
        "raw": lambda context: RawReceiver(context, makes_arrays=False),
        "frombuffer": lambda context: RawReceiver(context, makes_arrays=True),
    }
    rounds: dict[str, list[Round]] = {name: [] for name in makers}
    with zmq.Context() as context:
        for _ in range(2 if options.is_quick else 9):
            for name, make in makers.items():
                receiver = make(context)
                receiver.connect(endpoint)
                rounds[name].append(_receive(receiver, ours, n_messages))
                receiver.close()
                if receiver.n_spikes != n_messages * n_spikes:
                    stop(f"{name} got {receiver.n_spikes} of {n_messages * n_spikes} spikes")
    ours.send(False)
    sender.join()
    return rounds


def _receive(receiver: Receiver, sender: Connection, n_messages: int) -> Round:
    """Take in the hello, then, timed, one run of messages to its end."""
    durations_ns = np.empty(n_messages, dtype=np.int64)
    n = 0
    deadline_s = time.perf_counter() + WAIT_MS / 1000
    while not receiver.has_begun:  # ingest has a thread read the hello: nothing more comes
        receiver.wait(1)
        list(receiver.step())
        if time.perf_counter() > deadline_s:
            stop(f"no hello came for {WAIT_MS} ms")
    started_s, cpu_started_s = time.perf_counter(), time.process_time()
    sender.send(True)
    while not receiver.has_ended:
        _wait(receiver)
        before_ns = time.perf_counter_ns()
        for _ in receiver.step():
            now_ns = time.perf_counter_ns()
            durations_ns[n] = now_ns - before_ns
            before_ns = now_ns
            n += 1
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_started_s
    return Round(durations_ns[:n], wall_s, cpu_s)


def _wait(receiver: Receiver) -> None:
    if not receiver.wait(WAIT_MS):
        stop(f"nothing came for {WAIT_MS} ms after {receiver.n_spikes} spikes")


def _figures(
    case: str, rounds: dict[str, list[Round]], n_spikes: int, n_messages: int
) -> list[Figure]:
    wall_s = {name: np.array([r.wall_s for r in of]) for name, of in rounds.items()}
    cpu_s = {name: np.array([r.cpu_s for r in of]) for name, of in rounds.items()}
    found = {
        "ingest, spikes/s": n_spikes / wall_s["ingest"],
        "ingest, messages/s": n_messages / wall_s["ingest"],
        "ingest, spikes per cpu second": n_spikes / cpu_s["ingest"],
        "raw, spikes/s": n_spikes / wall_s["raw"],
        "ingest, cpu / wall": cpu_s["ingest"] / wall_s["ingest"],
        "raw, cpu / wall": cpu_s["raw"] / wall_s["raw"],
        "ingest / raw, wall": wall_s["ingest"] / wall_s["raw"],
        "ingest / raw, cpu": cpu_s["ingest"] / cpu_s["raw"],
        "ingest / frombuffer, cpu": cpu_s["ingest"] / cpu_s["frombuffer"],
        "ingest / aim, spikes/s": n_spikes / wall_s["ingest"] / AIM_SPIKES_PER_S,
        "ingest / aim, spikes per cpu second": n_spikes / cpu_s["ingest"] / AIM_SPIKES_PER_S,
    }
    return [figure(case, name, by_round) for name, by_round in found.items()]


def _send(pipe: Connection, core: int, seed: int, n_messages: int, n_spikes: int) -> None:
    """Greet whoever subscribes; send the packed run each time the pipe says True."""
    os.sched_setaffinity(0, [core])
    rng = np.random.default_rng(seed)
    batches = spike_batches(rng, n_batches=n_messages, n_spikes=n_spikes)
    end = StreamEnd(STREAM, RUN, n_batches=n_messages, n_spikes=n_messages * n_spikes)
    hello = pack(Hello(STREAM, RUN, source="benchmark", population=population()))
    messages = [*(pack(batch) for batch in batches), pack(end)]
    context: Context = zmq.Context()
    with context, context.socket(zmq.XPUB) as socket:
        socket.set(zmq.XPUB_NODROP, 1)
        socket.set(zmq.XPUB_VERBOSE, 1)  # the next subscriber may come before the last is gone
        socket.set(zmq.LINGER, WAIT_MS)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        pipe.send(f"tcp://127.0.0.1:{port}")
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(pipe.fileno(), zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if socket in ready and socket.recv()[:1] == b"\x01":
                socket.send_multipart(hello)
            if pipe.fileno() in ready:
                if not pipe.recv():
                    return
                for parts in messages:
                    socket.send_multipart(parts)


if __name__ == "__main__":
    sys.exit(main())
