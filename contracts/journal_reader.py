"""Reads a journal from its first whole message to its last, whether it was closed or not."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from contracts.errors import UserError, WireError
from contracts.journal import IDENTITY, Identity, JournalMessage, Origin, parts_of, unframed

if TYPE_CHECKING:
    from mcap.records import Channel, McapRecord

MAX_RECORD_BYTES = 1 << 28
"""A chunk holds half a second; the largest message has some 50 MiB. Damaged lengths are beyond."""

Wanted = Callable[[Origin, str], bool]
"""Whether messages of an origin and topic are wanted."""


@dataclass(frozen=True, slots=True)
class UnclosedPart:
    """A part that does not end as it should.

    Attributes
    ----------
    n_bytes_ignored : int
        At its end, behind the last whole record.
    """

    path: Path
    n_bytes_ignored: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.path.name} was not closed: it is read to its last whole message, and "
            f"{self.n_bytes_ignored:,} bytes behind it are ignored ({self.reason})"
        )


class ForeignFileError(UserError):
    """A file is no part of a journal."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is no journal of 'neurrate record': {reason}.")


class JournalReader:
    """The messages of a journal, in the order in which they were received.

    Attributes
    ----------
    identities : list of Identity
        Of the parts that have been read.
    unclosed : list of UnclosedPart
        Parts whose recorder was killed, or records still.

    Raises
    ------
    UserError
        If there is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identities: list[Identity] = []
        self.unclosed: list[UnclosedPart] = []
        self._paths = parts_of(path)

    def messages(self, wanted: Wanted = lambda _origin, _topic: True) -> Iterator[JournalMessage]:
        """Yield the messages that are wanted.

        Raises
        ------
        UserError
            If a part is not of a journal, or of another version.
        """
        self.identities, self.unclosed = [], []
        for path in self._paths:
            yield from self._messages_of_part(path, wanted)

    def _messages_of_part(self, path: Path, wanted: Wanted) -> Iterator[JournalMessage]:
        from mcap.records import Channel, Message, Metadata

        channels: dict[int, tuple[Channel, Origin, bool]] = {}
        identity: Identity | None = None
        for record in self._records(path):
            match record:
                case Metadata(name=name, metadata=texts) if name == IDENTITY:
                    identity = Identity.of_texts(texts, path)
                    self.identities.append(identity)
                case Channel():
                    origin = _origin_of(record, path)
                    channels[record.id] = (record, origin, wanted(origin, record.topic))
                case Message() if record.channel_id in channels:
                    channel, origin, is_wanted = channels[record.channel_id]
                    if identity is None:
                        raise ForeignFileError(path, "no record of what it is")
                    if is_wanted:
                        yield _message(record, channel, origin, identity, path)

    def _records(self, path: Path) -> Iterator[McapRecord]:
        """Yield the records of a part up to the last whole one; note if it is not closed.

        Raises
        ------
        ForeignFileError
            If it is something else.
        """
        import zstandard
        from mcap.exceptions import InvalidMagic, McapError
        from mcap.records import Chunk
        from mcap.stream_reader import StreamReader, breakup_chunk

        with _open(path) as file:
            end, is_closed, reason = 0, False, ""
            try:
                reader = StreamReader(file, emit_chunks=True, record_size_limit=MAX_RECORD_BYTES)
                for record in reader.records:
                    if isinstance(record, Chunk):
                        yield from breakup_chunk(record, validate_crc=True)
                    else:
                        yield record
                    end = file.tell()
                is_closed = True  # else the reader has raised
            except (McapError, ValueError, struct.error, zstandard.ZstdError) as error:
                reason = _reason(error)
                if end == 0 and isinstance(error, InvalidMagic):
                    raise ForeignFileError(path, reason) from error
            if not is_closed:
                self.unclosed.append(UnclosedPart(path, file.seek(0, 2) - end, reason))


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {(error.strerror or 'error').lower()}.") from error


def _reason(error: Exception) -> str:
    from mcap.exceptions import EndOfFile

    if isinstance(error, EndOfFile | struct.error):
        return "end of file"
    return f"{type(error).__name__}: {error}"


def _origin_of(channel: Any, path: Path) -> Origin:
    try:
        return Origin(channel.metadata["origin"])
    except (KeyError, ValueError) as error:
        raise ForeignFileError(path, f"channel {channel.topic!r} does not say who sent") from error


def _message(
    record: Any, channel: Channel, origin: Origin, identity: Identity, path: Path
) -> JournalMessage:
    topic = channel.topic
    try:
        after = unframed(record.data) if origin is Origin.SOURCE else (record.data,)
    except WireError as error:
        raise ForeignFileError(path, str(error)) from error
    return JournalMessage(
        origin=origin,
        address=channel.metadata.get("address", ""),
        topic=topic,
        host_ns=record.log_time - identity.wall_offset_ns,
        wall_ns=record.log_time,
        parts=(topic.encode(), *after),
    )
