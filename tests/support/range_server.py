"""A loopback HTTP server of one folder, with byte ranges that can be switched off, and faults."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


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

    def url(self, name: str) -> str:
        """Return the address of a file."""
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer
    timeout = 5

    def do_GET(self) -> None:
        self.server.n_requests += 1
        path = self.server.folder / unquote(self.path.partition("?")[0].lstrip("/"))
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
            "ETag": f'"{len(data)}{fault}"',
        }
        self._answer(206, data[first : last + 1], headers)

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
