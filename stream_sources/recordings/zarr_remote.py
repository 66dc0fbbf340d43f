"""A Zarr behind http(s): one request for its consolidated metadata, one for each chunk.

Keys below a URL cannot be listed, so ``.zmetadata`` must be there, which hdmf-zarr writes. The
first request is made once, so that a wrong address is reported at once; the others are repeated as
remfile repeats its own.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import InvalidURL
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from contracts.errors import RecordingError
from stream_sources.recordings.remote_file import (
    RANGE_TIMEOUT_S,
    RemoteAddress,
    reach_problem,
    status_problem,
)
from stream_sources.recordings.zarr_store import (
    MAX_CHUNK_BYTES,
    MAX_DOCUMENT_BYTES,
    VERSION_3,
    ZarrStore,
    is_name,
    parsed,
    version_3_error,
)

if TYPE_CHECKING:
    import httpx2

METADATA = ".zmetadata"

MISSING = frozenset({404, 410})

N_RETRIES = 8
FIRST_RETRY_S = 0.1
"""remfile's: each wait is twice the one before, 25 s in all."""

N_CONNECTIONS = 8
"""Chunks that are fetched at once."""

ENDINGS = (".zarr", "/")
"""Of addresses that are read as Zarr: what the archive calls them, or a folder."""


class RemoteZarr(ZarrStore):
    """A Zarr below an address.

    Parameters
    ----------
    version : str
        Of the chunks, if somebody knows it, such as the archive's checksum.

    Raises
    ------
    RecordingError
        If the server cannot be reached or has no consolidated metadata there.
    """

    def __init__(self, address: RemoteAddress, version: str = "") -> None:
        self.name, self.key = address.name, address.key
        base, _, query = address.url().partition("?")
        self._base, self._query = base.rstrip("/"), f"?{query}" if query else ""
        with _client() as client:
            data, date = self._fetched(client, METADATA, MAX_DOCUMENT_BYTES)
            if data is None:
                raise self._unconsolidated(client)
        self._version = hashlib.sha256(data + date.encode() + version.encode()).hexdigest()
        documents = parsed(data, self.name, METADATA).get("metadata")
        if not isinstance(documents, dict):
            raise RecordingError(self.name, f"{METADATA} must list the metadata of all arrays")
        self._documents = documents

    def document(self, key: str) -> dict[str, Any] | None:
        """Return a document of the consolidated ones."""
        value = self._documents.get(key)
        return value if isinstance(value, dict) else None

    def names(self, path: str) -> list[str]:
        """Return the names below a path that documents have."""
        prefix = f"{path}/" if path else ""
        below = {
            key.removeprefix(prefix).partition("/")[0]
            for key in self._documents
            if key.startswith(prefix)
        }
        return sorted(filter(is_name, below))

    def read(self, keys: Iterable[str]) -> Generator[bytes | None]:
        """Fetch several chunks at once; they are yielded in order, and few are kept in memory."""
        with _client() as client, ThreadPoolExecutor(N_CONNECTIONS) as pool:
            pending: deque[Future[bytes | None]] = deque()
            is_over = Event()
            try:
                for key in keys:
                    pending.append(pool.submit(self._chunk, client, key, is_over))
                    if len(pending) == N_CONNECTIONS:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                is_over.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def version(self, arrays: Sequence[str]) -> str:
        """Return a hash of the metadata, of their date and of what the archive says."""
        return self._version

    def _chunk(self, client: httpx2.Client, key: str, is_over: Event) -> bytes | None:
        """Fetch a chunk, with retries; what a server refuses for good is not asked for again.

        Raises
        ------
        RecordingError
            If it cannot be had.
        """
        for attempt in range(N_RETRIES):
            try:
                return self._fetched(client, key, MAX_CHUNK_BYTES)[0]
            except _TransientError:
                if is_over.wait(FIRST_RETRY_S * 2**attempt):
                    break
        return self._fetched(client, key, MAX_CHUNK_BYTES)[0]

    def _fetched(self, client: httpx2.Client, key: str, limit: int) -> tuple[bytes | None, str]:
        """Return what a key holds, None for nothing, and its version.

        Raises
        ------
        _TransientError
            If another attempt may have more success.
        RecordingError
            If not.
        """
        import httpx2

        url = f"{self._base}/{quote(key)}{self._query}"
        parts = bytearray()
        try:
            with client.stream("GET", url) as response:
                code = response.status_code
                if code in MISSING:
                    return None, ""
                if code != 200:
                    kind = _TransientError if code == 429 or code >= 500 else RecordingError
                    raise kind(self.name, status_problem(code, response.reason_phrase))
                for part in response.iter_bytes():
                    parts += part
                    if len(parts) > limit:
                        raise RecordingError(self.name, f"{key} has more than {limit:,} bytes")
                headers = response.headers
        except httpx2.InvalidURL as error:
            raise RecordingError(self.name, reach_problem(InvalidURL(str(error)))) from error
        except httpx2.HTTPError as error:
            raise _TransientError(self.name, reach_problem(error)) from error
        return bytes(parts), headers.get("ETag") or headers.get("Last-Modified") or ""

    def _unconsolidated(self, client: httpx2.Client) -> RecordingError:
        if self._fetched(client, VERSION_3, MAX_DOCUMENT_BYTES)[0] is not None:
            return version_3_error(self.name)
        if self._fetched(client, ".zgroup", MAX_DOCUMENT_BYTES)[0] is None:
            return RecordingError(self.name, "the server has no Zarr there. Check the address.")
        return RecordingError(
            self.name,
            f"the Zarr has no {METADATA}, without which its keys are not known. Write it with "
            "zarr.consolidate_metadata where the Zarr is, or download the folder.",
        )


class _TransientError(RecordingError):
    """A request that may succeed another time."""


def is_zarr_url(url: str) -> bool:
    """Return whether an address is read as Zarr: its path ends with ``.zarr`` or a slash."""
    return url.partition("?")[0].casefold().endswith(ENDINGS)


def _client() -> httpx2.Client:
    import httpx2

    return httpx2.Client(timeout=RANGE_TIMEOUT_S, follow_redirects=True)
