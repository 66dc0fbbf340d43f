"""The connection to one source, and what of it is limited. No socket here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from daemon.hello_reader import HelloBudget
from peer_guard.bucket import TokenBucket
from peer_guard.source_stream import Part

BAD_PER_S, BAD_AT_ONCE = 100.0, 1000
"""Messages of one connection that break the wire format; beyond them it is left unread for a while.
A flood of them would take the loop's time."""

MARK_BYTES_PER_S, MARK_BYTES_AT_ONCE = 256 << 10, 128 << 10
"""Of marks that are published, for each connection: a thousand a second, five hundred at once, half
of what may wait for one subscriber."""


class SourceMessages(Protocol):
    """What ingest needs of the connection to a source: `peer_guard.source_reader.SourceReader`."""

    @property
    def poll_fds(self) -> list[int]:
        """What becomes readable when there is something to take."""

    @property
    def has_messages(self) -> bool:
        """Whether there is something to take."""

    def take(self) -> list[Part] | None:
        """Return the parts of the oldest message that was read; None if there is none."""

    def read(self) -> bool:
        """Read what has arrived, without waiting; return whether more may be there."""


@dataclass(slots=True)
class SourceConnection:
    """The connection to one source, and the streams that have said hello on it."""

    number: int
    reader: SourceMessages
    budget: HelloBudget
    streams: set[str] = field(default_factory=set)
    bad: TokenBucket = field(default_factory=lambda: TokenBucket(BAD_PER_S, BAD_AT_ONCE))
    marks: TokenBucket = field(
        default_factory=lambda: TokenBucket(MARK_BYTES_PER_S, MARK_BYTES_AT_ONCE)
    )
    may_have_more: bool = True  # than was read in this `Ingest.receive`
    is_live: bool = False  # whether one of its streams does not wait for slow subscribers
    # When nothing was left of it that should have been taken; host clock.
    up_to_date_ns: int = 0

    def take(self) -> list[Part] | None:
        """Return the next message; None once all that had arrived is taken."""
        while not self.reader.has_messages and self.may_have_more:
            self.may_have_more = self.reader.read()
        return self.reader.take()
