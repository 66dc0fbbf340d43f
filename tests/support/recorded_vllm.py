"""A loopback server that repeats what a real vLLM server said, and fails where a test wants it.

``tests/data/vllm/recorded.json`` has the answers, from `tests.support.record_vllm`.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "vllm" / "recorded.json").read_text(encoding="utf-8")
)

WORDS = [
    json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
    for line in RECORDED["sentence"]["body"].splitlines()
    if line.startswith("data: {") and json.loads(line.removeprefix("data: "))["choices"]
]
SENTENCE = "".join(WORDS).strip()
"""What the server says when all is well."""


@dataclass(frozen=True, slots=True)
class Act:
    """How the server behaves for one sentence.

    Attributes
    ----------
    answer : str
        Name of a recorded answer.
    n_events : int or None
        Events after which the connection is cut; None for none.
    status : int
        Instead of the answer's, with a message of our own; 0 for the answer's.
    headers : dict
    gate : Event or None
        Waited for after `n_events`, instead of the cut.
    last : str
        Replaces the end of the answer after `n_events`.
    """

    answer: str = "sentence"
    n_events: int | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    last: str = ""


class RecordedVllm(ThreadingHTTPServer):
    """Answers as the acts say, one for each sentence, and well when there are no more.

    Attributes
    ----------
    acts : deque of Act
        Of the sentences to come; a preflight takes none.
    preflight : str
        Name of the answer to a preflight.
    models : str
        Name of the answer to what is served.
    health : int
        Status of ``/health``.
    drips : str
        A path whose answers come letter by letter and have no end.
    requests : list of (str, str, dict)
        Path, authorization and body of each.
    connections : list of socket
        All that there ever were.
    """

    daemon_threads = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _RecordedHandler)
        self.acts: deque[Act] = deque()
        self.preflight = "preflight"
        self.models = "models"
        self.health = 200
        self.drips = ""
        self.has_ended = threading.Event()
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def n_sentences(self) -> int:
        """Sentences asked for, preflights not counted."""
        return sum(
            path.endswith("completions") and "return_token_ids" not in body
            for path, _, body in self.requests
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""


class _RecordedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RecordedVllm
    timeout = 120

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:
        self._remember({})
        if self.path == self.server.drips:
            self._drip()
        elif self.path == "/health":
            self._whole(self.server.health, "", "text/plain")
        else:
            self._recorded(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._remember(body)
        if self.path == self.server.drips:
            self._drip()
            return
        if "return_token_ids" in body:
            self._recorded(self.server.preflight)
            return
        act = self.server.acts.popleft() if self.server.acts else Act()
        if act.status:
            message = json.dumps({"error": {"message": f"status {act.status}, as asked"}})
            self._whole(act.status, message, "application/json", act.headers)
        elif act.n_events is None:
            self._recorded(act.answer)
        else:
            self._part(act)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _remember(self, body: dict[str, Any]) -> None:
        self.server.requests.append((self.path, self.headers.get("Authorization", ""), body))

    def _recorded(self, name: str) -> None:
        answer = RECORDED[name]
        self._whole(answer["status"], answer["body"], answer["content_type"])

    def _whole(
        self, status: int, body: str, content_type: str, headers: dict[str, str] | None = None
    ) -> None:
        data = body.encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(500):
            self.wfile.write(b":\n")
            if self.server.has_ended.wait(0.02):
                break

    def _part(self, act: Act) -> None:
        """Send the first events; then wait, or cut the line, or end in another way."""
        answer = RECORDED[act.answer]
        events = [f"{event}\n\n" for event in answer["body"].strip().split("\n\n")]
        self.send_response(answer["status"])
        self.send_header("Content-Type", answer["content_type"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events[: act.n_events]:
            self._chunk(event)
        if act.last:
            self._chunk(act.last)
        elif act.gate is None:
            self.close_connection = True
            return
        else:
            act.gate.wait(20)
            for event in events[act.n_events :]:
                self._chunk(event)
        self._chunk("")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


@contextmanager
def recorded_vllm(port: int = 0) -> Iterator[RecordedVllm]:
    """Run a server until the end of the block."""
    server = RecordedVllm(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        for act in server.acts:
            if act.gate:
                act.gate.set()
        server.has_ended.set()
        server.shutdown()
        for connection in server.connections:  # as those of a process that dies
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()
        thread.join()
