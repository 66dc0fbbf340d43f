"""A loopback HTTP server of one folder, with byte ranges that can be switched off, and faults.

It may want a signature in the query, which expires; and be a DANDI archive of that folder, whose
API (https://api.dandiarchive.org/swagger) hands out the signatures.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote


class RangeServer(ThreadingHTTPServer):
    """Serves the files of a folder and counts its requests."""

    daemon_threads = False

    def __init__(self, folder: Path, *, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = ranges
        self.failing = 0
        """Status of every answer; 0 for none."""
        self.n_sound = 1_000_000
        """Requests that are answered in full; the next ones get half of what they asked for."""
        self.n_sound_ranges = 1_000_000
        self.fault = ""
        """What is wrong with the answers after these: ``range``, another one, or ``version``."""
        self.n_allowed = 1_000_000
        """Requests that are answered at all; the next ones are refused."""
        self.n_requests = 0
        self.names: list[str] = []
        """Paths that were asked for, outside of the archive's API."""
        self.signature_lasts: int | None = None
        """Requests for which a signature is taken; None if none is wanted."""
        self.n_signatures = 0
        self.n_refused = 0
        self.n_used = 0
        """Requests with the newest signature."""
        self.drops: set[int] = set()
        """Numbers of requests whose connection is closed without an answer."""
        self.latency_s = 0.0
        self.key = ""
        """What the archive wants to see; empty for an open one."""
        self.dandisets: dict[str, dict[str, str | None]] = {}
        """Of the archive: versions of each, and the Zarr of each path or None.

        The keys of a Zarr are in the folder ``zarr/ID/``, without a signature."""
        self.zarr_checksum = "0123-4--567"
        self.answers: dict[str, Any] = {}
        """What the archive answers to the last word of a path, in place of what is right."""

    def sign(self) -> str:
        """Return a new signature; the ones before are worth nothing from now on."""
        self.n_signatures += 1
        self.n_used = 0
        return f"X-Amz-Signature={self.n_signatures:08d}"

    def takes(self, query: str) -> bool:
        """Return whether a request carries a signature that has not expired."""
        if self.signature_lasts is None:
            return True
        is_newest = query == f"X-Amz-Signature={self.n_signatures:08d}"
        self.n_used += is_newest
        is_taken = is_newest and self.n_used <= self.signature_lasts
        self.n_refused += not is_taken
        return is_taken

    def zarr_of(self, path: str) -> str | None:
        """Return the id of the Zarr that some dandiset has at a path."""
        return next((ids[path] for ids in self.dandisets.values() if ids.get(path)), None)

    def url(self, name: str) -> str:
        """Return the address of a file."""
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer
    timeout = 5

    def do_GET(self) -> None:
        server = self.server
        server.n_requests += 1
        time.sleep(server.latency_s)
        if server.n_requests in server.drops:
            self.close_connection = True
            return
        if self.path.startswith("/api/"):
            self._answer_api(*self.path.removeprefix("/api/").split("?", 1))
            return
        name, _, query = self.path.partition("?")
        server.names.append(name)
        if not name.startswith("/zarr/") and not server.takes(query):
            self.send_error(403)
            return
        path = server.folder / unquote(name.lstrip("/"))
        if self.server.n_requests > self.server.n_allowed:
            self.send_error(403)
            return
        if self.server.failing or not path.is_file():
            self.send_error(self.server.failing or 404)
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or not self.server.ranges:
            self._answer(200, data, {})
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        fault = self.server.fault if self.server.n_requests > self.server.n_sound_ranges else ""
        if fault == "range":
            first, last = 0, last - first
        headers = {
            "Content-Range": f"bytes {first}-{last}/{len(data)}",
            "ETag": f'"{hashlib.sha256(data).hexdigest()[:16]}{fault}"',
        }
        self._answer(206, data[first : last + 1], headers)

    def _answer_api(self, path: str, query: str = "") -> None:
        """Answer as the archive does; an asset's id is its path, spelled in hex."""
        server = self.server
        if server.key and self.headers.get("Authorization") != f"token {server.key}":
            self.send_error(401)
            return
        match path.strip("/").split("/"):
            case [*_, last] if last in server.answers:
                self._answer_json(server.answers[last], 302 if last == "download" else 200)
            case ["assets", asset_id, "download"]:
                name = bytes.fromhex(asset_id).decode()
                self.send_response(302)
                self.send_header("Location", f"{server.url(name)}?{server.sign()}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case ["assets", asset_id] if zarr := server.zarr_of(bytes.fromhex(asset_id).decode()):
                urls = [server.url(f"api/assets/{asset_id}/download/"), server.url(f"zarr/{zarr}/")]
                digest = {"dandi:dandi-zarr-checksum": server.zarr_checksum}
                self._answer_json({"contentUrl": urls, "digest": digest})
            case ["dandisets", dandiset] if f"{dandiset}@draft" in server.dandisets:
                named = [name.partition("@") for name in server.dandisets]
                published = [v for d, _, v in named if d == dandiset and v != "draft"]
                newest = {"version": max(published)} if published else None
                self._answer_json({"most_recent_published_version": newest})
            case ["dandisets", dandiset, "versions", version, "assets"] if (
                assets := server.dandisets.get(f"{dandiset}@{version}")
            ):
                prefix = parse_qs(query)["path"][0]
                found = [
                    {"asset_id": name.encode().hex(), "path": name, "zarr": zarr}
                    for name, zarr in sorted(assets.items())
                    if name.startswith(prefix)
                ]
                self._answer_json({"count": len(found), "results": found})
            case _:
                self.send_error(404)

    def _answer_json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _cut(self, body: bytes) -> bytes:
        return body if self.server.n_requests <= self.server.n_sound else body[: len(body) // 2]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            sent = self._cut(body)
            self.wfile.write(sent)
            self.close_connection = self.close_connection or len(sent) < len(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client wanted the beginning only


@contextmanager
def range_server(folder: Path, *, ranges: bool = True) -> Iterator[RangeServer]:
    """Serve a folder for the length of a block."""
    with RangeServer(folder, ranges=ranges) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
