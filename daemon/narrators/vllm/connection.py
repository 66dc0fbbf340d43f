"""One server over HTTP: its answers, or whose fault it is that there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from http import HTTPStatus

import httpx2

from daemon.narrators.vllm import chat

BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS})
"""The server is well, and has no place now."""

FAULTS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}) | BUSY
"""Below 500, what another try may change."""


class ServerFault(Exception):  # noqa: N818 - not always an error of ours to show
    """A server failed; another one, or the same one later, may not.

    Attributes
    ----------
    is_busy : bool
        It is well, and asks to be left alone for a while.
    pause_s : float or None
        For so long, if it says so.
    """

    def __init__(self, reason: str, *, is_busy: bool = False, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.is_busy = is_busy
        self.pause_s = pause_s


class RefusedError(Exception):
    """A server is well and will not do this, now or later.

    Attributes
    ----------
    status : int
        Of HTTP.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def make_client(*, key: str, connect_timeout_s: float) -> httpx2.AsyncClient:
    """Make the client that all links share.

    Parameters
    ----------
    key : str
        Of the servers; empty sends none.
    connect_timeout_s : float

    Returns
    -------
    httpx2.AsyncClient
        It connects directly: a proxy in the environment is not for what an animal sees.
    """
    return httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(connect_timeout_s, pool=None),
        limits=httpx2.Limits(max_connections=None),
        trust_env=False,
    )


class ServerConnection:
    """One server.

    Parameters
    ----------
    url : str
        Without a path.
    client : httpx2.AsyncClient
    connect_timeout_s : float
        Also for the small questions.
    """

    def __init__(self, url: str, client: httpx2.AsyncClient, *, connect_timeout_s: float) -> None:
        self.url = url
        self._client = client
        self._connect_timeout_s = connect_timeout_s

    async def served_models(self) -> dict[str, int | None]:
        """Ask whether the server is well and what it serves.

        Returns
        -------
        models : dict
            As `chat.served_models` reads them.

        Raises
        ------
        ServerFault
            If it is not well, or not reached, or answers with something else.
        RefusedError
            If it will not say.
        """
        try:
            await self._get("/health")
        except RefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:  # what stands before a cluster may have none
                raise
        body = await self._get("/v1/models")
        try:
            return chat.served_models(body)
        except ValueError as error:
            raise ServerFault(f"{self.url} is no vLLM server: {error}") from error

    async def ask(self, body: bytes, take: Callable[[str], None], *, silence_s: float) -> None:
        """Ask for a sentence.

        Parameters
        ----------
        body : bytes
            A request.
        take : callable
            Given the data of each event but the end as it comes; a ValueError out of it is the
            server's fault.
        silence_s : float
            Without an event, after which the server has failed.

        Raises
        ------
        ServerFault
            If it fails before the end.
        RefusedError
            If it will not say this.
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
                    content=body,
                    headers={"Content-Type": "application/json"},
                    timeout=timeout,
                ) as response,
            ):
                # The client's own limit is of bytes, and a proxy may send some that say nothing.
                silence.reschedule(now_s() + silence_s)
                await self._check(response)
                async for event in httpx2.EventSource(response):
                    silence.reschedule(now_s() + silence_s)
                    # What follows the end is read too, so that the connection can be used again.
                    if event.data == chat.END:
                        has_ended = True
                    elif not has_ended:
                        take(event.data)
        except (httpx2.RequestError, ssl.SSLError, ValueError, TimeoutError) as error:
            if not has_ended:
                raise self._fault(error, silence_s) from error
        if not has_ended:
            raise ServerFault(f"{self.url} broke off in the middle of a sentence")

    async def _get(self, path: str) -> str:
        limit_s = 2 * self._connect_timeout_s  # to connect, and as long to answer
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
        """Return if the answer is a good one.

        Raises
        ------
        ServerFault
            If another try may get a better one.
        RefusedError
            If none will.
        """
        status = response.status_code
        if status == HTTPStatus.OK:
            return
        words = chat.error_message((await response.aread()).decode(errors="replace"))
        reason = f"{self.url} answered {status} {response.reason_phrase}"
        if words:
            reason += f": {words}"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in FAULTS:
            raise ServerFault(
                reason,
                is_busy=status in BUSY,
                pause_s=_seconds(response.headers.get("Retry-After", "")),
            )
        raise RefusedError(status, reason)

    def _fault(self, error: Exception, silence_s: float) -> ServerFault:
        words = str(error) or type(error).__name__  # a connection that is reset has no text
        match error:
            case httpx2.ConnectTimeout():
                what = f"took no connection within {self._connect_timeout_s:g} s"
            case httpx2.ConnectError():
                what = f"cannot be reached: {words}"
            case httpx2.TimeoutException() | TimeoutError():
                what = f"was silent for {silence_s:g} s"
            case httpx2.RequestError():
                what = f"broke off: {words}"
            case _:
                what = f"answered with {words}"
        return ServerFault(f"{self.url} {what}")


def _seconds(text: str) -> float | None:
    """Read ``Retry-After``; None for a date, which nobody sends here."""
    return float(text) if text.isdecimal() and len(text) < 6 else None
