"""Journals made of messages that no socket has carried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from contracts import wire
from contracts.clock import NS_PER_S
from contracts.journal import JournalMessage, Origin
from contracts.journal_reader import JournalReader
from contracts.population import Population, Unit
from contracts.spikes import Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from subscribers.recorder.journal_writer import JournalWriter, Taken
from tests.support.manual_clock import ManualClock

RUN = "0123456789abcdef"
ADDRESS = "tcp://127.0.0.1:5570"
WALL_NS = 1_700_000_000 * NS_PER_S
BATCH_NS = 10_000_000


def population(n_units: int = 5) -> Population:
    """Return units on one probe, whose places are known."""
    return Population(
        [
            Unit(str(row), "probeA", ("VISp", "CA1")[row % 2], channel=row // 2, x_um=8.0 * row)
            for row in range(n_units)
        ]
    )


def batch(seq: int, *, stream: str = "probeA", run: str = RUN, n_spikes: int = 20) -> SpikeBatch:
    """Return a batch of random spikes, the same each time."""
    rng = np.random.default_rng(seq)
    times = seq * BATCH_NS + np.sort(rng.integers(0, BATCH_NS, n_spikes))
    units = rng.integers(0, 5, n_spikes).astype(np.uint32)
    return SpikeBatch(stream, run, seq, seq * BATCH_NS, (seq + 1) * BATCH_NS, times, units, 7)


def sent(
    n_batches: int, *, first: int = 0, stream: str = "probeA", run: str = RUN, ends: bool = True
) -> Iterator[SourceMessage]:
    """Yield what a source sends: a hello, a mark before every tenth batch, batches, the end."""
    yield Hello(stream, run, "nwb:1", population(), next_seq=first)
    for seq in range(first, first + n_batches):
        if seq % 10 == 0:
            begin_ns = seq * BATCH_NS
            yield Mark(stream, run, begin_ns, begin_ns + BATCH_NS, "movie", seq, frame=seq)
        yield batch(seq, stream=stream, run=run)
    if ends:
        yield StreamEnd(stream, run, first + n_batches, 20 * n_batches)


def of_source(message: SourceMessage, host_ns: int, address: str = ADDRESS) -> Taken:
    """Return a message as it is taken from a socket."""
    parts = tuple(bytes(part) for part in wire.pack(message))
    return Taken(Origin.SOURCE, address, host_ns, parts)


def write_journal(
    folder: Path,
    messages: Sequence[SourceMessage],
    *,
    flush_every: int = 25,
    closes: bool = True,
    part_bytes: int = 1 << 30,
) -> Path:
    """Write a journal, a message a millisecond; return its folder."""
    clock = ManualClock()
    writer = JournalWriter(
        folder, clock, part_bytes=part_bytes, min_free_bytes=1, wall_ns=lambda: WALL_NS
    )
    for number, message in enumerate(messages):
        clock.sleep_ns(1_000_000)
        writer.add(of_source(message, clock.now_ns()))
        if number % flush_every == flush_every - 1:
            writer.flush()
    if closes:
        writer.close()
    else:
        writer.abandon()
    return folder


def read_journal(path: Path) -> list[JournalMessage]:
    """Return every message of a journal."""
    return list(JournalReader(path).messages())


def packed(
    message: SourceMessage, *, run: str | None = None, sent_host_ns: int | None = None
) -> tuple[bytes, ...]:
    """Return a message's parts, as if it were of a run, or a batch had been sent at a time."""
    if run is not None:
        message = replace(message, run=run)
    if sent_host_ns is not None and isinstance(message, SpikeBatch):
        message = replace(message, sent_host_ns=sent_host_ns)
    return tuple(bytes(part) for part in wire.pack(message))
