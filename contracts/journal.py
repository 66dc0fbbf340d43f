"""A journal: what was received in a recording, as files that any MCAP reader opens.

A journal is a folder of parts, ``part-00000.mcap`` and so on, each readable alone. Three kinds of
sender write to it, told apart by `Origin`:

===========  ===============================  ==============================================
origin       topics                           data of a message
===========  ===============================  ==============================================
source       those of docs/wire-format.md     msgpack: list of the parts after the topic, bin
daemon       those of docs/narration-format   the JSON object, byte for byte
recorder     ``recorder``                     JSON: what was received and lost so far
===========  ===============================  ==============================================

``log_time`` is when a message was received: the recording machine's monotonic clock, plus the
constant `Identity.wall_offset_ns` of the part, so that it reads as UTC and yet never jumps.
docs/recording.md has the rest; docs/decisions/0036-journal.md has the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

import msgpack

from contracts.errors import UserError, WireError
from contracts.wire_header import Part

JOURNAL_VERSION = 1
"""Raised when a reader of the version before would misread a journal."""

PROFILE = "neurrate"
IDENTITY = "neurrate"
"""Name of the metadata record at the start of each part."""

PART_NAME = re.compile(r"part-(\d{5,})\.mcap")

RECORDER_TOPIC = "recorder"

RECORDER_VERSION: Final = 1
"""Of the recorder's own messages."""

MAX_PARTS = 8
"""Parts of a message after the topic; the wire format has at most three."""


class Origin(StrEnum):
    """Who sent a message."""

    SOURCE = "source"
    DAEMON = "daemon"
    RECORDER = "recorder"


@dataclass(frozen=True, slots=True)
class JournalMessage:
    """One message of a journal.

    Attributes
    ----------
    address : str
        Where it was received from; empty for the recorder's own.
    host_ns, wall_ns : int
        When it was received: monotonic clock of the recording machine, and UTC.
    parts : tuple of bytes
        As they came from the socket, the topic first.
    """

    origin: Origin
    address: str
    topic: str
    host_ns: int
    wall_ns: int
    parts: tuple[bytes, ...]

    @property
    def kind(self) -> str:
        """What stands before the first point of the topic."""
        return self.topic.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a part says of itself.

    Attributes
    ----------
    recording : str
        Sixteen hex digits, new at each start of a recorder.
    part : int
        Number of the part in the folder.
    wall_offset_ns : int
        UTC minus monotonic clock when the part was begun.
    boot_id : str
        The machine's own; the monotonic clocks of two boots do not compare.
    """

    recording: str
    part: int
    wall_offset_ns: int
    boot_id: str
    software: str
    commit: str

    def as_texts(self) -> dict[str, str]:
        """Return it as the texts of a metadata record."""
        return {
            "version": str(JOURNAL_VERSION),
            "recording": self.recording,
            "part": str(self.part),
            "wall_offset_ns": str(self.wall_offset_ns),
            "boot_id": self.boot_id,
            "software": self.software,
            "commit": self.commit,
        }

    @classmethod
    def of_texts(cls, texts: Mapping[str, str], path: Path) -> Self:
        """Read it.

        Raises
        ------
        UserError
            If it is of another version, or no identity of ours.
        """
        try:
            version = int(texts["version"])
            identity = cls(
                texts["recording"],
                int(texts["part"]),
                int(texts["wall_offset_ns"]),
                texts["boot_id"],
                texts["software"],
                texts["commit"],
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path} has no record of what it is: {error!r}. Was it made by 'neurrate record'?"
            ) from error
        if version != JOURNAL_VERSION:
            raise UserError(
                f"{path} is a journal of version {version}, this build reads {JOURNAL_VERSION}."
            )
        return identity


def part_name(number: int) -> str:
    """Return the name of a part.

    >>> part_name(3)
    'part-00003.mcap'
    """
    return f"part-{number:05d}.mcap"


def parts_of(path: Path) -> list[Path]:
    """Return the files of a journal in order; `path` is its folder, or one part.

    Raises
    ------
    UserError
        If there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"There is no journal {path}. Name a folder that 'neurrate record' made.")
    found = {
        int(match[1]): file
        for file in path.iterdir()
        if (match := PART_NAME.fullmatch(file.name)) is not None
    }
    if not found:
        raise UserError(f"{path} holds no journal: no file is named {part_name(0)} or similar.")
    return [found[number] for number in sorted(found)]


def framed(parts: Sequence[Part]) -> bytes:
    """Put the parts after the topic of a source's message into one text of bytes."""
    packed: bytes = msgpack.packb([bytes(part) for part in parts])
    return packed


def unframed(data: bytes) -> tuple[bytes, ...]:
    """Return the parts again.

    Raises
    ------
    WireError
        If it is no such list.
    """
    try:
        parts: Any = msgpack.unpackb(data, max_array_len=MAX_PARTS)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("parts", f"a message in a journal is a msgpack list: {error}") from error
    if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
        raise WireError("parts", "a message in a journal is a list of byte strings")
    return tuple(parts)
