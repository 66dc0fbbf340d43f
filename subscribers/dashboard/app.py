"""The routes: the page, its events, its history, its tiles, its frames. Only GET, only reading.

``/events`` is a stream of server-sent events. A page that connects is sent a snapshot, then events
as they come. One that connects again says which it has seen last (``Last-Event-ID``), and is sent
those since, or a snapshot if they are no longer there. Each page reads the log at its own pace: one
that is slow is sent less, one that does not read at all is disconnected, and neither is waited for.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from subscribers.dashboard.events import dumped
from subscribers.dashboard.frames import FrameFolder
from subscribers.dashboard.state import DashboardState

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PAGE = Path(__file__).parent / "page"

MAX_PAGES = 256
"""Open at once. A lab has tens."""

STALLED_S = 20.0
"""A page that has taken nothing for so long is disconnected; its browser connects again."""

KEEP_ALIVE_S = 10.0
EVENTS_AT_ONCE = 500
APART_S = 0.02
"""Between two pieces of one page's stream: what comes meanwhile is sent together."""

MAX_HISTORY_S = 900.0
"""Of one answer of ``/history``."""

RETRY_MS = 1_000


class Changes:
    """Wakes every page that waits for the next event. Belongs to one event loop."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        """Wake all."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next announcement, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._next.wait()


class EventStream:
    """``/events``: an ASGI application, so that a page which does not read can be given up."""

    def __init__(self, state: DashboardState, changes: Changes) -> None:
        self._state = state
        self._changes = changes
        # Numbers of events begin anew with each server: those of another one mean nothing here.
        self._epoch = secrets.token_hex(4)
        self.n_pages = 0
        self.n_stalled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one page until it goes, or has taken nothing for `STALLED_S`."""
        if self.n_pages >= MAX_PAGES:
            response = PlainTextResponse("Too many pages are open.\n", status_code=503)
            await response(scope, receive, send)
            return
        seen = Request(scope).headers.get("last-event-id", "")
        self.n_pages += 1
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send_all(send, seen))
                group.create_task(_cancel_at_disconnect(receive, sending))
        except* TimeoutError:  # which is an OSError as well
            self.n_stalled += 1
        except* (OSError, ClientDisconnect):
            pass
        finally:
            self.n_pages -= 1

    async def _send_all(self, send: Send, seen: str) -> None:
        async def piece(body: bytes) -> None:
            async with asyncio.timeout(STALLED_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})

        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )
        log = self._state.log
        place = self._place(seen)
        if place is None:
            place = log.next_number
            await piece(f"retry: {RETRY_MS}\n".encode() + self._snapshot(is_new=True))
        else:
            await piece(self._snapshot(is_new=False))
        while True:
            if not log.has_all_since(place):
                place = log.next_number  # fell behind the history itself
                await piece(self._snapshot(is_new=True))
            events = log.since(place, limit=EVENTS_AT_ONCE)
            if events:
                place = events[-1].number + 1
                await piece(b"".join(self._packed(one.number, one.data) for one in events))
                await asyncio.sleep(APART_S)
            else:
                await self._changes.wait(KEEP_ALIVE_S)
                if log.next_number == place:
                    await piece(b": still here\n\n")

    def _place(self, seen: str) -> int | None:
        """Return the number of the first event that a page lacks; None if that is not known."""
        epoch, _, number = seen.partition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit():
            return None
        place = int(number[:18]) + 1
        return place if self._state.log.has_all_since(place) else None

    def _snapshot(self, *, is_new: bool) -> bytes:
        event = {**self._state.snapshot(), "is_new": is_new}
        return self._packed(self._state.log.next_number - 1 if is_new else None, dumped(event))

    def _packed(self, number: int | None, data: bytes) -> bytes:
        head = b"" if number is None else f"id: {self._epoch}-{number}\n".encode()
        return head + b"data: " + data + b"\n\n"


async def _cancel_at_disconnect(receive: Receive, task: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def make_app(
    state: DashboardState, changes: Changes, *, frames: FrameFolder | None = None
) -> Starlette:
    """Return the application, without its guard."""
    events = EventStream(state, changes)

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    async def history(request: Request) -> Response:
        bounds = _numbers(request, "start", "stop")
        if bounds is None or not 0 <= bounds[1] - bounds[0] <= MAX_HISTORY_S:
            return _refused(f"start and stop are seconds, at most {MAX_HISTORY_S:.0f} apart")
        return _uncached(state.history(*bounds), "application/json")

    async def tile(request: Request) -> Response:
        number = int(request.path_params["number"])
        is_overview = request.path_params["kind"] == "overview"
        packed = state.rates.tile(number, is_overview=is_overview) if state.rates else None
        if packed is None:
            return PlainTextResponse("No such tile.\n", status_code=404)
        response = _uncached(packed, "application/octet-stream")
        response.headers["content-encoding"] = "deflate"
        response.headers["x-rows"] = str(state.rates.n_rows if state.rates else 0)
        return response

    async def frame(request: Request) -> Response:
        stimulus, number = request.path_params["stimulus"], int(request.path_params["number"])
        picture = None
        if frames is not None and number < 2**31:
            picture = await asyncio.to_thread(frames.picture, stimulus, number)
        if picture is None:
            return PlainTextResponse("No such frame.\n", status_code=404)
        return Response(
            picture, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"}
        )

    async def health(_: Request) -> Response:
        return JSONResponse(
            {
                "pages": events.n_pages,
                "stalled": events.n_stalled,
                "events": state.log.next_number - 1,
                "log_bytes": state.log.n_bytes,
                "tile_bytes": state.rates.n_bytes if state.rates else 0,
                "has_frames": frames is not None,
            },
            headers={"cache-control": "no-store"},
        )

    return Starlette(
        routes=[
            Route("/", page),
            Route("/events", events),
            Route("/history", history),
            Route("/tiles/{kind}/{number:int}", tile),
            Route("/frames/{number:int}/{stimulus:path}", frame),
            Route("/health", health),
            Mount("/static", StaticFiles(directory=PAGE)),
        ]
    )


def _numbers(request: Request, *names: str) -> tuple[float, ...] | None:
    try:
        values = tuple(float(request.query_params[name]) for name in names)
    except (KeyError, ValueError):
        return None
    return values if all(abs(value) < 1e12 for value in values) else None


def _refused(reason: str) -> Response:
    return PlainTextResponse(f"{reason}\n", status_code=400)


def _uncached(body: bytes, media_type: str) -> Response:
    return Response(body, media_type=media_type, headers={"cache-control": "no-store"})
