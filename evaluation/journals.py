"""What sources have sent, by a subscriber of their own, and what a journal has of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from contracts import wire
from contracts.clock import NS_PER_S
from contracts.errors import WireError
from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.narration_wire import load
from contracts.spikes import SpikeBatch
from subscribers.listener import ANY_NUMBER, SPIKE_TOPICS, Listener, Received
from subscribers.recorder.accounting import Accountant, Accounts

LOST_BEFORE_KILL_NS = NS_PER_S
"""What was received a second before a kill must be in the journal."""

CONNECTED_NS = NS_PER_S
"""How long the subscriptions of a recorder take at most, once it has begun."""

COLUMNS = ("seq", "sent_ns", "n_spikes", "checksum")

Run = tuple[str, str]  # stream, run


@dataclass(slots=True)
class BatchLog:
    """The batches of each run: number, stamp, spikes and a checksum of their bytes."""

    runs: dict[Run, array[int]] = field(default_factory=dict)

    def add(self, batch: SpikeBatch) -> None:
        """Note a batch; its arrays are not kept."""
        checksum = crc32(batch.unit_index.tobytes(), crc32(batch.spike_time_ns.tobytes()))
        row = (batch.seq, batch.sent_host_ns, batch.n_spikes, checksum)
        self.runs.setdefault((batch.stream, batch.run), array("q")).extend(row)

    def table(self, run: Run) -> NDArray[np.int64]:
        """Return shape (n_batches, 4), int64: the `COLUMNS`, in the order in which they came."""
        flat = self.runs.get(run, array("q"))
        return np.frombuffer(flat.tobytes(), np.int64).reshape(-1, len(COLUMNS))

    @property
    def n_batches(self) -> int:
        """Batches of all runs."""
        return sum(len(flat) for flat in self.runs.values()) // len(COLUMNS)

    @property
    def n_spikes(self) -> int:
        """Spikes of all runs."""
        return sum(int(self.table(run)[:, 2].sum()) for run in self.runs)


@dataclass(slots=True)
class Sent:
    """Everything that a recorder should have received."""

    batches: BatchLog = field(default_factory=BatchLog)
    # Narrations and triggers: when they were published, by id
    published_ns: dict[str, int] = field(default_factory=dict)

    def take(self, message: Received) -> None:
        """Note a narration or a trigger."""
        if "host_ns" in message.content and "id" in message.content and not message.is_repeat:
            self.published_ns[message.content["id"]] = _published_ns(message.content)


class SpikeWitness:
    """A subscriber to sources, which notes every batch in `sent`."""

    def __init__(self, addresses: Sequence[str], sent: Sent) -> None:
        self._sent = sent
        first, *others = addresses
        self._listener = Listener(first, SPIKE_TOPICS, setting="a witness", queue=ANY_NUMBER)
        for address in others:
            self._listener.connect(address, setting="a witness")

    def read(self) -> None:
        """Take what has arrived."""
        for message in self._listener.messages():
            if isinstance(message.value, SpikeBatch):
                self._sent.batches.add(message.value)

    def close(self) -> None:
        """Close the socket."""
        self._listener.close()


@dataclass(frozen=True, slots=True)
class Journal:
    """What a journal has; `accounts` are counted again from its messages, over all of its parts."""

    batches: BatchLog
    narration_ids: frozenset[str]
    accounts: Accounts
    n_parts: int
    n_unclosed: int
    n_bytes: int


def read_journal(path: Path) -> Journal:
    """Read a journal to its last whole message."""
    reader, accountant = JournalReader(path), Accountant()
    batches, ids = BatchLog(), set[str]()
    for message in reader.messages(lambda origin, _: origin is not Origin.RECORDER):
        accountant.admit(message.origin, message.address, message.parts)
        if message.kind == "spikes":
            try:
                value = wire.unpack(message.parts)
            except WireError:  # counted as unreadable
                continue
            if isinstance(value, SpikeBatch):
                batches.add(value)
        elif message.kind in {"narration", "trigger"}:
            ids.add(load(message.parts[1])["id"])
    return Journal(
        batches,
        frozenset(ids),
        accountant.accounts,
        n_parts=len(reader.identities),
        n_unclosed=len(reader.unclosed),
        n_bytes=sum(part.stat().st_size for part in path.glob("*.mcap")),
    )


@dataclass(frozen=True, slots=True)
class Outage:
    """When no recorder ran, host clock: from a kill until the next one recorded."""

    killed_ns: int
    again_ns: int


@dataclass(frozen=True, slots=True)
class Missing:
    """What was sent and is not in the journal."""

    n_batches: int = 0
    n_spikes: int = 0
    n_published: int = 0  # Narrations and triggers
    # Of both, those sent at another time than an outage or the second before one
    n_batches_unexplained: int = 0
    n_published_unexplained: int = 0
    lost_before_kill_s: float = 0.0  # The oldest of them was sent so long before a kill
    n_changed: int = 0  # Batches in the journal with other spikes than were sent


def missing_from(journal: Journal, sent: Sent, outages: Sequence[Outage]) -> Missing:
    """Compare a journal with what was sent."""
    n_changed = n_batches = n_spikes = 0
    stamps: list[int] = []
    for run in sent.batches.runs:
        ours, theirs = sent.batches.table(run), journal.batches.table(run)
        is_kept = np.isin(ours[:, 0], theirs[:, 0])
        n_batches += int((~is_kept).sum())
        n_spikes += int(ours[~is_kept, 2].sum())
        stamps += ours[~is_kept, 1].tolist()
        both = theirs[np.isin(theirs[:, 0], ours[:, 0])]
        n_changed += abs(len(both) - int(is_kept.sum()))  # a number that stands there twice
        if len(both) == is_kept.sum():
            n_changed += int((both != ours[is_kept]).any(axis=1).sum())
    published = [ns for key, ns in sent.published_ns.items() if key not in journal.narration_ids]
    return Missing(
        n_batches,
        n_spikes,
        len(published),
        n_batches_unexplained=sum(not _is_explained(ns, outages) for ns in stamps),
        n_published_unexplained=sum(not _is_explained(ns, outages) for ns in published),
        lost_before_kill_s=_lost_before_kill_s([*stamps, *published], outages),
        n_changed=n_changed,
    )


def _is_explained(sent_ns: int, outages: Iterable[Outage]) -> bool:
    return any(
        outage.killed_ns - LOST_BEFORE_KILL_NS <= sent_ns <= outage.again_ns + CONNECTED_NS
        for outage in outages
    )


def _lost_before_kill_s(stamps: Sequence[int], outages: Iterable[Outage]) -> float:
    spans = [
        outage.killed_ns - ns
        for outage in outages
        for ns in stamps
        if 0 <= outage.killed_ns - ns <= LOST_BEFORE_KILL_NS
    ]
    return max(spans, default=0) / NS_PER_S


def _published_ns(content: Mapping[str, Any]) -> int:
    published: int = list(content["host_ns"].values())[-1]
    return published
