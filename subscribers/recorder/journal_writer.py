"""Writes a journal: parts that grow, are forced to the disk twice a second, and are replaced.

Theory of operation
-------------------
Messages are gathered in a chunk, which `flush` compresses, appends and forces to the disk. A chunk
has a checksum: after a power cut, whatever the file system has made of the last one, a reader takes
it whole or not at all. So a kill or a power cut takes at most what came since the last flush.

A part is closed once it has its size, and the next one begun. Each can be read alone: the newest
hello of every source, and the newest unit tables and identity of every daemon, are written again at
its beginning. Parts are never opened again; a recorder that is restarted begins a new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from mcap.writer import CompressionType, Writer

from contracts.clock import BOOT_ID, NS_PER_S, Clock
from contracts.errors import UserError
from contracts.journal import (
    IDENTITY,
    PART_NAME,
    PROFILE,
    Identity,
    Origin,
    framed,
    part_name,
)
from contracts.schemas import PUBLISHED, RECORDED, schema_of
from contracts.software import software
from contracts.wire_header import Part
from subscribers.recorder.part_file import PartFile

CHUNK_BYTES = 4 << 20
"""A chunk is closed by `flush` twice a second; at this size earlier, which bounds memory."""

PART_NS = 600 * NS_PER_S
"""A part is closed after so long, too: until then its index is in memory, some 12 MB an hour."""

STATE = frozenset({"hello", "units", "daemon"})
"""Kinds of messages without which others cannot be read; each part begins with the newest."""


class CannotRecordError(UserError):
    """A journal cannot be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        reason = (error.strerror or "it cannot be made").lower()
        super().__init__(
            f"Cannot record to {path}: {reason}. Name a folder that you may write, with room."
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """One message as it was taken from a socket; `parts` begin with the topic."""

    origin: Origin
    address: str
    host_ns: int
    parts: tuple[Part, ...]

    @property
    def n_bytes(self) -> int:
        """Size of its parts."""
        return sum(len(part) for part in self.parts)


class JournalWriter:
    """A journal that is being written, in a folder that no other recorder writes to.

    Parameters
    ----------
    part_bytes : int
        Size at which a part is closed.
    min_free_bytes : int
        Recording stops while so much of the disk is still free.
    wall_ns : callable
        UTC, nanoseconds.

    Raises
    ------
    CannotRecordError
        If the folder cannot be written.
    UserError
        If another recorder has it, or its disk is nearly full.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        part_bytes: int,
        min_free_bytes: int,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.folder = folder
        self.recording = secrets.token_hex(8)
        self.n_parts = 0
        self.n_bytes = 0
        """On the disk, of all parts of this recording."""
        self._clock = clock
        self._wall_ns = wall_ns
        self._part_bytes = part_bytes
        self._min_free_bytes = min_free_bytes
        self._state: dict[tuple[str, bytes], Taken] = {}
        self._channels: dict[tuple[Origin, str, bytes], int] = {}
        self._schemas: dict[str, int] = {}
        self._lock = _locked(folder)
        self._file: PartFile | None = None
        try:
            self.check_free()
            self._next_number = _next_number(folder)
            self._begin_part()
        except OSError as error:
            self.abandon()
            raise CannotRecordError(folder, error) from error
        except BaseException:
            self.abandon()
            raise

    @property
    def is_open(self) -> bool:
        """Whether more can be added."""
        return self._file is not None

    @property
    def path(self) -> Path:
        """The part that is being written."""
        return self.folder / part_name(self._next_number - 1)

    def add(self, taken: Taken) -> None:
        """Add a message to the chunk; a topic that is no text is replaced letter by letter."""
        kind = bytes(taken.parts[0][:16]).partition(b".")[0].decode(errors="replace")
        if kind in STATE:
            self._state[taken.address, bytes(taken.parts[0])] = taken
        self._add(taken, kind)

    def flush(self) -> None:
        """Append the chunk, wait until it is on the disk, and begin a new part if it is time.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        file = self._part()
        before = file.n_kept
        self._writer.flush()
        if file.size != before:
            file.sync()
            self.n_bytes += file.size - before
        is_old = self._clock.now_ns() - self._begun_ns >= PART_NS
        if file.size >= self._part_bytes or is_old:
            self._finish_part()
            self._begin_part()

    def check_free(self) -> None:
        """Refuse to go on where the disk is nearly full.

        Raises
        ------
        UserError
            With how much is free.
        """
        free = shutil.disk_usage(self.folder).free
        if free < self._min_free_bytes:
            raise UserError(
                f"The disk of {self.folder} has {free / 1e6:,.0f} MB left, and recording needs "
                f"{self._min_free_bytes / 1e6:,.0f} MB (--min-free-mb). Make room, or record to "
                "another disk."
            )

    def close(self) -> None:
        """Finish the part and give the folder back."""
        try:
            if self._file is not None:
                self._finish_part()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close what is open, after an error; the last part then ends with its last flush."""
        if self._file is not None:
            try:
                self._file.drop_unfinished()
            except OSError:  # a disk that is gone: readers stop at the last whole chunk anyway
                pass
            finally:
                self._file.close()
                self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin_part(self) -> None:
        self._channels, self._schemas = {}, {}
        self._begun_ns = self._clock.now_ns()
        self._wall_offset_ns = self._wall_ns() - self._begun_ns
        self._file = PartFile(self.folder / part_name(self._next_number))
        self._writer: Any = Writer(  # half of its methods have no types
            cast("IO[Any]", self._file), chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD
        )
        self._writer.start(profile=PROFILE)
        made = software()
        identity = Identity(
            recording=self.recording,
            part=self._next_number,
            wall_offset_ns=self._wall_offset_ns,
            boot_id=_boot_id(),
            software=made["version"],
            commit=made["commit"],
        )
        self._writer.add_metadata(IDENTITY, identity.as_texts())
        self._next_number += 1
        self.n_parts += 1
        for (_, topic), taken in self._state.items():
            self._add(taken, topic.partition(b".")[0].decode())

    def _finish_part(self) -> None:
        file = self._part()
        before = file.n_kept
        self._writer.finish()
        file.sync()
        self.n_bytes += file.size - before
        file.close()
        self._file = None

    def _add(self, taken: Taken, kind: str) -> None:
        log_time = max(0, taken.host_ns + self._wall_offset_ns)
        is_framed = taken.origin is Origin.SOURCE
        self._writer.add_message(
            channel_id=self._channel(taken, kind),
            log_time=log_time,
            publish_time=log_time,
            data=framed(taken.parts[1:]) if is_framed else bytes(taken.parts[1]),
        )

    def _channel(self, taken: Taken, kind: str) -> int:
        topic = bytes(taken.parts[0])
        key = (taken.origin, taken.address, topic)
        if key not in self._channels:
            is_framed = taken.origin is Origin.SOURCE
            self._channels[key] = self._writer.register_channel(
                topic=topic.decode(errors="replace"),
                message_encoding="msgpack" if is_framed else "json",
                schema_id=0 if is_framed else self._schema(kind),
                metadata={"origin": taken.origin.value, "address": taken.address},
            )
        return self._channels[key]

    def _schema(self, kind: str) -> int:
        if kind not in PUBLISHED | RECORDED:
            return 0
        if kind not in self._schemas:
            text = _schema_text(kind)
            self._schemas[kind] = self._writer.register_schema(kind, "jsonschema", text)
        return self._schemas[kind]

    def _part(self) -> PartFile:
        if self._file is None:
            raise ValueError("the journal is closed")
        return self._file


def _locked(folder: Path) -> int | None:
    """Make the folder and take it for this process; the lock goes with the process.

    Raises
    ------
    CannotRecordError
        If it cannot be made or written.
    UserError
        If another recorder has it.
    """
    descriptor: int | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if descriptor is not None:
            os.close(descriptor)
        raise UserError(
            f"Another recorder writes to {folder}. Stop it, or name another folder."
        ) from error
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        raise CannotRecordError(folder, error) from error
    return descriptor


def _next_number(folder: Path) -> int:
    matches = (PART_NAME.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) + 1 for match in matches if match), default=0)


@cache
def _schema_text(kind: str) -> bytes:
    return json.dumps(schema_of(kind)).encode()


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        return ""
