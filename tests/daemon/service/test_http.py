"""Metrics and health over a real socket on a free port."""

import contextlib
import gzip
import itertools
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from contracts.errors import UserError
from contracts.secret_file import load_token
from daemon.counters import Counters
from daemon.service import http
from daemon.service.health import Health
from daemon.service.http import MAX_CONNECTIONS, HttpServer
from daemon.service.metrics import Gauges, make_registry
from tests.support.wait_until import wait_until


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


TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer {TOKEN}x", "B\u00e9"]
)
def test_request_without_the_token_is_refused(given, health, caplog):
    """401 on every page, counted, logged with who asked and not with what was given."""
    registry = make_registry(Counters(), Gauges(), lambda: health.is_ready)
    server = HttpServer("127.0.0.1", 0, registry, health, token=TOKEN)
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    try:
        for number, path in enumerate(("/metrics", "/readyz", "/nothing")):
            url = f"http://127.0.0.1:{server.port}{path}"
            request = urllib.request.Request(url, headers=headers)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=5)
            with caught.value as error:
                assert error.code == 401
                assert error.headers["WWW-Authenticate"] == "Bearer"
            assert server.n_refused == number + 1
    finally:
        server.close()
    lines = [one for one in caplog.records if one.getMessage() == "http request refused"]
    assert len(lines) == 1
    assert lines[0].__dict__["peer"] == "127.0.0.1"


def test_request_with_the_token_is_answered(health):
    """As Prometheus sends it."""
    registry = make_registry(Counters(), Gauges(), lambda: health.is_ready)
    server = HttpServer("127.0.0.1", 0, registry, health, token=TOKEN)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
        assert server.n_refused == 0
    finally:
        server.close()


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (TOKEN, 0o644, r"mode 0644.*Run: chmod 600"),
        ("short", 0o600, "16 to 1024"),
        (f"{TOKEN} {TOKEN}", 0o600, "16 to 1024"),
        ("\u00e9" * 20, 0o600, "16 to 1024"),
        (None, 0o600, "There is no token"),
    ],
)
def test_file_without_a_token_is_refused(content, mode, problem, tmp_path):
    """With what to do."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content, encoding="utf-8")
        path.chmod(mode)
    with pytest.raises(UserError, match=problem):
        load_token(path, setting="http.token_file")


def test_token_of_a_file_is_its_line(tmp_path):
    """Without the end of the line."""
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    assert load_token(path, setting="http.token_file") == TOKEN


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


def _ask(server: HttpServer, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(request)
        answer = b""
        while received := client.recv(65536):
            answer += received
    return answer


@pytest.fixture
def connect(server):
    """Open connections that last as long as the test."""
    with ExitStack() as opened:

        def connect() -> socket.socket:
            client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            return opened.enter_context(client)

        yield connect


def test_peers_that_send_nothing_delay_nobody(server, connect):
    """Hundreds of idle connections: the next request is answered, and the oldest are closed."""
    idle = [connect() for _ in range(3 * MAX_CONNECTIONS)]
    before = time.monotonic()
    for _ in range(10):
        assert _get(server, "/healthz")[0] == 200
    assert time.monotonic() - before < 2
    with contextlib.suppress(ConnectionResetError):
        assert idle[0].recv(1) == b""


def test_a_request_that_drips_has_one_deadline(server, connect, monkeypatch):
    """A byte at a time keeps a connection no longer than no byte, and nobody waits for it."""
    monkeypatch.setattr(http, "REQUEST_DEADLINE_S", 0.5)
    dripping = connect()
    before = time.monotonic()
    with contextlib.suppress(OSError):  # reset, when a byte arrives after the end
        dripping.settimeout(0.05)
        for byte in itertools.cycle(b"GET /metrics HTTP/1.1\r\nX: a"):
            dripping.send(bytes([byte]))
            assert _get(server, "/healthz")[0] == 200
            with contextlib.suppress(TimeoutError):
                assert dripping.recv(1) == b""
                break
    assert 0.4 < time.monotonic() - before < 3


def test_an_answer_that_nobody_reads_has_the_same_deadline(server, health, connect, monkeypatch):
    """A client that asks and does not read is cut off, whatever the size of the answer."""
    monkeypatch.setattr(http, "REQUEST_DEADLINE_S", 0.5)
    health.set("streams", False, "x" * 10_000_000)  # more than the sockets' buffers hold
    client = connect()
    client.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
    wait_until(lambda: server._connections, what="the connection")
    wait_until(lambda: not server._connections, deadline_s=3, what="the connection cut off")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\n\n", 200),
        (b"GET http://some.proxy/healthz?x=1 HTTP/1.1\r\nHost: some.proxy\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\n\r\n" * 3, 200),
        (b"GET /%68ealthz HTTP/1.1\r\n\r\n", 200),
        (b"GET //[ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9999999\r\n\r\nx", 405),
        (b"CONNECT other:443 HTTP/1.1\r\n\r\n", 405),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 505),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (
            b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=a.b.c\r\n\r\n",
            500,
        ),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 100_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 10_000, 431),
    ],
)
def test_every_request_has_one_answer(server, request_bytes, status):
    """Pipelined, of another version, too long or no HTTP at all: one status, then the end."""
    answer = _ask(server, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"HTTP/1.1") == 1


def test_head_of_the_metrics_is_their_length(server):
    """HEAD is answered as GET is, without the body."""
    answer = _ask(server, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0" not in answer


def test_metrics_are_compressed_on_request(server):
    """The headers of a scraper reach the metrics, whatever their case."""
    answer = _ask(server, b"GET /metrics HTTP/1.1\r\naccept-encoding: gzip\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert b"neurrate_ready 0.0" in gzip.decompress(body)


def test_close_does_not_wait_for_peers(server, connect):
    """Connections that are open, dripping or half sent are broken off at once."""
    for half in (b"", b"G", b"GET / HTTP/1.1\r\n"):
        connect().sendall(half)
    wait_until(lambda: len(server._connections) == 3, what="three connections")
    before = time.monotonic()
    server.close()
    assert time.monotonic() - before < 1


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
