"""What sources have sent, by a subscriber of their own, and what a journal has of it."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
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

    def read(self, *, wait_ms: int = 0) -> None:
        """Take what has arrived; `wait_ms` is for the first message.

        After a source was restarted, libzmq subscribes to it again in here.
        """
        for message in self._listener.messages(wait_ms=wait_ms):
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
    """When a process was not there, host clock: from a kill until its successor has begun."""

    killed_ns: int
    again_ns: int


@dataclass(frozen=True, slots=True)
class Missing:
    """What was sent and is not in the journal."""

    n_batches: int = 0
    # Of them, those between two of their run that are in the journal: numbers show a hole there
    n_batches_between: int = 0
    n_spikes: int = 0
    n_published: int = 0  # Narrations and triggers
    # Of both, those sent at another time than an outage or the second before one
    n_batches_unexplained: int = 0
    n_published_unexplained: int = 0
    # The oldest that was sent before the kill of a recorder that was there, and how long before
    lost_before_kill_s: float = 0.0
    n_changed: int = 0  # Batches in the journal with other spikes than were sent


def missing_from(
    journal: Journal,
    sent: Sent,
    outages: Sequence[Outage],
    *,
    of_sources: Sequence[Outage] = (),
    of_daemons: Sequence[Outage] = (),
) -> Missing:
    """Compare a journal with what was sent.

    `outages` are those of recorders. Where a source or a daemon was killed, its last messages may
    have reached this process and not the recorder, and its successor's first ones, too.
    """
    n_changed = n_batches = n_between = n_spikes = 0
    stamps: list[int] = []
    for run in sent.batches.runs:
        ours, theirs = sent.batches.table(run), journal.batches.table(run)
        is_kept = np.isin(ours[:, 0], theirs[:, 0])
        lost, kept = ours[~is_kept], ours[is_kept]
        n_batches += len(lost)
        if len(theirs):
            is_after, is_before = lost[:, 0] > theirs[0, 0], lost[:, 0] < theirs[-1, 0]
            n_between += int((is_after & is_before).sum())
        n_spikes += int(lost[:, 2].sum())
        stamps += lost[:, 1].tolist()
        both = theirs[np.isin(theirs[:, 0], ours[:, 0])]
        is_same = len(both) == len(kept)  # else a number stands there twice
        n_changed += int((both != kept).any(axis=1).sum()) if is_same else len(both)
    published = [ns for key, ns in sent.published_ns.items() if key not in journal.narration_ids]
    return Missing(
        n_batches,
        n_between,
        n_spikes,
        len(published),
        n_batches_unexplained=_n_unexplained(stamps, [*outages, *of_sources]),
        n_published_unexplained=_n_unexplained(published, [*outages, *of_daemons]),
        lost_before_kill_s=max(
            _lost_before_kill_s(stamps, outages, [*outages, *of_sources]),
            _lost_before_kill_s(published, outages, [*outages, *of_daemons]),
        ),
        n_changed=n_changed,
    )


def _n_unexplained(stamps: Sequence[int], outages: Sequence[Outage]) -> int:
    """Count what was sent neither in an outage nor in the second before one."""
    return sum(
        not any(
            outage.killed_ns - LOST_BEFORE_KILL_NS <= ns <= outage.again_ns + CONNECTED_NS
            for outage in outages
        )
        for ns in stamps
    )


def _lost_before_kill_s(
    stamps: Sequence[int], outages: Sequence[Outage], explained: Sequence[Outage]
) -> float:
    """Return how long before a kill the oldest loss was sent, of those that its outage explains.

    What was sent in another outage, also that of a recorder that was killed again at once, was
    never received.
    """
    received = [
        ns
        for ns in stamps
        if not any(one.killed_ns <= ns <= one.again_ns + CONNECTED_NS for one in explained)
    ]
    spans = [
        outage.killed_ns - ns
        for outage in outages
        for ns in received
        if 0 <= outage.killed_ns - ns <= LOST_BEFORE_KILL_NS
    ]
    return max(spans, default=0) / NS_PER_S


def _published_ns(content: Mapping[str, Any]) -> int:
    published: int = list(content["host_ns"].values())[-1]
    return published
