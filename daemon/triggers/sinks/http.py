"""Triggers over HTTP: the JSON posted to an address, or a message to the Open Ephys GUI.

References
----------
Open Ephys GUI documentation, "Remote control": a PUT of ``{"text": ...}`` to ``/api/message`` on
port 37497 is broadcast to all processors while acquisition is active, and saved by all Record Nodes
(open-ephys/gui-docs, source/User-Manual/Remote-control.rst). The answer is the GUI's status, such
as ``{"mode": "IDLE"}`` (open-ephys/plugin-GUI, Source/Utils/OpenEphysHttpServer.h).
"""

from __future__ import annotations

import io
import json
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from contracts.clock import Clock, ns_to_second, second_to_ns
from contracts.errors import WireError
from contracts.narration_wire import load
from daemon.triggers.sinks.thread import Delivery, DeliveryError
from daemon.triggers.tables import HttpSinkTable, OpenEphysSinkTable

MESSAGE_PATH = "/api/message"

MAX_ANSWER_BYTES = 65_536
"""Of an answer that is read; the GUI's status takes twenty."""

FIRST_PAUSE_NS = 50_000_000
"""Before the first retry; twice as long before each next one."""


class HttpOutlet:
    """Posts the JSON of each trigger.

    Every delivery has a connection of its own: one that is kept open may have been closed by the
    other end, which is found out too late to say whether the trigger arrived.

    Parameters
    ----------
    table : HttpSinkTable
    clock : Clock
    """

    def __init__(self, table: HttpSinkTable, clock: Clock) -> None:
        self._request = _Request(table, clock, "POST", table.url)

    def open(self) -> None:
        """Nothing to make ready."""

    def deliver(self, delivery: Delivery) -> None:
        """Post one."""
        self._request.send(delivery.payload, delivery.trigger.stamps.published)

    def tend(self) -> None:
        """Nothing to look after."""

    def close(self, *, deadline_s: float) -> None:
        """Nothing to let go of."""


class OpenEphysOutlet:
    """Broadcasts a message to all processors of the Open Ephys GUI.

    Parameters
    ----------
    table : OpenEphysSinkTable
    clock : Clock
    """

    def __init__(self, table: OpenEphysSinkTable, clock: Clock) -> None:
        self._request = _Request(table, clock, "PUT", table.url.rstrip("/") + MESSAGE_PATH)
        self._message = table.message

    def open(self) -> None:
        """Nothing to make ready."""

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
        answer = self._request.send(body, trigger.stamps.published)
        try:
            mode = load(answer).get("mode")
        except WireError:
            return
        if mode == "IDLE":
            raise DeliveryError("the GUI is idle: it passes messages on only while it acquires")

    def tend(self) -> None:
        """Nothing to look after."""

    def close(self, *, deadline_s: float) -> None:
        """Nothing to let go of."""


class _Request:
    """One kind of request, sent again and again. Proxies of the environment are passed by."""

    def __init__(
        self, table: HttpSinkTable | OpenEphysSinkTable, clock: Clock, method: str, url: str
    ) -> None:
        parts = urlsplit(url)
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._method, self._timeout_s, self._retries = method, table.timeout_s, table.retries
        self._max_age_ns = second_to_ns(table.max_age_s)
        self._clock = clock

    def send(self, body: bytes, published_ns: int) -> bytes:
        """Send a body; return the answer's.

        Parameters
        ----------
        body : bytes
        published_ns : int
            When the trigger was: what is too old by then is not tried again.

        Raises
        ------
        DeliveryError
            If it did not arrive, after the last retry.
        """
        pause_ns = FIRST_PAUSE_NS
        for _ in range(self._retries):
            try:
                return self._send_once(body)
            except DeliveryError as error:
                # The age that it has after the pause.
                age_ns = self._clock.now_ns() + pause_ns - published_ns
                if age_ns > self._max_age_ns:
                    raise DeliveryError(f"{error}; too old to be tried again") from error
                self._clock.sleep_ns(pause_ns)
                pause_ns *= 2
        return self._send_once(body)

    def _send_once(self, body: bytes) -> bytes:
        connection = self._connection(self._host, self._port, timeout=self._timeout_s)
        stop_ns = self._clock.now_ns() + second_to_ns(self._timeout_s)
        try:
            connection.connect()
            connection.sock = _TimedSocket(connection.sock, self._clock, stop_ns)
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(self._method, self._path, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, HTTPException) as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise DeliveryError(f"answered {response.status} {response.reason}")
        return answer


class _TimedSocket:
    """What `http.client` asks of a socket, with one deadline for all of it.

    A socket's own timeout is for each read: a server that drips could hold a sink for hours.
    """

    def __init__(self, connected: socket.socket, clock: Clock, stop_ns: int) -> None:
        self._socket, self._clock, self._stop_ns = connected, clock, stop_ns

    def sendall(self, data: bytes) -> None:
        self.set_timeout()
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self, self._socket.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._socket.close()

    def set_timeout(self) -> None:
        remaining_s = ns_to_second(self._stop_ns - self._clock.now_ns())
        if remaining_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(remaining_s)


class _TimedReader(io.RawIOBase):
    """Reads from a socket as long as there is time."""

    def __init__(self, timed: _TimedSocket, raw: socket.SocketIO) -> None:
        self._timed, self._raw = timed, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        self._timed.set_timeout()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
