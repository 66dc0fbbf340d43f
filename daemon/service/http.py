"""Metrics and health over HTTP, in one thread that only reads.

``/metrics`` for Prometheus, ``/healthz`` (alive?), ``/readyz`` (able to narrate, and if not, why
not), and ``/``, an index.

Peers are not trusted to be quick or polite. A connection carries one request and has a deadline
for all of it, however its bytes drip; none waits for another; where there are too many, the oldest
one that is not finished is closed, so that the newest client is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import re
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from secrets import compare_digest
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import unquote

from prometheus_client import CollectorRegistry, make_wsgi_app

from contracts.address import host_problem
from contracts.clock import HostClock
from contracts.errors import UserError
from daemon.rate_limited_log import RateLimitedLog
from daemon.service.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

REQUEST_DEADLINE_S = 5.0
"""From the connection to the last byte of the answer; then it is closed."""

MAX_CONNECTIONS = 64
"""At once. A scraper, a service manager and a few people need a handful."""

ACCEPTED_AT_ONCE = 16
"""Before the requests of those that are open are read: well below `MAX_CONNECTIONS`, so that none
is closed as the oldest before it could be answered."""

QUEUED = 1024
"""Connections that the system holds meanwhile; beyond them a client tries again after a second."""

MAX_HEAD_BYTES = 16 * 1024
"""Request line and headers; a browser sends less than 2 KiB."""

LINGER_S = 0.2
"""How long unread bytes are taken after an answer: closing over them would reset the connection
before the client has read it."""

HEAD_END = re.compile(rb"\r?\n\r?\n")
REQUEST_LINE = re.compile(r"([A-Za-z-]+) (\S+) HTTP/(\d)\.\d\r?")
HEADER = re.compile(r"([^\s:]+):[ \t]*(.*?)[ \t]*\r?")

ORIGIN = re.compile(r"^https?://[^/?]*", re.IGNORECASE)
"""What a request to a proxy has before the path."""

INDEX = (
    b"Neurrate\n\n"
    b"/metrics  counters and latencies for Prometheus\n"
    b"/healthz  200 while the process is alive\n"
    b"/readyz   200 while it can narrate; otherwise 503 and the reasons\n"
)

logger = logging.getLogger(__name__)


class HttpServer:
    """Serves from construction to `close`, on a free port if 0 was given.

    With a `token`, only requests that carry it. ``n_refused`` counts the others.

    Raises
    ------
    UserError
        If the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: Health,
        *,
        token: str | None = None,
    ) -> None:
        self.n_refused = 0
        self._refused_log = RateLimitedLog(logger, HostClock())
        self._credentials = None if token is None else f"Bearer {token}".encode("latin-1")
        self._app = make_app(registry, health)
        self._listener = _bind(host, port)
        self.port: int = self._listener.getsockname()[1]
        # The oldest first.
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        logger.info("http listening", extra={"host": host, "port": self.port})
        if token is None and host_problem(host):
            fields = {"setting": "http.host", "address": f"{host}:{self.port}"}
            logger.warning("insecure: other machines can read it, without a token", extra=fields)

    def close(self) -> None:
        """Stop serving, break off what is under way, and join the thread."""
        with contextlib.suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._accept, sock=self._listener, limit=MAX_HEAD_BYTES, backlog=ACCEPTED_AT_ONCE
        )
        self._listener.listen(QUEUED)  # asyncio has one number for both
        await self._stopped.wait()
        server.close()
        under_way = dict(self._connections)
        for writer in under_way:
            self._break_off(writer)
        await asyncio.gather(*under_way.values(), return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopped.is_set():
            writer.transport.abort()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._break_off(next(iter(self._connections)))
        self._connections[writer] = self._loop.create_task(self._serve_one(reader, writer))

    def _break_off(self, writer: asyncio.StreamWriter) -> None:
        self._connections.pop(writer).cancel()
        writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                await self._answer(reader, writer)
        except (OSError, TimeoutError):
            pass  # the client has gone, or is too slow
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # so that `drain` waits for the kernel
        head = await _read_head(reader)
        peer = writer.get_extra_info("peername")
        writer.write(self._respond(head, peer[0] if peer else ""))
        writer.write_eof()
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await reader.read(MAX_HEAD_BYTES):
                    pass

    def _respond(self, head: bytes, peer: str) -> bytes:
        """Return the whole response to the head of a request; a page takes milliseconds."""
        request = _parse(head)
        if isinstance(request, HTTPStatus):
            return _refuse(request)
        if self._credentials is not None:
            given = request.get("HTTP_AUTHORIZATION", "").encode("latin-1")
            if not compare_digest(given, self._credentials):
                self.n_refused += 1
                fields = {"peer": peer, "n_refused": self.n_refused}
                self._refused_log.warning("token", "http request refused", extra=fields)
                return _refuse(HTTPStatus.UNAUTHORIZED, ("WWW-Authenticate", "Bearer"))
        return _answer_of(self._app, request)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return what comes before the first empty line, or as much as is taken of it."""
    head = b""
    while not HEAD_END.search(head) and len(head) < MAX_HEAD_BYTES:
        received = await reader.read(MAX_HEAD_BYTES - len(head))
        if not received:
            break
        head += received
    return head


def _answer_of(app: WSGIApplication, request: WSGIEnvironment) -> bytes:
    """Return the whole response of the application."""
    begun: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], _exc_info: object = None
    ) -> Callable[[bytes], object]:
        begun.append((status, headers))
        return lambda _: None

    is_head = request["REQUEST_METHOD"] == "HEAD"
    if is_head:
        request["REQUEST_METHOD"] = "GET"
    try:
        body = b"".join(app(request, start_response))
    except Exception:  # prometheus_client raises on some headers that a peer may send
        logger.debug("http request failed", exc_info=True)
        return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
    return _pack(*begun[0], body, is_head=is_head)


def _refuse(status: HTTPStatus, *headers: tuple[str, str]) -> bytes:
    phrase = f"{status.value} {status.phrase}"
    return _pack(phrase, [("Content-Type", "text/plain"), *headers], f"{phrase}\n".encode())


def _parse(head: bytes) -> WSGIEnvironment | HTTPStatus:
    """Return the part of a request that the pages need, or what is wrong with it."""
    end = HEAD_END.search(head)
    if end is None:
        is_too_long = len(head) >= MAX_HEAD_BYTES
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_long else HTTPStatus.BAD_REQUEST
    first, *lines = head[: end.start()].decode("latin-1").split("\n")
    logger.debug("http request", extra={"line": first.rstrip("\r")})
    request_line = REQUEST_LINE.fullmatch(first)
    headers = [HEADER.fullmatch(line) for line in lines]
    if request_line is None or None in headers:
        return HTTPStatus.BAD_REQUEST
    method, target, major = request_line.groups()
    if major != "1":
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    path, _, query = ORIGIN.sub("", target).partition("?")
    environ = {f"HTTP_{h[1].upper().replace('-', '_')}": h[2] for h in headers if h}
    return environ | {"REQUEST_METHOD": method, "PATH_INFO": unquote(path), "QUERY_STRING": query}


def _pack(
    status: str, headers: list[tuple[str, str]], body: bytes, *, is_head: bool = False
) -> bytes:
    names = {name for name, _ in headers}
    extra = [] if "Content-Length" in names else [("Content-Length", str(len(body)))]
    lines = [f"{name}: {value}\r\n" for name, value in (*headers, *extra, ("Connection", "close"))]
    head = f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode("latin-1")
    return head if is_head else head + body


def make_app(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    """Return the WSGI application that answers every request."""
    metrics: WSGIApplication = make_wsgi_app(registry)
    pages: dict[str, Callable[[], tuple[str, str, bytes]]] = {
        "/": lambda: ("200 OK", "text/plain; charset=utf-8", INDEX),
        "/healthz": lambda: _alive(health),
        "/readyz": lambda: _ready(health),
    }

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"] or "/"
        headers = []
        if environ["REQUEST_METHOD"] != "GET":
            page = ("405 Method Not Allowed", "text/plain", b"This server only answers GET.\n")
            headers = [("Allow", "GET, HEAD")]
        elif path == "/metrics":
            return metrics(environ, start_response)
        elif path in pages:
            page = pages[path]()
        else:
            page = ("404 Not Found", "text/plain; charset=utf-8", b"No such page.\n\n" + INDEX)
        status, content_type, body = page
        start_response(status, [("Content-Type", content_type), *headers])
        return [body]

    return app


def _alive(health: Health) -> tuple[str, str, bytes]:
    is_alive = health.is_alive
    return _json(is_alive, {"alive": is_alive, "reason": health.conditions()["fast_loop"].reason})


def _ready(health: Health) -> tuple[str, str, bytes]:
    conditions = health.conditions()
    reasons = health.reasons(conditions)
    is_met = {name: condition.is_ok for name, condition in conditions.items()}
    body = {"ready": not reasons, "reasons": reasons, "conditions": is_met}
    return _json(not reasons, {**body, "notes": health.notes})


def _json(is_ok: bool, body: dict[str, object]) -> tuple[str, str, bytes]:
    status = "200 OK" if is_ok else "503 Service Unavailable"
    return status, "application/json", json.dumps(body).encode() + b"\n"


def _bind(host: str, port: int) -> socket.socket:
    is_ipv6 = ":" in host
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        why = "address already in use" if error.errno == errno.EADDRINUSE else str(error)
        remedy = (
            "Set http.port or stop the other process."
            if error.errno == errno.EADDRINUSE
            else "Set http.host and http.port to an address of this machine."
        )
        raise UserError(f"Cannot bind http {host}:{port}: {why}. {remedy}") from error
