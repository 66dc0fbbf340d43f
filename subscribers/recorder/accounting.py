"""What a recorder has received and lost, by the numbers that messages carry. No socket here."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts import wire
from contracts.errors import WireError
from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.narration_wire import load
from contracts.spikes import Hello, SpikeBatch, StreamEnd
from contracts.wire_header import Part

TOPIC = re.compile(rb"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_.-]{1,128})?")

MAX_TOPICS = 4096
"""Each is a channel of the journal. A daemon has some for each population, rule and stream."""

N_REMEMBERED = 4096
"""Ids of narrations, and runs whose numbers are followed."""


@dataclass(slots=True)
class Accounts:
    """Counters of one recording, by kind of message where they are mappings.

    Attributes
    ----------
    holes : Counter
        Messages that never arrived: their numbers are missing.
    overflowed : Counter
        Messages that arrived while the queue to the disk was full.
    unreadable : int
        Messages that follow no format of ours, and are recorded all the same.
    repeats : int
        Messages that were sent again, and are in the journal already.
    refused : int
        Messages of topics that no program of ours has, not recorded.
    """

    received: Counter[str] = field(default_factory=Counter)
    holes: Counter[str] = field(default_factory=Counter)
    overflowed: Counter[str] = field(default_factory=Counter)
    n_spikes: int = 0
    unreadable: int = 0
    repeats: int = 0
    refused: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return them as JSON holds them."""
        return {
            "received": dict(self.received),
            "n_spikes": self.n_spikes,
            "holes": dict(self.holes),
            "overflowed": dict(self.overflowed),
            "unreadable": self.unreadable,
            "repeats": self.repeats,
            "refused": self.refused,
        }


class Accountant:
    """Looks at each message once, before it is written."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.lossless: set[str] = set()
        """Addresses of sources that wait for slow subscribers."""
        self._topics: set[tuple[str, bytes]] = set()
        self._next: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._newest: dict[tuple[str, bytes], bytes] = {}

    def admit(self, origin: Origin, address: str, parts: Sequence[Part]) -> bool:
        """Count a message; return whether the journal should have it."""
        topic = bytes(parts[0][:256])
        if not TOPIC.fullmatch(topic) or len(parts) < 2 or not self._is_followed(address, topic):
            self.accounts.refused += 1
            return False
        kind = topic.partition(b".")[0].decode()
        try:
            if origin is Origin.SOURCE:
                self._count_source(address, kind, parts)
            elif not self._count_daemon(address, topic, kind, parts):
                self.accounts.repeats += 1
                return False
        except WireError:
            # Another version, or a damaged message: whoever reads the journal may know better.
            self.accounts.unreadable += 1
        self.accounts.received[kind] += 1
        return True

    def overflow(self, parts: Sequence[Part]) -> None:
        """Count a message that was admitted, and for which there was no room."""
        kind = bytes(parts[0][:256]).partition(b".")[0].decode()
        self.accounts.overflowed[kind] += 1

    def _is_followed(self, address: str, topic: bytes) -> bool:
        key = (address, topic)
        if key not in self._topics:
            if len(self._topics) >= MAX_TOPICS:
                return False
            self._topics.add(key)
        return True

    def _count_source(self, address: str, kind: str, parts: Sequence[Part]) -> None:
        match wire.unpack(parts):
            case SpikeBatch() as batch:
                self.accounts.n_spikes += batch.n_spikes
                self._follow(kind, (address, batch.stream, batch.run), batch.seq)
            case Hello() as hello:
                key = (kind, address, hello.stream, hello.run)
                if hello.is_lossless:
                    self.lossless.add(address)
                if key not in self._next:  # batches before it were not sent to us
                    self._remember(key, 0)
                    self._remember(("spikes", *key[1:]), hello.next_seq)
            case StreamEnd() as end:
                self._follow("spikes", (address, end.stream, end.run), end.n_batches, is_one=False)

    def _count_daemon(self, address: str, topic: bytes, kind: str, parts: Sequence[Part]) -> bool:
        """Count a message of a daemon; return whether it is new.

        Raises
        ------
        WireError
            If it follows no format.
        """
        if len(parts) != 2:
            raise WireError("parts", f"a message of the daemon has 2 parts, got {len(parts)}")
        if kind in {"narration", "trigger"}:
            content = load(bytes(parts[1]))
            identifier, seq = content.get("id"), content.get("seq")
            if not isinstance(identifier, str) or not isinstance(seq, int):
                raise WireError("field", f"a {kind} has an id and a seq")
            if (address, identifier) in self._ids:
                return False
            _push(self._ids, (address, identifier), None)
            if not content.get("repeat"):
                run = identifier.partition("-")[0]
                self._follow(kind, (address, topic.decode(), run), seq)
            return True
        if kind in {"mark", "units", "daemon"}:
            payload = bytes(parts[1])
            sent = payload.replace(b'"repeat":true', b'"repeat":false', 1)
            is_new = sent == payload or self._newest.get((address, topic)) != sent
            self._newest[address, topic] = sent
            return is_new
        return True

    def _follow(self, kind: str, key: tuple[str, ...], seq: int, *, is_one: bool = True) -> None:
        """Count what is missing before a number; `is_one` if a message has that number."""
        whole = (kind, *key)
        expected = self._next.get(whole, seq)
        if seq > expected:
            self.accounts.holes[kind] += seq - expected
        self._remember(whole, max(expected, seq + is_one))

    def _remember(self, key: tuple[str, ...], value: int) -> None:
        _push(self._next, key, value)


def accounts_of(reader: JournalReader) -> Accounts:
    """Count the messages of a journal again, over all of its parts; holes lie between them, too."""
    accountant = Accountant()
    for message in reader.messages(lambda origin, _: origin is not Origin.RECORDER):
        accountant.admit(message.origin, message.address, message.parts)
    return accountant.accounts


def _push(mapping: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    mapping[key] = value
    mapping.move_to_end(key)
    if len(mapping) > N_REMEMBERED:
        mapping.popitem(last=False)
