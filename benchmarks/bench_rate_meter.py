"""Time for the fast loop to count and publish the rates of an interval, for displays.

    python -m benchmarks.bench_rate_meter
    python -m benchmarks.bench_rate_meter --quick      (seconds; for tests)

What bounds it
--------------
Twelve bins of 1,000 units are 24 kB of the ring, which the caches hold; the sums over populations
read their masks, 8 bytes a unit and population. Most of the time goes into the text: some 100 ns
for each unit. It is spent ten times a second while somebody subscribes; "no subscriber" is what
each step of the loop takes otherwise.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import zmq
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Result, read_options, report
from contracts.binning import BinRate
from contracts.clock import NS_PER_S, HostClock
from contracts.population import Population, Unit
from contracts.spikes import SpikeBatch
from daemon.bin_ring import BinRing
from daemon.publisher import Publisher
from daemon.rate_meter import RateMeter

RATE = BinRate(120)
INTERVAL_NS = NS_PER_S // 10
RATE_HZ = 8.0
CASES = {"600 units": 600, "3000 units": 3_000}
N_POPULATIONS = 10
N_INTERVALS, N_INTERVALS_QUICK = 400, 20
N_ROUNDS = 5
SHARE_OF_LOOP = 0.01
"""Aim: a hundredth of the loop's time at ten messages a second, 1 ms each."""


class SkewedClock(HostClock):
    """A clock on which a second passes with each look: intervals are due at once."""

    def __init__(self) -> None:
        self._n = 0

    def now_ns(self) -> int:
        """Return the host's time, and a second more each time."""
        self._n += 1
        return super().now_ns() + self._n * NS_PER_S


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    n, n_rounds = (N_INTERVALS_QUICK, 1) if options.is_quick else (N_INTERVALS, N_ROUNDS)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    for case, n_units in CASES.items():
        rounds = [_round(n_units, n, options.seed) for _ in range(n_rounds)]
        rows += [row(case, name, np.concatenate([r[name] for r in rounds])) for name in rounds[0]]
        p50_s = np.array([np.median(r["publish"]) for r in rounds]) / NS_PER_S
        figures.append(figure(case, "share of the loop / aim", p50_s * 10 / SHARE_OF_LOOP))
    result = Result(
        benchmark="rate_meter",
        parameters={"n_populations": N_POPULATIONS, "rate_hz": RATE_HZ},
        limits={"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)},
        rows=rows,
        figures=figures,
    )
    return report(result, options)


def _round(n_units: int, n_intervals: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Publish some intervals, and look at the meter of a ring without subscribers."""
    took: dict[str, list[int]] = {"publish": [], "no subscriber": []}
    rng = np.random.default_rng(seed)
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:*")
        ring, meter = _meter(n_units, publisher)
        quiet_ring, quiet = _meter(n_units, publisher)
        with context.socket(zmq.SUB) as socket:
            for number in range(n_intervals + 1):
                spikes = _spikes(n_units, number, rng)
                for of, name in ((quiet_ring, "no subscriber"), (ring, "publish")):
                    of.add(spikes)
                    if number and name == "publish":
                        _subscribe(socket, publisher)
                    measured = quiet if of is quiet_ring else meter
                    of.take_report()
                    started_ns = time.perf_counter_ns()
                    measured.publish_due()
                    took[name].append(time.perf_counter_ns() - started_ns)
                    if number and name == "publish":
                        _unsubscribe(socket, publisher)
        publisher.close()
    return {name: np.array(durations[1:], dtype=np.int64) for name, durations in took.items()}


def _subscribe(socket: zmq.Socket[bytes], publisher: Publisher) -> None:
    socket.subscribe(b"rates")
    if not socket.get(zmq.LAST_ENDPOINT):
        socket.connect(publisher.address)
    _serve_until(publisher, is_subscribed=True)


def _unsubscribe(socket: zmq.Socket[bytes], publisher: Publisher) -> None:
    while socket.poll(10):
        socket.recv_multipart()
    socket.unsubscribe(b"rates")
    _serve_until(publisher, is_subscribed=False)


def _serve_until(publisher: Publisher, *, is_subscribed: bool) -> None:
    while publisher.has_subscriber(b"rates") != is_subscribed:
        publisher.socket.poll(100)
        publisher.serve()


def _meter(n_units: int, publisher: Publisher) -> tuple[BinRing, RateMeter]:
    population = Population([Unit(str(n), area=f"area{n % 8}") for n in range(n_units)])
    names = ["all", *(f"area{n}" for n in range(N_POPULATIONS - 2)), "silent"]
    ring = BinRing(RATE, n_units, capacity_bins=1_200, window_bins=20)
    meter = RateMeter(
        ring, [population.select(name) for name in names], publisher, SkewedClock(),
        chunk_bins=20, fingerprint=population.fingerprint,
    )  # fmt: skip
    return ring, meter


def _spikes(n_units: int, number: int, rng: np.random.Generator) -> SpikeBatch:
    n_spikes = rng.poisson(n_units * RATE_HZ / 10)
    start_ns = number * INTERVAL_NS
    return SpikeBatch(
        stream="probeA",
        run="0" * 16,
        seq=number,
        start_ns=start_ns,
        stop_ns=start_ns + INTERVAL_NS,
        spike_time_ns=np.sort(rng.integers(start_ns, start_ns + INTERVAL_NS, n_spikes)),
        unit_index=rng.integers(0, n_units, n_spikes).astype(np.uint32),
    )


if __name__ == "__main__":
    sys.exit(main())
