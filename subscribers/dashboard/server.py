"""The dashboard's process: one thread listens to the daemon, another serves pages.

The listener hands over what it has received and waits until that has been taken, so that nothing
piles up between the two: where the pages take too much time, its ZeroMQ queue fills, and the daemon
drops messages for the dashboard alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Self

import uvicorn

from contracts.address import check_host, host_problem
from contracts.daemon_json import DAEMON_TOPIC
from contracts.errors import UserError
from contracts.keys import ClientKeys
from subscribers.dashboard.access import AccessGuard, read_token
from subscribers.dashboard.app import Changes, make_app
from subscribers.dashboard.frames import FrameFolder
from subscribers.dashboard.state import DashboardState
from subscribers.listener import (
    DISPLAY_TOPICS,
    MARK_TOPICS,
    NARRATION_TOPICS,
    UNITS_TOPICS,
    Listener,
    Received,
)

TOPICS = (*NARRATION_TOPICS, *MARK_TOPICS, *UNITS_TOPICS, *DISPLAY_TOPICS, DAEMON_TOPIC)

WAIT_MS = 50
MESSAGES_AT_ONCE = 200
STOP_S = 2.0
MAX_CONNECTIONS = 512
BACKLOG = 256

UNREAD_MS = 30_000
"""After so long the system ends a connection whose peer takes nothing: what was sent to it is
memory until then."""

UNFINISHED = "ASGI callable returned without completing response."
"""What uvicorn logs of each page that is given up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DashboardOptions:
    """Where to listen and where to serve."""

    connect: str
    host: str = "127.0.0.1"
    port: int = 8571  # 0 for any free one
    token_file: Path | None = None  # needed where other machines can reach the page
    names: tuple[str, ...] = ()  # under which the page is asked for, beside numbers
    frames: Path | None = None
    keys: ClientKeys | None = None  # of the daemon's socket


class DashboardServer:
    """Listens and serves from construction to `close`, on threads of its own.

    Raises
    ------
    UserError
        If an address is none, is taken, or can be reached from other machines and has no token.
    """

    def __init__(
        self,
        options: DashboardOptions,
        *,
        kinds_of: Callable[[str], AbstractSet[str]] | None = None,
    ) -> None:
        token = _token(options)
        frames = FrameFolder(options.frames) if options.frames else None
        self.state = DashboardState(options.connect, kinds_of=kinds_of)
        self._listener = Listener(options.connect, TOPICS, setting="--connect", keys=options.keys)
        try:
            self._socket = _bound(options)
        except UserError:
            self._listener.close()
            raise
        self._host = options.host
        self.port: int = self._socket.getsockname()[1]
        self._stop = Event()
        self._loop = asyncio.new_event_loop()
        self._changes: Changes | None = None
        self._server = _server(self.state, self._begin, token, options.names, frames)
        self._serving = Thread(target=self._serve, name="dashboard pages", daemon=True)
        self._listening = Thread(target=self._listen, name="dashboard listener", daemon=True)
        self._serving.start()
        self._listening.start()

    @property
    def address(self) -> str:
        """The page's address, for people."""
        host = self._host if self._host not in {"0.0.0.0", "*", "::"} else socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def close(self) -> None:
        """Disconnect every page, and end both threads."""
        self._stop.set()
        self._listening.join()
        self._listener.close()
        self._server.should_exit = True
        self._server.force_exit = True
        self._serving.join(STOP_S + 3)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> Changes:
        self._changes = Changes()
        return self._changes

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        finally:
            with suppress(RuntimeError):
                self._loop.run_until_complete(_cancel_rest())
            self._loop.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            received = list(self._listener.messages(wait_ms=WAIT_MS, limit=MESSAGES_AT_ONCE))
            if received and not self._loop.is_closed():
                self._hand_over(received)

    def _hand_over(self, received: list[Received]) -> None:
        taken: Future[None] = Future()
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._take, received, taken)
            while not self._stop.is_set():
                with suppress(FutureTimeoutError):
                    taken.result(timeout=WAIT_MS / 1000)
                    return

    def _take(self, received: list[Received], taken: Future[None]) -> None:
        try:
            for one in received:
                self.state.take(one)
            if self._changes:
                self._changes.announce()
        except Exception:  # a message that no test has thought of must not end the display
            logger.exception("a message could not be shown")
        finally:
            taken.set_result(None)


async def _cancel_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _server(
    state: DashboardState,
    begin: Callable[[], Changes],
    token: str,
    names: Iterable[str],
    frames: FrameFolder | None,
) -> uvicorn.Server:
    app = AccessGuard(make_app(state, begin(), frames=frames), token=token, names=names)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", loop="asyncio",
        http="h11", limit_concurrency=MAX_CONNECTIONS, backlog=BACKLOG, server_header=False,
        timeout_keep_alive=10, timeout_graceful_shutdown=round(STOP_S),
        h11_max_incomplete_event_size=16 << 10, proxy_headers=False,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Server(config)


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg != UNFINISHED


def _token(options: DashboardOptions) -> str:
    problem = host_problem(options.host)
    if problem and options.token_file is None:
        raise UserError(
            f"--host {options.host} {problem}. Give --token-file FILE, which is made if need be, "
            "or stay on 127.0.0.1 and use an SSH tunnel."
        )
    return read_token(options.token_file) if options.token_file else ""


def _bound(options: DashboardOptions) -> socket.socket:
    # Whether others may reach it was decided with the token.
    host = check_host(options.host, setting="--host", is_allowed=True, remedy="")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, options.port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why, remedy = "address already in use", "Give another --port, or 0 for any free one."
        else:
            why, remedy = os.strerror(error.errno or 0).lower(), "Give an address of this machine."
        raise UserError(
            f"Cannot bind http {options.host}:{options.port}: {why}. {remedy}"
        ) from error
    # Of the connections as well: they inherit it.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    return bound
