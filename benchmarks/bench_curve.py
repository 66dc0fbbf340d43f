"""Keys: how much later a message comes with CURVE, and how much processor time it takes.

    python -m benchmarks.bench_curve
    python -m benchmarks.bench_curve --quick      (seconds; for tests)

What bounds it
--------------
A part is encrypted once and decrypted once, at the speed of libsodium, measured in the same run,
and is copied some times more on either side. For short parts a call of libsodium from Python costs
more than its work: each message has four. The rest is what a message costs without keys: guards,
threads of libzmq, the kernel.

"spikes": the publisher of a source and the reader of the daemon, both as they are in operation,
with their guards, in one process, so that its processor time is that of both sides. "narration":
the publisher of the daemon and a subscriber of libzmq. With and without keys take turns, message by
message for the latency (sent to received whole), and in blocks for the processor time.
"""

from __future__ import annotations

import select
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.record import Options, Result, read_options, report
from contracts.address import check_bindable, check_connectable
from contracts.allow_list import AllowList, ServerKeys
from contracts.keys import ClientKeys, key_text
from daemon.ingest import LIMITS
from peer_guard.curve import new_pair
from peer_guard.curve_frames import seal_box
from peer_guard.sockets import bind_guarded
from peer_guard.source_reader import SourceReader

PLAIN, CURVE = "plain", "curve"

N_ROUNDS, N_MESSAGES, N_LARGE_MESSAGES = 5, 200, 20
"""Large ones take a hundred times as long on a machine that others use."""

N_ROUNDS_QUICK, N_MESSAGES_QUICK = 2, 10

WARM = 5
WAIT_S = 60.0

TOPIC, HEADER_BYTES, SPIKE_BYTES = b"spikes.probeA", 160, (8, 4)
"""A batch: topic, header, times and units (docs/wire-format.md)."""

RIG_MESSAGES_PER_S = 100
"""Of one probe, in batches of 10 ms."""

Parts = Sequence[bytes]
Send = Callable[[Parts], None]


@dataclass(frozen=True, slots=True)
class CurveCase:
    """Messages of one size, and who receives them."""

    name: str
    parts: Parts
    n_messages: int = N_MESSAGES
    is_subscriber: bool = False


def cases(rng: np.random.Generator) -> list[CurveCase]:
    """Return the batches of a usual, a busy and an extreme probe, and a narration."""

    def spikes(n_spikes: int) -> Parts:
        return [
            TOPIC,
            *(rng.bytes(n) for n in (HEADER_BYTES, *(n_spikes * b for b in SPIKE_BYTES))),
        ]

    return [
        *(CurveCase(f"{n:,} spikes", spikes(n)) for n in (300, 3_000)),
        CurveCase("50,000 spikes", spikes(50_000), N_LARGE_MESSAGES),
        CurveCase("narration of 2 kB", [b"narration.all", rng.bytes(2_000)], is_subscriber=True),
    ]


class Pipe:
    """A publisher behind its guard and who receives from it; with keys or without."""

    def __init__(self, stack: ExitStack, *, has_keys: bool, is_subscriber: bool) -> None:
        context = stack.enter_context(zmq.Context())
        server, client = None, None
        if has_keys:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            pair, own = new_pair(), new_pair()
            (folder / "own.key").write_text(key_text(own.public), encoding="ascii")
            server, client = ServerKeys(pair, AllowList(folder)), ClientKeys(own, pair.public)
        self._publisher = context.socket(zmq.XPUB)
        self._publisher.set(zmq.LINGER, 0)
        wanted = check_bindable("tcp://127.0.0.1:*", setting="bench", is_insecure=False)
        guard = bind_guarded(self._publisher, wanted, setting="bench", keys=server)
        stack.callback(guard.wait)
        stack.callback(guard.close)
        stack.callback(self._publisher.close)
        if is_subscriber:
            self._receive = _subscriber(stack, context, guard.address, client)
        else:
            self._receive = _reader(stack, guard.address, client)
        if not self._publisher.poll(round(1000 * WAIT_S)):
            raise TimeoutError("nobody subscribed")
        self._publisher.recv()

    def __call__(self, parts: Parts) -> None:
        """Send a message, and return when it has been received."""
        self._publisher.send_multipart(parts)
        self._receive()


