"""Triggers over HTTP: the JSON posted to an address, or a message to the Open Ephys GUI.

References
----------
Open Ephys GUI documentation, "Remote control": a PUT of ``{"text": ...}`` to ``/api/message`` on
port 37497 is broadcast to all processors while acquisition is active, and saved by all Record Nodes
(open-ephys/gui-docs, source/User-Manual/Remote-control.rst). The answer is the GUI's status, such
as ``{"mode": "IDLE"}`` (open-ephys/plugin-GUI, Source/Utils/OpenEphysHttpServer.h).
"""

from __future__ import annotations

import asyncio
import json
import ssl

import httpx2

from contracts.clock import Clock, second_to_ns
from contracts.errors import WireError
from contracts.narration_wire import load
from daemon.triggers.sinks.thread import Delivery, DeliveryError
from daemon.triggers.tables import HttpSinkTable, OpenEphysSinkTable

MESSAGE_PATH = "/api/message"

MAX_ANSWER_BYTES = 65_536
"""Bytes of an answer that are read; the GUI's status has twenty."""

FIRST_PAUSE_NS = 50_000_000
"""Before the first retry; twice as long before each next one."""

HEADERS = {
    "Content-Type": "application/json",
    "Connection": "close",
    "Accept-Encoding": "identity",
}


class HttpOutlet:
    """Posts the JSON of each trigger; proxies of the environment are not used."""

    def __init__(
        self,
        table: HttpSinkTable | OpenEphysSinkTable,
        clock: Clock,
        *,
        method: str = "POST",
        path: str = "",
    ) -> None:
        self._method = method
        self._url = table.url.rstrip("/") + path if path else table.url
        self._timeout_s, self._retries = table.timeout_s, table.retries
        self._max_age_ns = second_to_ns(table.max_age_s)
        self._clock = clock

    def open(self) -> None:
        """Make the client; each delivery has a connection of its own."""
        # Loading certificates takes tens of milliseconds. They are the system's and not the
        # client's own, because a laboratory may have an authority of its own.
        verify = ssl.create_default_context() if self._url.startswith("https:") else False
        # A connection that was kept open may have been closed by the other end, which would be
        # found out too late to say whether the trigger arrived: none is kept.
        self._client = httpx2.AsyncClient(
            verify=verify,
            timeout=None,
            limits=httpx2.Limits(max_keepalive_connections=0),
            trust_env=False,
        )
        # An event loop for one request at a time, because asyncio can put a deadline on all of it.
        # A blocking client's timeouts are per read: a server that sends a byte now and then would
        # hold the sink for hours.
        self._runner = asyncio.Runner()

    def deliver(self, delivery: Delivery) -> None:
        """Post one trigger."""
        self._send(delivery.payload, delivery.trigger.stamps.published)

    def tend(self) -> None:
        """Nothing to keep alive: no connection is open between deliveries."""

    def close(self, *, deadline_s: float) -> None:
        """Close the client and its event loop; returns at once."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def _send(self, body: bytes, published_ns: int) -> bytes:
        # A trigger that would be older than ``max_age_s`` after the next pause is not tried again.
        pause_ns = FIRST_PAUSE_NS
        for _ in range(self._retries):
            try:
                return self._send_once(body)
            except DeliveryError as error:
                age_ns = self._clock.now_ns() + pause_ns - published_ns
                if age_ns > self._max_age_ns:
                    raise DeliveryError(f"{error}; too old to be tried again") from error
                self._clock.sleep_ns(pause_ns)
                pause_ns *= 2
        return self._send_once(body)

    def _send_once(self, body: bytes) -> bytes:
        try:
            return self._runner.run(self._exchange(body))
        except TimeoutError as error:
            raise DeliveryError(f"TimeoutError: no answer within {self._timeout_s:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            cause = _first_cause(error)
            raise DeliveryError(f"{type(cause).__name__}: {cause}") from error

    async def _exchange(self, body: bytes) -> bytes:
        async with (
            asyncio.timeout(self._timeout_s),
            self._client.stream(self._method, self._url, content=body, headers=HEADERS) as response,
        ):
            answer = b""
            async for piece in response.aiter_raw():
                answer += piece
                if len(answer) >= MAX_ANSWER_BYTES:
                    break
        if not response.is_success:
            raise DeliveryError(f"answered {response.status_code} {response.reason_phrase}")
        return answer[:MAX_ANSWER_BYTES]


class OpenEphysOutlet(HttpOutlet):
    """Broadcasts a message to all processors of the Open Ephys GUI."""

    def __init__(self, table: OpenEphysSinkTable, clock: Clock) -> None:
        super().__init__(table, clock, method="PUT", path=MESSAGE_PATH)
        self._message = table.message

    def deliver(self, delivery: Delivery) -> None:
        """Send the message.

        Raises
        ------
        DeliveryError
            If it did not arrive, or the GUI is idle and passes nothing on.
        """
        trigger = delivery.trigger
        text = self._message.format(
            name=trigger.name,
            population=trigger.population,
            score=trigger.score,
            threshold=trigger.threshold,
            stop_s=trigger.window.stop_s,
            frame_s=trigger.window.frame_s,
            id=trigger.id,
            seq=trigger.seq,
        )
        body = json.dumps({"text": text}).encode()
        answer = self._send(body, trigger.stamps.published)
        try:
            mode = load(answer).get("mode")
        except WireError:
            return
        if mode == "IDLE":
            raise DeliveryError("the GUI is idle: it passes messages on only while it acquires")


def _first_cause(error: BaseException) -> BaseException:
    """Return what the operating system said, under the layers of the client."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
