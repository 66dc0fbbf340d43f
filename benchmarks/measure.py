"""Timing: interleaved rounds, percentiles, and the limits of this machine.

The speed of a shared machine varies during a run. So contenders take turns, call by call, on the
same data; the result is the ratio of their durations, with its range over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.spikes import SpikeBatch

NS_PER_US = 1_000.0

COPY_BYTES = 1 << 28
"""Size of the array copied to measure memory bandwidth: far beyond any cache."""


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """Durations of one contender in one case.

    Attributes
    ----------
    case, contender : str
        The input, and what processed it.
    n : int
        Timed calls.
    p50_us, p95_us, p99_us, max_us : float
        Duration of a call, microseconds.
    spikes_per_s : float or None
        Spikes of a call over its median duration; None where a call has no spikes.
    """

    case: str
    contender: str
    n: int
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    spikes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One number over rounds, usually a ratio of two contenders: median and extremes."""

    case: str
    name: str
    median: float
    low: float
    high: float
    n_rounds: int


def row(
    case: str, contender: str, durations_ns: NDArray[np.int64], *, n_spikes: int = 0
) -> MeasuredRow:
    """Summarise the durations of one contender's calls."""
    p50, p95, p99 = (np.percentile(durations_ns, (50, 95, 99)) / NS_PER_US).tolist()
    return MeasuredRow(
        case=case,
        contender=contender,
        n=len(durations_ns),
        p50_us=p50,
        p95_us=p95,
        p99_us=p99,
        max_us=float(durations_ns.max()) / NS_PER_US,
        spikes_per_s=n_spikes / p50 * 1e6 if n_spikes else None,
    )


def figure(case: str, name: str, by_round: NDArray[np.floating]) -> Figure:
    """Summarise one number over rounds; `by_round` has shape (n_rounds,)."""
    return Figure(
        case=case,
        name=name,
        median=float(np.median(by_round)),
        low=float(by_round.min()),
        high=float(by_round.max()),
        n_rounds=len(by_round),
    )


def take_turns(
    contenders: Mapping[str, Callable[[SpikeBatch], object]], batches: Sequence[SpikeBatch]
) -> dict[str, NDArray[np.int64]]:
    """Give every batch to every contender; the first rotates, so that all get it uncached.

    Returns
    -------
    durations_ns : dict of array, shape (n_batches,), int64, nanoseconds
    """
    order = list(contenders.items())
    durations_ns = {name: np.empty(len(batches), dtype=np.int64) for name in contenders}
    for i, batch in enumerate(batches):
        for name, contender in order:
            started_ns = time.perf_counter_ns()
            contender(batch)
            durations_ns[name][i] = time.perf_counter_ns() - started_ns
        order = [*order[1:], order[0]]
    return durations_ns


def copy_bytes_per_s(*, is_quick: bool) -> float:
    """Measure memory bandwidth: bytes read and written a second in the best of five copies."""
    source = np.ones(COPY_BYTES // (64 if is_quick else 1), dtype=np.uint8)
    target = np.zeros_like(source)
    best_ns = min(_duration_ns(np.copyto, target, source) for _ in range(5))
    return 2 * source.nbytes / best_ns * 1e9


def _duration_ns(
    copy: Callable[[NDArray[np.uint8], NDArray[np.uint8]], None],
    target: NDArray[np.uint8],
    source: NDArray[np.uint8],
) -> int:
    started_ns = time.perf_counter_ns()
    copy(target, source)
    return time.perf_counter_ns() - started_ns