def _reader(stack: ExitStack, address: str, keys: ClientKeys | None) -> Callable[[], None]:
    reader = SourceReader(check_connectable(address, setting="bench"), LIMITS, keys)
    stack.callback(reader.wait)
    stack.callback(reader.close)

    def receive() -> None:
        while not reader.has_messages:
            if not select.select(reader.poll_fds, (), (), WAIT_S)[0]:
                raise TimeoutError("no message came")
            reader.read()
        reader.take()

    return receive


def _subscriber(
    stack: ExitStack,
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    keys: ClientKeys | None,
) -> Callable[[], None]:
    socket = stack.enter_context(context.socket(zmq.SUB))
    socket.set(zmq.LINGER, 0)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
    socket.subscribe(b"")
    socket.connect(address)

    def receive() -> None:
        if not socket.poll(round(1000 * WAIT_S)):
            raise TimeoutError("no message came")
        socket.recv_multipart()

    return receive


def main() -> int:
    """Run, print, compare with the budgets."""
    options = read_options(__doc__)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for case in cases(np.random.default_rng(options.seed)):
        found = measure(case, options)
        rows += found[0]
        figures += found[1]
    result = Result(
        benchmark="curve",
        parameters={"rounds": N_ROUNDS, "messages": N_MESSAGES, "libzmq": zmq.zmq_version()},
        limits={"libsodium, encrypted MB/s": _box_mb_per_s()},
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def measure(case: CurveCase, options: Options) -> tuple[list[MeasuredRow], list[Figure]]:
    """Send through both in turns; return latencies and ratios."""
    n_rounds = N_ROUNDS_QUICK if options.is_quick else N_ROUNDS
    n_messages = N_MESSAGES_QUICK if options.is_quick else case.n_messages
    latencies: dict[str, list[int]] = {PLAIN: [], CURVE: []}
    cpu_us: dict[str, list[float]] = {PLAIN: [], CURVE: []}
    p50_us: dict[str, list[float]] = {PLAIN: [], CURVE: []}
    with ExitStack() as stack:
        pipes: dict[str, Send] = {
            name: Pipe(stack, has_keys=name == CURVE, is_subscriber=case.is_subscriber)
            for name in latencies
        }
        for send in pipes.values():
            for _ in range(WARM):
                send(case.parts)
        for _ in range(n_rounds):
            for name, durations in _in_turns(pipes, case.parts, n_messages).items():
                latencies[name] += durations
                p50_us[name].append(float(np.median(durations)) / 1000)
            for name, send in pipes.items():
                cpu_us[name].append(_cpu_us(send, case.parts, n_messages))
    rows = [row(case.name, name, np.array(found)) for name, found in latencies.items()]
    added = np.array(cpu_us[CURVE]) - cpu_us[PLAIN]
    per_probe = added * RIG_MESSAGES_PER_S / 1e4
    return rows, [
        figure(case.name, "curve / plain, latency p50", _ratio(p50_us)),
        figure(case.name, "curve / plain, cpu", _ratio(cpu_us)),
        figure(case.name, "plain, cpu us a message", np.array(cpu_us[PLAIN])),
        figure(case.name, "curve, cpu us a message", np.array(cpu_us[CURVE])),
        figure(case.name, "percent of a core more at 100 messages/s", per_probe),
    ]


def _in_turns(pipes: dict[str, Send], parts: Parts, n_messages: int) -> dict[str, list[int]]:
    order = list(pipes.items())
    durations: dict[str, list[int]] = {name: [] for name in pipes}
    for _ in range(n_messages):
        for name, send in order:
            began_ns = time.perf_counter_ns()
            send(parts)
            durations[name].append(time.perf_counter_ns() - began_ns)
        order.reverse()
    return durations


def _cpu_us(send: Send, parts: Parts, n_messages: int) -> float:
    began_s = time.process_time()
    for _ in range(n_messages):
        send(parts)
    return (time.process_time() - began_s) / n_messages * 1e6


def _ratio(by_name: dict[str, list[float]]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(by_name[CURVE], by_name[PLAIN])
    return ratio


def _box_mb_per_s() -> float:
    """Encrypt a megabyte some times; return the speed of the best."""
    content, key, nonce = bytes(1_000_000), bytes(32), bytes(24)
    best_s = np.inf
    for _ in range(20):
        began_s = time.perf_counter()
        seal_box(content, nonce, key)
        best_s = min(best_s, time.perf_counter() - began_s)
    return float(1.0 / best_s)


if __name__ == "__main__":
    sys.exit(main())
