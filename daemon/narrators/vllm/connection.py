"""One server over HTTP: its answers, or an error that says whether another try may help."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import httpx2

from daemon.narrators.vllm import chat

BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS})
"""The server works, and takes no more requests now."""

FAULTS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}) | BUSY
"""Statuses below 500 for which another try may succeed."""


class ServerFault(Exception):  # noqa: N818 - not always shown as an error
    """A server failed; another one, or the same one later, may not.

    `is_busy`: it works, and takes no more requests for a while. `pause_s`: seconds that it asks to
    be left alone, if it does (``Retry-After``).
    """

    def __init__(self, reason: str, *, is_busy: bool = False, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.is_busy = is_busy
        self.pause_s = pause_s


class RefusedError(Exception):
    """A server works and refuses the request; another try would be refused too."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def make_client(*, key: str, connect_timeout_s: float) -> httpx2.AsyncClient:
    """Make the client that all connections share; an empty key is not sent."""
    # Not through a proxy of the environment: recorded activity must not leave by that way.
    return httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(connect_timeout_s, pool=None),
        limits=httpx2.Limits(max_connections=None),
        trust_env=False,
    )


class ServerConnection:
    """One server."""

    def __init__(self, url: str, client: httpx2.AsyncClient, *, connect_timeout_s: float) -> None:
        self.url = url
        self._client = client
        self._connect_timeout_s = connect_timeout_s

    async def served_models(self) -> dict[str, int | None]:
        """Return what the server serves, if it is healthy.

        Raises
        ------
        ServerFault
            If it is not healthy, cannot be reached, or is no vLLM server.
        RefusedError
            If it refuses the request.
        """
        try:
            await self._get("/health")
        except RefusedError as error:
            if (
                error.status != HTTPStatus.NOT_FOUND
            ):  # a load balancer in front of a cluster may have none
                raise
        body = await self._get("/v1/models")
        try:
            return chat.served_models(body)
        except ValueError as error:
            raise ServerFault(f"{self.url} is no vLLM server: {error}") from error

    async def stream(
        self, body: chat.RequestBody, on_event: Callable[[str], None], *, silence_s: float
    ) -> None:
        """Request a sentence, and stream its events.

        `on_event` gets the data of each event but the last. The server has failed if that raises
        ValueError, or after `silence_s` without an event.

        Raises
        ------
        ServerFault
            If it fails before the end.
        RefusedError
            If it refuses the request.
        """
        timeout = httpx2.Timeout(silence_s, connect=self._connect_timeout_s, pool=None)
        now_s = asyncio.get_running_loop().time
        has_ended = False
        try:
            async with (
                asyncio.timeout(None) as silence,
                self._client.stream(
                    "POST",
                    f"{self.url}{chat.PATH}",
                    content=_parts(body),
                    headers={"Content-Type": "application/json", "Content-Length": f"{len(body)}"},
                    timeout=timeout,
                ) as response,
            ):
                # The client's own limit is of bytes, and a proxy may send some without an event.
                silence.reschedule(now_s() + silence_s)
                await self._check(response)
                async for event in httpx2.EventSource(response):
                    silence.reschedule(now_s() + silence_s)
                    # What follows the end is read too, so that the connection can be reused.
                    if event.data == chat.END:
                        has_ended = True
                    elif not has_ended:
                        on_event(event.data)
        except (httpx2.RequestError, ssl.SSLError, ValueError, TimeoutError) as error:
            if not has_ended:
                raise self._fault(error, silence_s) from error
        if not has_ended:
            raise ServerFault(f"{self.url} broke off in the middle of a sentence")

    async def _get(self, path: str) -> str:
        limit_s = 2 * self._connect_timeout_s  # as long to answer as to connect
        try:
            async with (
                asyncio.timeout(limit_s),
                self._client.stream("GET", f"{self.url}{path}") as response,
            ):
                await self._check(response)
                return (await response.aread()).decode(errors="replace")
        except TimeoutError as error:
            raise ServerFault(f"{self.url} had not answered {path} after {limit_s:g} s") from error
        except (httpx2.RequestError, ssl.SSLError, ValueError) as error:
            raise self._fault(error, self._connect_timeout_s) from error

    async def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status == HTTPStatus.OK:
            return
        message = chat.error_message((await response.aread()).decode(errors="replace"))
        reason = f"{self.url} answered {status} {response.reason_phrase}"
        if message:
            reason += f": {message}"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in FAULTS:
            raise ServerFault(
                reason,
                is_busy=status in BUSY,
                pause_s=_seconds(response.headers.get("Retry-After", "")),
            )
        raise RefusedError(status, reason)

    def _fault(self, error: Exception, silence_s: float) -> ServerFault:
        message = str(error) or type(error).__name__  # a connection that is reset has no text
        match error:
            case httpx2.ConnectTimeout():
                what = f"took no connection within {self._connect_timeout_s:g} s"
            case httpx2.ConnectError():
                what = f"cannot be reached: {message}"
            case httpx2.TimeoutException() | TimeoutError():
                what = f"was silent for {silence_s:g} s"
            case httpx2.RequestError():
                what = f"broke off: {message}"
            case _:
                what = f"answered with {message}"
        return ServerFault(f"{self.url} {what}")


async def _parts(body: chat.RequestBody) -> AsyncIterator[bytes]:
    """Yield a body's parts; other requests are sent between them."""
    for part in body:
        yield part


def _seconds(text: str) -> float | None:
    """Parse ``Retry-After``; None for a date, which these servers do not send."""
    return float(text) if text.isdecimal() and len(text) < 6 else None
