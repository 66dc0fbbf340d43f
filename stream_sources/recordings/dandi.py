"""Assets of a DANDI archive, found through its REST API (https://api.dandiarchive.org/swagger).

``dandi:000021/sub-699733573/sub-699733573_ses-715093703.nwb`` is the newest published version of a
dandiset, or its draft where none is published; ``dandi:000021@0.220126.1855/...`` and
``dandi:000021@draft/...`` name one. ``DANDI_API_KEY`` opens embargoed dandisets; ``DANDI_API_URL``
is another archive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import InvalidURL
from typing import Any
from urllib.parse import quote

from contracts.errors import RecordingError, listed
from stream_sources.recordings.remote_file import (
    EXPIRED,
    RANGE_TIMEOUT_S,
    is_url,
    reach_problem,
    status_problem,
)

SCHEME = "dandi:"

API_URL = "https://api.dandiarchive.org/api"

ASSET = re.compile(r"dandi:(?P<dandiset>\d{6})(@(?P<version>[\w.]+))?/(?P<path>.+)", re.IGNORECASE)

MAX_NAMED = 5
"""Other assets that are named where there is none of the path."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})


def is_dandi(path: str) -> bool:
    """Return whether a recording is in a DANDI archive."""
    return path.casefold().startswith(SCHEME)


class DandiAsset:
    """A file or a Zarr of a dandiset; a `stream_sources.recordings.remote_file.RemoteAddress`.

    The address of a file is signed for an hour or so; it is fetched when it is needed first, and
    anew when the server no longer takes it. That of a Zarr is not signed.

    Attributes
    ----------
    zarr_checksum : str
        The archive's checksum of a Zarr; empty for a file.

    Raises
    ------
    RecordingError
        If there is no such file, or the archive does not let it be seen, or does not say where it
        is.
    """

    def __init__(self, name: str) -> None:
        parts = ASSET.fullmatch(name)
        if parts is None:
            raise RecordingError(
                name,
                "a file of the DANDI archive is dandi:DANDISET/PATH or "
                "dandi:DANDISET@VERSION/PATH, with six digits and the path that the archive shows",
            )
        self.name = name
        self._api = os.environ.get("DANDI_API_URL", API_URL).rstrip("/")
        dandiset, path = parts["dandiset"], parts["path"].strip("/")
        version = parts["version"] or self._newest_version(dandiset)
        found = self._find(f"dandisets/{dandiset}/versions/{version}/assets/", path)
        self._asset_id, self.is_zarr = found
        self.key = f"{self._api}/assets/{self._asset_id}"
        self._url, self.zarr_checksum = self._zarr_place() if self.is_zarr else ("", "")

    def url(self) -> str:
        """Return the signed address."""
        return self._url or self.renewed_url()

    def renewed_url(self) -> str:
        """Return an address that is signed anew.

        Raises
        ------
        RecordingError
            If the archive gives none.
        """
        response = self._ask(f"assets/{self._asset_id}/download/")
        address = response.headers.get("Location", "")
        if response.status_code not in REDIRECTS or not address:
            raise RecordingError(self.name, "the archive does not say where the file is")
        self._url = str(address)
        return self._url

    def _newest_version(self, dandiset: str) -> str:
        answer = self._json(f"dandisets/{dandiset}/")
        with self._as_dandi():
            published = answer.get("most_recent_published_version")
            return str(published["version"]) if published else "draft"

    def _zarr_place(self) -> tuple[str, str]:
        """Return the address below which the keys of a Zarr are, and its checksum.

        Raises
        ------
        RecordingError
            If the archive gives none.
        """
        answer = self._json(f"assets/{self._asset_id}/")
        with self._as_dandi():
            urls = [str(url) for url in answer["contentUrl"]]
            checksum = str(answer["digest"]["dandi:dandi-zarr-checksum"])
        # The other one is of the archive's API, which does not hand out a Zarr as one file.
        url = next((url for url in urls if is_url(url) and not url.startswith(self._api)), "")
        if not url:
            raise RecordingError(self.name, "the archive does not say where the Zarr is")
        return url, checksum

    def _find(self, assets: str, path: str) -> tuple[str, bool]:
        """Return the id of the asset with exactly this path, and whether it is a Zarr.

        Raises
        ------
        RecordingError
            If there is none.
        """
        # The archive finds all paths that begin like this one; the shortest sorts first.
        query = f"?path={quote(path)}&order=path&page_size={MAX_NAMED + 1}"
        answer = self._json(assets + query)
        with self._as_dandi():
            ids = {str(one["path"]): str(one["asset_id"]) for one in answer["results"]}
            zarrs = {str(one["path"]) for one in answer["results"] if one.get("zarr")}
        if path not in ids:
            others = listed(list(ids)) or "none that begins so"
            raise RecordingError(self.name, f"the dandiset has no such file; it has {others}")
        return ids[path], path in zarrs

    def _json(self, path: str) -> Any:
        response = self._ask(path)
        with self._as_dandi():
            return response.json()

    @contextmanager
    def _as_dandi(self) -> Iterator[None]:
        """Report an answer that is no JSON, or lacks what the archive's answers have.

        Raises
        ------
        RecordingError
            In place of what reading the answer raises.
        """
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RecordingError(self.name, f"{self._api} does not answer as DANDI does") from error

    def _ask(self, path: str) -> Any:
        """Ask the archive.

        Raises
        ------
        RecordingError
            If it cannot be reached, or answers with an error.
        """
        import httpx2

        key = os.environ.get("DANDI_API_KEY")
        # The key is for the archive alone: no redirect is followed with it.
        headers = {"Authorization": f"token {key}"} if key else {}
        try:
            response = httpx2.get(f"{self._api}/{path}", headers=headers, timeout=RANGE_TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise RecordingError(self.name, reach_problem(error)) from error
        except httpx2.InvalidURL as error:
            raise RecordingError(self.name, reach_problem(InvalidURL(str(error)))) from error
        if response.status_code in EXPIRED:
            state = "with the key in DANDI_API_KEY" if key else "without a key: set DANDI_API_KEY"
            raise RecordingError(
                self.name, f"the archive refuses it ({response.status_code}) {state}"
            )
        if response.status_code >= 400:
            problem = status_problem(response.status_code, response.reason_phrase)
            raise RecordingError(self.name, problem)
        return response
