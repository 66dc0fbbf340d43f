"""From the parts of a ZeroMQ message to typed values, repeats passed over and holes found.

No socket here. Nothing that a publisher sends raises: what cannot be read is counted, and logged
at most once a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from neurrate_client.display_messages import EncoderFacts, Message, Probes, Rates
from neurrate_client.messages import (
    Daemon,
    Lost,
    Mark,
    Narration,
    Partial,
    Statistics,
    Trigger,
    Units,
)

MAX_TOPICS = 4_096
"""Topics that are remembered, so that a publisher that invents topics cannot fill the memory."""

LOG_EVERY_S = 1.0

Event = Message | Lost

_DECODERS: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"narration": msgspec.json.Decoder(Narration),
    b"partial": msgspec.json.Decoder(Partial),
    b"trigger": msgspec.json.Decoder(Trigger),
    b"mark": msgspec.json.Decoder(Mark),
    b"units": msgspec.json.Decoder(Units),
    b"stats": msgspec.json.Decoder(Statistics),
    b"daemon": msgspec.json.Decoder(Daemon),
    b"encoder": msgspec.json.Decoder(EncoderFacts),
    b"rates": msgspec.json.Decoder(Rates),
    b"probes": msgspec.json.Decoder(Probes),
}

logger = logging.getLogger(__name__)


class UnreadableError(ValueError):
    """A message does not follow the format, or is of another version."""


class Reader:
    """Reads the messages of one daemon.

    Attributes
    ----------
    latest : dict
        The last message of each topic but those of growing sentences.
    n_unreadable, n_ignored : int
        Messages that do not follow the format, and those of topics that this version does not know.
    n_repeats : int
        Narrations that had been received before.
    n_lost : int
        Narrations and triggers that were published and did not arrive.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Message] = {}
        self.n_unreadable = self.n_ignored = self.n_repeats = self.n_lost = 0
        self._last: dict[str, tuple[str, int]] = {}  # by topic: run of the daemon, seq
        self._next_log_s = 0.0

    def read(self, parts: Sequence[bytes]) -> list[Event]:
        """Return what a message says: nothing, the message, or a hole before it and the message."""
        try:
            message = parse(parts)
        except UnreadableError as error:
            self.n_unreadable += 1
            self._log(error)
            return []
        if message is None:
            self.n_ignored += 1
            return []
        events: list[Event] = [message]
        if isinstance(message, Narration | Trigger):
            numbered = self._number(message)
            if numbered is None:
                self.n_repeats += 1
                return []
            events = [*numbered, message]
        if not isinstance(message, Partial):
            _remember(self.latest, message.topic, message)
        return events

    def _number(self, message: Narration | Trigger) -> list[Event] | None:
        """Return the hole before a message, if there is one; None if it was received before."""
        suffix = f"-{message.topic.partition('.')[2]}-{message.seq}"
        run = message.id.removesuffix(suffix)
        before = self._last.get(message.topic)
        _remember(self._last, message.topic, (run, message.seq))
        if before is None:  # what was published before this subscriber came is not lost
            return []
        expected = before[1] + 1 if before[0] == run else 0
        if message.seq < expected:
            self._last[message.topic] = before
            return None
        if message.seq == expected:
            return []
        n_lost = message.seq - expected
        self.n_lost += n_lost
        return [Lost(topic=message.topic, first_seq=expected, n=n_lost)]

    def _log(self, error: UnreadableError) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_log_s:
            self._next_log_s = now_s + LOG_EVERY_S
            logger.warning("%d messages could not be read; the last: %s", self.n_unreadable, error)


def parse(parts: Sequence[bytes]) -> Message | None:
    """Read one message; None if its topic is one that this version does not know.

    Raises
    ------
    UnreadableError
        If it does not follow ``schemas/*.schema.json``.
    """
    topic = bytes(parts[0][:128]) if parts else b""
    decoder = _DECODERS.get(topic.partition(b".")[0])
    if decoder is None:
        return None
    if len(parts) != 2:
        raise UnreadableError(f"a message has 2 parts, {topic!r} has {len(parts)}")
    try:
        message: Message = decoder.decode(parts[1])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{topic!r}: {error}") from error
    if message.topic.encode(errors="replace") != bytes(parts[0]):
        raise UnreadableError(f"{topic!r} holds a message of {message.topic!r:.128}")
    return message


def _remember(memory: dict[str, Any], topic: str, value: object) -> None:
    """Put a value last, and drop the oldest beyond `MAX_TOPICS`."""
    memory.pop(topic, None)
    memory[topic] = value
    if len(memory) > MAX_TOPICS:
        del memory[next(iter(memory))]
