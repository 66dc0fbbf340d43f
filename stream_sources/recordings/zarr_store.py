"""The keys of a Zarr of version 2: JSON documents that describe groups and arrays, and chunks.

Specification: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html. A store is a folder here or
behind http(s) (`zarr_remote`). Nothing outside it is ever read.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from contracts.errors import RecordingError, shown

GROUP, ARRAY, ATTRIBUTES = ".zgroup", ".zarray", ".zattrs"

VERSION_3 = "zarr.json"

MARKS = (GROUP, ATTRIBUTES, ".zmetadata", VERSION_3)
"""One of these is in the folder of a Zarr."""

MAX_DOCUMENT_BYTES = 64 << 20
"""Longest JSON document that is read. The consolidated one of a session has about 1 MB."""

MAX_CHUNK_BYTES = 1 << 30
"""Largest chunk that is read, packed or unpacked. Zarr's own choice is at most 64 MiB."""


class UnsafeZarrError(RecordingError):
    """A Zarr that leads out of itself, or would run a program: it is refused as a whole."""


class ZarrStore(ABC):
    """The documents and chunks of a Zarr, by key.

    Attributes
    ----------
    name : str
        For people.
    key : str
        Names the store in the cache.
    """

    name: str
    key: str

    @abstractmethod
    def document(self, key: str) -> dict[str, Any] | None:
        """Return a JSON document; None if there is none of that key."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """Return the names of the groups and arrays in a group, sorted."""

    @abstractmethod
    def read(self, keys: Iterable[str]) -> Generator[bytes | None]:
        """Yield each of these chunks, packed; None for one that is missing."""

    @abstractmethod
    def version(self, arrays: Sequence[str]) -> str:
        """Return a text that changes when the contents of these arrays do."""

    def attributes(self, path: str) -> dict[str, Any]:
        """Return the attributes of a group or an array; empty if it has none."""
        return self.document(joined(path, ATTRIBUTES)) or {}

    def has(self, path: str) -> bool:
        """Return whether there is a group or an array of that path."""
        return any(self.document(joined(path, kind)) is not None for kind in (GROUP, ARRAY))


class LocalZarr(ZarrStore):
    """A Zarr in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder.resolve()
        self.key = str(self._folder)
        if (self._folder / VERSION_3).exists():
            raise version_3_error(self.name)

    def document(self, key: str) -> dict[str, Any] | None:
        """Return a JSON document of the folder."""
        data = self._bytes(key, MAX_DOCUMENT_BYTES)
        return None if data is None else parsed(data, self.name, key)

    def names(self, path: str) -> list[str]:
        """Return the names of the folders that have a document of a group or an array."""
        folder = self._place(path)
        with self._problems(path):
            inside = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        return [name for name in inside if is_name(name) and self.has(joined(path, name))]

    def read(self, keys: Iterable[str]) -> Generator[bytes | None]:
        """Read chunks one after the other."""
        return (self._bytes(key, MAX_CHUNK_BYTES) for key in keys)

    def version(self, arrays: Sequence[str]) -> str:
        """Return a hash of names, sizes and dates of the files, so of which chunks are there."""
        digest = hashlib.sha256()
        for path in sorted(arrays):
            with self._problems(path):
                for file in sorted(self._place(path).rglob("*")):
                    facts = file.stat()
                    text = f"{file}|{facts.st_size}|{facts.st_mtime_ns}\n"
                    digest.update(text.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _bytes(self, key: str, limit: int) -> bytes | None:
        path = self._place(key)
        with self._problems(key):
            if not path.is_file():
                return None
            size = path.stat().st_size
            data = path.read_bytes() if size <= limit else b""
        if size > limit:
            raise RecordingError(self.name, f"{key} has {size:,} bytes; at most {limit:,} are read")
        return data

    def _place(self, key: str) -> Path:
        with self._problems(key):
            path = (self._folder / key).resolve()
        if not path.is_relative_to(self._folder):
            raise UnsafeZarrError(
                self.name, f"{shown(key)} leads out of the folder, and is not followed. Copy it in."
            )
        return path

    @contextmanager
    def _problems(self, key: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # the latter for links in a circle
            reason = getattr(error, "strerror", None) or error
            raise RecordingError(self.name, f"{shown(key)} cannot be read: {reason}") from error


def joined(path: str, name: str) -> str:
    """Return the key of something in a group; the root's path is empty."""
    return f"{path}/{name}" if path else name


def is_name(name: str) -> bool:
    """Return whether a name stands for something in the store, not for a document."""
    return not name.startswith(".") and PurePosixPath(name).name == name and name.isprintable()


def parsed(data: bytes, name: str, key: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises
    ------
    RecordingError
        If it is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordingError(
            name, f"{key} must be a JSON object: {error}. Copy or download it again."
        ) from error
    if not isinstance(value, dict):
        raise RecordingError(name, f"{key} must be a JSON object, not {shown(repr(value))}")
    return value


def version_3_error(name: str) -> RecordingError:
    """Return what to report for a Zarr of version 3."""
    return RecordingError(
        name,
        f"it is a Zarr of version 3 ({VERSION_3}); version 2 is read, which hdmf-zarr writes. "
        "Export the session with hdmf-zarr, or as HDF5.",
    )


def is_nwb_zarr(folder: Path) -> bool:
    """Return whether a path is a folder with NWB in Zarr, not with a sorting of SpikeInterface."""
    try:
        if not folder.is_dir() or not any((folder / name).exists() for name in MARKS):
            return False
        is_named = ".nwb" in folder.name.casefold()
        return is_named or "nwb_version" in LocalZarr(folder).attributes("")
    except (OSError, RecordingError):
        return False
