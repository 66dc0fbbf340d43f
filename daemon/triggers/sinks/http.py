"""Triggers over HTTP: the JSON posted to an address, or a message to the Open Ephys GUI.

References
----------
Open Ephys GUI documentation, "Remote control": a PUT of ``{"text": ...}`` to ``/api/message`` on
port 37497 is broadcast to all processors while acquisition is active, and saved by all Record Nodes
(open-ephys/gui-docs, source/User-Manual/Remote-control.rst). The answer is the GUI's status, such
as ``{"mode": "IDLE"}`` (open-ephys/plugin-GUI, Source/Utils/OpenEphysHttpServer.h).
"""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from contracts.errors import WireError
from contracts.narration_wire import load
from daemon.triggers.sinks.thread import Delivery, DeliveryError
from daemon.triggers.tables import HttpSinkTable, OpenEphysSinkTable

MESSAGE_PATH = "/api/message"

MAX_ANSWER_BYTES = 65_536
"""Of an answer that is read; the GUI's status takes twenty."""

FIRST_PAUSE_S = 0.05
"""Before the first retry; twice as long before each next one."""


class HttpOutlet:
    """Posts the JSON of each trigger.

    Every delivery has a connection of its own: one that is kept open may have been closed by the
    other end, which is found out too late to say whether the trigger arrived.

    Parameters
    ----------
    table : HttpSinkTable
    """

    def __init__(self, table: HttpSinkTable) -> None:
        self._request = _Request(table.url, "POST", table.timeout_s, table.retries)

    def open(self) -> None:
        """Nothing to make ready."""

    def deliver(self, delivery: Delivery) -> None:
        """Post one."""
        self._request.send(delivery.payload)

    def tend(self) -> None:
        """Nothing to look after."""

    def close(self, *, deadline_s: float) -> None:
        """Nothing to let go of."""


class OpenEphysOutlet:
    """Broadcasts a message to all processors of the Open Ephys GUI.

    Parameters
    ----------
    table : OpenEphysSinkTable
    """

    def __init__(self, table: OpenEphysSinkTable) -> None:
        url = table.url.rstrip("/") + MESSAGE_PATH
        self._request = _Request(url, "PUT", table.timeout_s, table.retries)
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
        answer = self._request.send(json.dumps({"text": text}).encode())
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

    def __init__(self, url: str, method: str, timeout_s: float, retries: int) -> None:
        parts = urlsplit(url)
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._method, self._timeout_s, self._retries = method, timeout_s, retries

    def send(self, body: bytes) -> bytes:
        """Send a body; return the answer's.

        Raises
        ------
        DeliveryError
            If it did not arrive, after the last retry.
        """
        pause_s = FIRST_PAUSE_S
        for _ in range(self._retries):
            try:
                return self._send_once(body)
            except DeliveryError:
                time.sleep(pause_s)
                pause_s *= 2
        return self._send_once(body)

    def _send_once(self, body: bytes) -> bytes:
        connection = self._connection(self._host, self._port, timeout=self._timeout_s)
        try:
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
