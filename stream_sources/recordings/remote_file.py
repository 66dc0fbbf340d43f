"""An HDF5 file behind http(s), read by byte ranges and kept in a cache on disk.

The first request asks for eight bytes, so that a wrong address, server or file is reported at once;
remfile, which reads the rest, would try for 25 s. An address may be signed and expire: what is kept
belongs to the file, not to its signature, and an address that can be signed anew is.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from contracts.atomic_files import partial_name
from contracts.errors import RecordingError
from contracts.garbage import collector_paused

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RANGE_TIMEOUT_S = 10.0
"""Longest wait for an answer of the server."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first eight bytes of an HDF5 file (HDF5 file format specification, superblock)."""

MEMORY_CACHE_BYTES = 64e6
"""What remfile keeps in memory; its own default is 1 GB. The rest is on disk."""

CONTENT_RANGE = re.compile(r"bytes 0-\d/(\d+)")
"""Of the first request: eight bytes, or fewer of a file that has no more."""


EXPIRED = frozenset({401, 403})
"""What servers answer to a signature that has expired."""


class RemoteAddress(Protocol):
    """Where a file is.

    Attributes
    ----------
    name : str
        For people.
    key : str
        Names the file in the cache, whatever its signature.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - described above
    @property
    def key(self) -> str: ...  # noqa: D102 - described above

    def url(self) -> str:
        """Return where it is now."""
        ...

    def renewed_url(self) -> str | None:
        """Return an address that was signed anew; None if this one cannot be."""
        ...


class PlainAddress:
    """An address that a person gave."""

    def __init__(self, url: str) -> None:
        self._url = url
        path, _, query = url.partition("?")
        is_signed = any(mark in query.casefold() for mark in SIGNATURES)
        self.key = path if is_signed else url
        self.name = f"{path}?..." if is_signed else url  # a signature is a password

    def url(self) -> str:
        """Return it."""
        return self._url

    def renewed_url(self) -> None:
        """Return None: who signed it is not known."""


SIGNATURES = ("signature=", "sig=")
"""What the query of a signed address holds: S3 and Google (``X-...-Signature``), Azure."""


class RemoteInfo(NamedTuple):
    """Size and version of a file, as the server reports them."""

    n_bytes: int
    version: str
    """Its ETag or date, so that a file that was replaced is not read from the cache."""


class ChunkCache:
    """remfile's disk cache: one file for each chunk.

    remfile's own implementation returns chunks that were written in part.

    Raises
    ------
    RecordingError
        If the folder cannot be read or written, at creation or in any call.
    """

    def __init__(self, folder: Path, name: str, n_bytes: int) -> None:
        self.folder, self._name, self._n_bytes = folder, name, n_bytes
        with self._problems():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass

    def get(self, key: str) -> bytes | None:
        """Return a chunk, None if it is missing or incomplete."""
        path = self._path(key)
        with self._problems():
            data = path.read_bytes() if path.exists() else None
        return data if data is not None and len(data) == self._length(key) else None

    def set(self, key: str, value: bytes) -> None:
        """Store a chunk."""
        with self._problems():  # no fsync: `get` ignores what is too short
            partial = partial_name(self._path(key))
            partial.write_bytes(value)
            partial.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def _length(self, key: str) -> int:
        """Return the length of a chunk; remfile's keys end with chunk size and chunk number."""
        size, number = map(int, key.rsplit("|", 2)[1:])
        return min(size, self._n_bytes - size * number)

    @contextmanager
    def _problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RecordingError(self._name, cache_problem(self.folder, error)) from error


