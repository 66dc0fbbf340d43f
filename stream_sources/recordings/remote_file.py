"""An HDF5 file behind http(s), read by byte ranges and kept in a cache on disk.

The first request asks for eight bytes and looks at the answer, so that a wrong address, a wrong
server or a wrong file is said at once; remfile, which reads the rest, would try for 25 s.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from contracts.errors import RecordingError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RANGE_TIMEOUT_S = 10.0
"""A server that is silent for longer is not one to replay from."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first eight bytes of an HDF5 file (HDF5 file format specification, superblock)."""

MEMORY_CACHE_BYTES = 64e6
"""What remfile keeps in memory; its own default is 1 GB. The rest is on disk."""

CONTENT_RANGE = re.compile(r"bytes 0-7/(\d+)")


class RemoteInfo(NamedTuple):
    """What a server says of a file."""

    n_bytes: int
    version: str
    """Its ETag or date, so that a file that was replaced is not read from the cache."""


class RemoteFile(io.RawIOBase):
    """A remote file as h5py reads it.

    The server must answer byte ranges; what was read is kept in `cache_dir`.

    Raises
    ------
    RecordingError
        If there is no such file, or it cannot be read by ranges, or is not HDF5.
    """

    def __init__(self, url: str, cache_dir: Path) -> None:
        import remfile  # brings requests

        super().__init__()
        info = check_ranges(url)
        name = hashlib.sha256(f"{url}|{info.n_bytes}|{info.version}".encode()).hexdigest()
        self.cache = cache_dir / "remote" / name[:16]
        self._remote = remfile.File(
            url,
            disk_cache=remfile.DiskCache(str(self.cache)),
            _max_cache_size=MEMORY_CACHE_BYTES,
            _size=info.n_bytes,
        )
        self.n_bytes = info.n_bytes

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._remote.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        """Return the position."""
        return int(self._remote.tell())

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer.

        Raises
        ------
        OSError
            If the server fails, after remfile's own retries, or the cache is damaged.
        """
        view = memoryview(buffer).cast("B")
        n_bytes = min(len(view), self.n_bytes - self.tell())
        if n_bytes <= 0:
            return 0
        try:
            data = self._remote.read(n_bytes)
        except Exception as error:  # remfile raises Exception itself, for lack of a type
            raise OSError(f"the server stopped answering: {error}") from error
        if len(data) != n_bytes:
            raise OSError(f"{n_bytes} bytes were asked for, {len(data)} came; delete {self.cache}")
        view[:n_bytes] = data
        return n_bytes

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._remote.session.close()
        super().close()


def is_url(path: str) -> bool:
    """Return whether a recording is behind http(s)."""
    return path.startswith(("http://", "https://"))


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/neurrate``, by default ``~/.cache/neurrate``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "neurrate"


def check_ranges(url: str) -> RemoteInfo:
    """Ask a server for the first eight bytes of a file, to see whether it answers byte ranges.

    Raises
    ------
    RecordingError
        With what to do about it.
    """
    try:
        request = Request(url, headers={"Range": "bytes=0-7"})
        with urlopen(request, timeout=RANGE_TIMEOUT_S) as response:
            return _info_of(url, response)
    except HTTPError as error:
        error.close()
        raise RecordingError(url, _status_problem(error.code, error.reason)) from error
    except (URLError, TimeoutError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise RecordingError(
            url, f"cannot reach the server: {reason}. Check the address and the network."
        ) from error


def _info_of(url: str, response: Any) -> RemoteInfo:
    head = response.read(8)
    whole = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or whole is None:
        raise RecordingError(
            url,
            "the server does not answer byte ranges, so the file would have to be fetched "
            "whole. Download it and give its path.",
        )
    if head != HDF5_SIGNATURE:
        raise RecordingError(
            url,
            f"it is not an HDF5 file: it begins with {head!r}. Give the address of the file "
            "itself, not of a page about it.",
        )
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return RemoteInfo(int(whole[1]), version)


def _status_problem(code: int, reason: str) -> str:
    if code in {404, 410}:
        return f"the server has no such file ({code} {reason}). Check the address."
    if code in {401, 403}:
        return f"the server refuses it ({code} {reason}). Is the address signed, or expired?"
    if code == 416:
        return "the file is empty. Check the address."
    return f"the server answered {code} {reason}. Try again later, or download the file."
