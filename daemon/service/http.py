"""Metrics and health over HTTP, in one thread that only reads.

``/metrics`` for Prometheus, ``/healthz`` (alive?), ``/readyz`` (able to narrate, and if not, why
not), and ``/``, an index.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from contracts.errors import UserError
from daemon.service.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CLIENT_TIMEOUT_S = 5.0
"""The connection of a client that sends nothing for so long is closed: one thread serves all."""

POLL_S = 0.1
"""How soon the thread notices that it should end."""

INDEX = (
    b"Neurrate\n\n"
    b"/metrics  counters and latencies for Prometheus\n"
    b"/healthz  200 while the process is alive\n"
    b"/readyz   200 while it can narrate; otherwise 503 and the reasons\n"
)

logger = logging.getLogger(__name__)


class HttpServer:
    """Serves from construction to `close`, on a free port if 0 was given.

    Raises
    ------
    UserError
        If the address cannot be bound.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        self._server = _bind(host, port)
        self._server.set_app(make_app(registry, health))
        self.port: int = self._server.server_address[1]
        self._thread = Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="http", daemon=True
        )
        self._thread.start()
        logger.info("http listening", extra={"host": host, "port": self.port})

    def close(self) -> None:
        """Stop serving and join the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def make_app(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    """Return the WSGI application that answers every request."""
    metrics: WSGIApplication = make_wsgi_app(registry)
    pages: dict[str, Callable[[], tuple[str, str, bytes]]] = {
        "/": lambda: ("200 OK", "text/plain; charset=utf-8", INDEX),
        "/healthz": lambda: _alive(health),
        "/readyz": lambda: _ready(health),
    }

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO") or "/"
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            page = ("405 Method Not Allowed", "text/plain", b"This server only answers GET.\n")
        elif path == "/metrics":
            return metrics(environ, start_response)
        elif path in pages:
            page = pages[path]()
        else:
            page = ("404 Not Found", "text/plain; charset=utf-8", b"No such page.\n\n" + INDEX)
        status, content_type, body = page
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return app


def _alive(health: Health) -> tuple[str, str, bytes]:
    is_alive = health.is_alive
    return _json(is_alive, {"alive": is_alive, "reason": health.conditions()["fast_loop"].reason})


def _ready(health: Health) -> tuple[str, str, bytes]:
    conditions = health.conditions()
    reasons = health.reasons(conditions)
    is_met = {name: condition.is_ok for name, condition in conditions.items()}
    return _json(not reasons, {"ready": not reasons, "reasons": reasons, "conditions": is_met})


def _json(is_ok: bool, body: dict[str, object]) -> tuple[str, str, bytes]:
    status = "200 OK" if is_ok else "503 Service Unavailable"
    return status, "application/json", json.dumps(body).encode() + b"\n"


class _Server(WSGIServer):
    def server_bind(self) -> None:
        """Bind without a reverse name look-up of this host, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        client = str(client_address)
        logger.debug("http request failed", exc_info=True, extra={"client": client})  # noqa: LOG014 - called in a handler


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("http request", extra={"line": format % args})


def _bind(host: str, port: int) -> WSGIServer:
    server_class = _Server6 if ":" in host else _Server
    try:
        return server_class((host, port), _Quiet)
    except OSError as error:
        why = "address already in use" if error.errno == errno.EADDRINUSE else str(error)
        remedy = (
            "Set http.port or stop the other process."
            if error.errno == errno.EADDRINUSE
            else "Set http.host and http.port to an address of this machine."
        )
        raise UserError(f"Cannot bind http {host}:{port}: {why}. {remedy}") from error
