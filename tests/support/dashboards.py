"""A dashboard's server beside a publisher that a test feeds, and a browser's requests."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from daemon.publisher import Publisher
from subscribers.dashboard.server import DashboardOptions, DashboardServer
from tests.support.daemon_components import Context
from tests.support.wait_until import wait_until

N_TOPICS = 9
"""Subscriptions that a dashboard makes."""

DEADLINE_S = 60.0


class FedDashboard:
    """A server, and the publisher that it listens to."""

    def __init__(self, publisher: Publisher, server: DashboardServer) -> None:
        self.publisher = publisher
        self.server = server

    def publish(self, *messages: list[bytes]) -> None:
        """Publish, and wait until the server has taken all of it."""
        wanted = self.server.state.n_received + len(messages)
        for parts in messages:
            self.publisher.publish(parts)
        wait_until(lambda: self.server.state.n_received >= wanted)

    def get(
        self, path: str, *, method: str = "GET", headers: Mapping[str, str] = {}
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    @contextmanager
    def events(self, *, seen: str = "") -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """Yield an iterator over id and content of server-sent events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE_S)
        try:
            headers = {"Last-Event-ID": seen} if seen else {}
            connection.request("GET", "/events", headers=headers)
            yield _events(connection.getresponse())
        finally:
            connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    number, data = "", ""
    while line := answer.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name == "id":
            number = value
        elif name == "data":
            data = value
        elif not line.strip() and data:
            yield number, json.loads(data)
            number, data = "", ""


@contextmanager
def fed_dashboard(
    context: Context, *, publish: str = "tcp://127.0.0.1:*", **options: Any
) -> Iterator[FedDashboard]:
    """Yield a dashboard that is subscribed to everything."""
    publisher = Publisher(context, publish, queue_messages=100_000)
    try:
        made = DashboardOptions(publisher.address, port=0, **options)
        with DashboardServer(made, kinds_of=lambda text: set(text.lower().split())) as server:
            subscribe(publisher)
            yield FedDashboard(publisher, server)
    finally:
        publisher.close()


def subscribe(publisher: Publisher) -> None:
    """Wait until a publisher sends everything that a dashboard asks for."""
    publisher.socket.set(zmq.RCVTIMEO, round(DEADLINE_S * 1000))
    for _ in range(N_TOPICS):
        assert publisher.socket.poll(round(DEADLINE_S * 1000))
        publisher.socket.recv()


def token_file(folder: Path, token: str = "t" * 40, mode: int = 0o600) -> Path:
    """Write a token to a file."""
    path = folder / "token"
    path.write_text(token, encoding="ascii")
    path.chmod(mode)
    return path
