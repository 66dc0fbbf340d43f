"""Metrics and health over a real socket on a free port."""

import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from contracts.errors import UserError
from daemon.counters import Counters
from daemon.service.health import Health
from daemon.service.http import HttpServer
from daemon.service.metrics import Gauges, make_registry


class _Clock:
    def __init__(self) -> None:
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns

    def sleep_ns(self, duration_ns: int) -> None:
        self.ns += duration_ns


@pytest.fixture
def clock():
    return _Clock()


@pytest.fixture
def health(clock):
    return Health(["streams", "narrator"], clock)


@pytest.fixture
def server(health):
    registry = make_registry(Counters(), Gauges(), lambda: health.is_ready)
    server = HttpServer("127.0.0.1", 0, registry, health)
    yield server
    server.close()


def _get(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_served(server):
    """``/metrics`` is Prometheus text."""
    status, text = _get(server, "/metrics")
    assert status == 200
    assert "neurrate_ready 0.0" in text


def test_not_ready_says_every_reason(server, health):
    """``/readyz`` is 503 with all reasons until every condition is met."""
    health.set("streams", False, "waiting for probeA")
    status, text = _get(server, "/readyz")
    assert status == 503
    assert json.loads(text)["reasons"] == [
        "streams: waiting for probeA",
        "narrator: not started yet",
    ]
    health.set("streams", True)
    health.set("narrator", True)
    status, text = _get(server, "/readyz")
    assert status == 200
    assert json.loads(text)["conditions"] == {
        "fast_loop": True,
        "streams": True,
        "narrator": True,
    }


def test_a_hanging_loop_is_not_alive(server, health, clock):
    """``/healthz`` is 503 once the fast loop has not ticked for five seconds."""
    assert _get(server, "/healthz")[0] == 200
    clock.sleep_ns(5_000_000_000)
    status, text = _get(server, "/healthz")
    assert status == 503
    assert "has not ticked for 5.0 s" in text
    health.tick()
    assert _get(server, "/healthz")[0] == 200


def test_other_pages_and_methods_are_refused(server):
    """The index lists the pages; anything else is 404, and writing is 405."""
    assert "/readyz" in _get(server, "/")[1]
    assert _get(server, "/secret")[0] == 404
    assert _get(server, "/metrics", "POST")[0] == 405
    assert _get(server, "/", "HEAD") == (200, "")


def test_a_client_that_breaks_off_leaves_the_server_up(server):
    """A connection that is closed without a request does no harm."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"\x00\xff\r\n\r\n")
    assert _get(server, "/")[0] == 200


def test_a_taken_port_is_the_users_error(server, health):
    """The error names the address and what to do."""
    with pytest.raises(UserError) as caught:
        HttpServer("127.0.0.1", server.port, make_registry(Counters(), Gauges(), bool), health)
    assert str(caught.value) == (
        f"Cannot bind http 127.0.0.1:{server.port}: address already in use. "
        "Set http.port or stop the other process."
    )


def test_close_frees_the_port_and_the_thread(health):
    """After `close`, which may be called twice, nothing is left."""
    server = HttpServer("127.0.0.1", 0, make_registry(Counters(), Gauges(), bool), health)
    server.close()
    server.close()
    assert "http" not in {thread.name for thread in threading.enumerate()}
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))