class RemoteFile(io.RawIOBase):
    """A remote file for h5py, cached below `cache_dir`.

    Attributes
    ----------
    failure : RecordingError or None
        Of the first read that failed. HDF5 may report it as another error or as a missing object,
        so nothing that was read may be used then.

    Raises
    ------
    RecordingError
        If there is no such file, or it cannot be read by ranges, or is not HDF5, or the cache
        cannot be written.
    """

    def __init__(self, address: RemoteAddress, cache_dir: Path) -> None:
        import remfile  # brings requests

        super().__init__()
        info = check_ranges(address)
        version = hashlib.sha256(f"{address.key}|{info.n_bytes}|{info.version}".encode())
        self.name = address.name
        self.failure: RecordingError | None = None
        self.cache = cache_dir / "remote" / version.hexdigest()[:16]
        self._remote = remfile.File(
            address.key,  # of the chunks in the cache; where they are is decided at each request
            disk_cache=ChunkCache(self.cache, address.name, info.n_bytes),
            _max_cache_size=MEMORY_CACHE_BYTES,
            _size=info.n_bytes,
        )
        session = self._remote.session
        session.request = partial(_request_range, session.request, info, address)
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
            If the server fails, after remfile's own retries, or the cache; see `failure`.
        """
        view = memoryview(buffer).cast("B")
        n_bytes = min(len(view), self.n_bytes - self.tell())
        if n_bytes <= 0:
            return 0
        try:
            # h5py holds its lock while it waits for a read. A thread of remfile that came to free
            # an object of h5py would wait for that lock, and the read for the thread.
            with collector_paused():
                view[:n_bytes] = self._remote.read(n_bytes)
        except Exception as error:  # remfile raises Exception itself
            self.failure = self.failure or _read_failure(self.name, error)
            raise OSError(str(self.failure)) from error
        return n_bytes

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._remote.session.close()
        super().close()


def is_url(path: str) -> bool:
    """Return whether a recording is behind http(s)."""
    return path.casefold().startswith(("http://", "https://"))


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/neurrate``, by default ``~/.cache/neurrate``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "neurrate"


def check_ranges(address: RemoteAddress) -> RemoteInfo:
    """Ask a server for the first eight bytes of a file.

    Raises
    ------
    RecordingError
        If the server or the file cannot be used, with the reason and the remedy.
    """
    name = address.name
    try:
        request = Request(quoted(address.url()), headers={"Range": "bytes=0-7"})
        with urlopen(request, timeout=RANGE_TIMEOUT_S) as response:
            return _info_of(name, response)
    except HTTPError as error:
        error.close()
        raise RecordingError(name, status_problem(error.code, error.reason)) from error
    except (URLError, TimeoutError, HTTPException, OSError, ValueError) as error:
        raise RecordingError(name, reach_problem(error)) from error


def _request_range(
    request: Callable[..., Any],
    info: RemoteInfo,
    address: RemoteAddress,
    method: str,
    _: str,
    **options: Any,
) -> Any:
    """Request a range in place of remfile, and check that the answer is that range of that file.

    Raises
    ------
    OSError
        If it is another range, or the file was replaced since the first request.
    """
    response = request(method, address.url(), **options, timeout=RANGE_TIMEOUT_S)
    if response.status_code in EXPIRED and (url := address.renewed_url()):
        response = request(method, url, **options, timeout=RANGE_TIMEOUT_S)
    wanted = options["headers"]["Range"].replace("=", " ")
    found = response.headers.get("Content-Range", "")
    if response.status_code == 206 and found != f"{wanted}/{info.n_bytes}":
        raise OSError(f"{wanted} of {info.n_bytes} were asked for, {found or 'others'} came")
    version = _version_of(response)
    if response.ok and version and info.version and version != info.version:
        raise OSError("the file was replaced while it was read")
    return response


def _read_failure(name: str, error: Exception) -> RecordingError:
    if isinstance(error, RecordingError):
        return error
    return RecordingError(
        name,
        f"the server stopped answering: {error}. The file itself may be sound; try again, what was "
        "read is kept.",
    )


def cache_problem(folder: Path, error: OSError) -> str:
    """Say that the cache cannot be written, and what to do."""
    return (
        f"what is read cannot be kept in {folder}: {error.strerror or error}. Choose another "
        "folder with --cache-dir or XDG_CACHE_HOME."
    )


def reach_problem(error: Exception) -> str:
    """Say why a server could not be asked, and what to do."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate cannot be verified: {reason.verify_message}. Check the "
            "address, the clock of this machine and SSL_CERT_FILE."
        )
    if isinstance(reason, ssl.SSLError):
        return f"the server does not speak TLS ({reason.reason}). Is it an http:// address?"
    if isinstance(reason, TimeoutError):
        return f"the server did not answer within {RANGE_TIMEOUT_S:.0f} s. Try again later."
    if isinstance(reason, HTTPException) and not isinstance(reason, InvalidURL):
        return f"the server's answer is no HTTP: {reason!r}. Check the address and the port."
    return f"cannot reach the server: {reason}. Check the address and the network."


def quoted(url: str) -> str:
    """Return an address with its path and query percent-encoded, as browsers and remfile do."""
    parts = urlsplit(url)
    path, query = (quote(text, safe="/%:@!$&'()*+,;=~?") for text in (parts.path, parts.query))
    return parts._replace(path=path, query=query).geturl()


def _info_of(name: str, response: Any) -> RemoteInfo:
    head = response.read(8)
    whole = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or whole is None:
        raise RecordingError(
            name,
            "the server does not answer byte ranges, so the file would have to be fetched "
            "whole. Download it and give its path.",
        )
    if len(head) < min(len(HDF5_SIGNATURE), int(whole[1])):
        raise RecordingError(
            name,
            f"the server's answer was cut short: 8 bytes were asked for, {len(head)} came. Try "
            "again, or download the file.",
        )
    if head != HDF5_SIGNATURE:
        raise RecordingError(
            name,
            f"it is not an HDF5 file: it begins with {head!r}. Give the address of the file "
            "itself, not of a page about it.",
        )
    return RemoteInfo(int(whole[1]), _version_of(response))


def _version_of(response: Any) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def status_problem(code: int, reason: str) -> str:
    """Say what a status of HTTP means for the user."""
    if code in {404, 410}:
        return f"the server has no such file ({code} {reason}). Check the address."
    if code in {401, 403}:
        return f"the server refuses it ({code} {reason}). Is the address signed, or expired?"
    if code == 416:
        return "the file is empty. Check the address."
    return f"the server answered {code} {reason}. Try again later, or download the file."
