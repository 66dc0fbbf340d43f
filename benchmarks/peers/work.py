"""What a sender and a receiver do, whichever library is between them.

The sender may be `WINDOW` messages ahead of the receiver and no more, so that a library without
back-pressure loses nothing either. Both see one small file, the board: how many messages have been
binned, and when each was sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_UNITS = 3_000
BINS_PER_S = 120
BATCH_NS = 10_000_000
CAPACITY_BINS = 600
NS_PER_S = 1_000_000_000

WINDOW = 64
PAUSE_S = 50e-6
"""Seconds between two looks at the board."""

IS_READY, N_BINNED, FIRST_STAMP = 0, 1, 2
"""Places on the board."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of messages.

    Attributes
    ----------
    n_messages, n_spikes : int
        Batches of 10 ms, and spikes in each.
    n_skipped : int
        Messages at the start that are not measured.
    interval_s : float
        Seconds between two messages; 0 for as fast as they are taken.
    """

    n_messages: int
    n_spikes: int
    n_skipped: int
    interval_s: float
    seed: int
    address: str
    board: str

    @property
    def end_spikes(self) -> int:
        """Spikes of the whole run."""
        return self.n_messages * self.n_spikes


@dataclass(frozen=True, slots=True)
class Batch:
    """Spikes of 10 ms; times in nanoseconds, int64, and units, uint32."""

    seq: int
    times_ns: NDArray[np.int64]
    units: NDArray[np.uint32]

    @property
    def start_ns(self) -> int:
        """Where its span begins."""
        return self.seq * BATCH_NS


def open_board(path: str, *, n_messages: int, is_new: bool = False) -> NDArray[np.int64]:
    """Return the board, int64, of both processes."""
    shape = (FIRST_STAMP + n_messages,)
    return np.memmap(Path(path), np.int64, mode="w+" if is_new else "r+", shape=shape)


class Sending:
    """What a sender has to send, and when."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._board = open_board(case.board, n_messages=case.n_messages)
        rng = np.random.default_rng(case.seed)
        self._batches = [_batch(rng, seq, case.n_spikes) for seq in range(case.n_messages)]

    @property
    def has_receiver(self) -> bool:
        """Whether the receiver has received something, or has said that it is there."""
        return bool(self._board[IS_READY])

    @property
    def n_left(self) -> int:
        """Messages that the receiver has not binned yet."""
        return self._case.n_messages - int(self._board[N_BINNED])

    def due(self) -> Iterator[Batch | None]:
        """Yield each batch when it is due, and None while the sender should pause."""
        started_s = time.perf_counter()
        for batch in self._batches:
            at_s = started_s + batch.seq * self._case.interval_s
            while time.perf_counter() < at_s or batch.seq - self._board[N_BINNED] >= WINDOW:
                yield None
            self._board[FIRST_STAMP + batch.seq] = time.monotonic_ns()
            yield batch


@dataclass(slots=True)
class Meter:
    """Measures a receiver between two of its messages, and tells the sender how far it is."""

    case: Case
    wall_s: float = 0.0
    cpu_s: float = 0.0
    is_over: bool = False
    _n: int = 0
    _n_measured: int = 0
    _latency_ns: NDArray[np.int64] = field(init=False)
    _board: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._board = open_board(self.case.board, n_messages=self.case.n_messages)
        self._latency_ns = np.zeros(self.case.n_messages, np.int64)

    def ready(self) -> None:
        """Let the sender begin."""
        self._board[IS_READY] = 1

    def update(self, n_spikes: int) -> None:
        """Note that so many spikes have been binned since the start."""
        n = n_spikes // self.case.n_spikes
        if n <= self._n:
            return
        now_ns = time.monotonic_ns()
        self._latency_ns[self._n : n] = (
            now_ns - self._board[FIRST_STAMP + self._n : FIRST_STAMP + n]
        )
        if self._n <= self.case.n_skipped < n:
            self.wall_s, self.cpu_s = time.perf_counter(), cpu_s()
            self._n_measured = self.case.n_messages - n
        self._n = n
        self._board[N_BINNED] = n
        if n >= self.case.n_messages:
            self.wall_s, self.cpu_s = time.perf_counter() - self.wall_s, cpu_s() - self.cpu_s
            self.is_over = True

    def result(self, n_counted: int) -> dict[str, Any]:
        """Return what was measured; `n_counted` is the sum of the table of counts."""
        return {
            "n_measured": self._n_measured,
            "n_counted": n_counted,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "latency_ns": self._latency_ns[self.case.n_skipped :].tolist(),
        }


class CountTable:
    """Counts, bins x units, as a short script would bin spikes: without a check."""

    def __init__(self) -> None:
        self._flat = np.zeros(CAPACITY_BINS * N_UNITS, np.uint16)
        self.n_spikes = 0

    def add(self, times_ns: NDArray[np.int64], units: NDArray[np.uint32]) -> None:
        """Count spikes; the table goes round and is not cleared: its sum can be checked."""
        bins = times_ns * BINS_PER_S // NS_PER_S % CAPACITY_BINS
        np.add.at(self._flat, bins * N_UNITS + units, 1)
        self.n_spikes += len(units)

    @property
    def n_counted(self) -> int:
        """The sum of the table."""
        return int(self._flat.sum(dtype=np.int64))


def cpu_s() -> float:
    """Return the processor time of this process and its children, all of their threads."""
    return sum(time.clock_gettime(_cpu_clock(pid)) for pid in _family(os.getpid()))


def _cpu_clock(pid: int) -> int:
    """Return the clock of a process's processor time (clock_getcpuclockid(3), Linux)."""
    return (~pid << 3) | 2


def _family(pid: int) -> list[int]:
    found = [pid]
    for path in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            for child in (path / "children").read_text(encoding="ascii").split():
                found += _family(int(child))
    return found


def _batch(rng: np.random.Generator, seq: int, n_spikes: int) -> Batch:
    start_ns = seq * BATCH_NS
    return Batch(
        seq,
        np.sort(rng.integers(start_ns, start_ns + BATCH_NS, n_spikes)),
        rng.integers(0, N_UNITS, n_spikes, dtype=np.uint32),
    )
