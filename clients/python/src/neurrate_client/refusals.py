"""Says that a publisher ends our connections before their handshake: else there is only silence."""

from __future__ import annotations

import logging
import time
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

EVERY_S = 60.0

ENOUGH = 3
"""One after another: a publisher that is just being stopped ends a handshake too."""

logger = logging.getLogger(__name__)


class Refusals:
    """Follows the handshakes of a socket that connects. For its thread, and closed before it."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._watched = socket
        self._n_failed, self._next_s = 0, 0.0
        address = f"inproc://refusals-{id(self)}"
        socket.monitor(address, EVENTS)
        self._events = zmq.Socket(socket.context, zmq.PAIR)
        # Without a bound: libzmq's thread would wait for a program that does not look.
        self._events.set(zmq.RCVHWM, 0)
        self._events.set(zmq.LINGER, 0)
        self._events.connect(address)

    def look(self) -> None:
        """Log what has been refused, at most once a minute."""
        while int(self._events.get(zmq.EVENTS)) & zmq.POLLIN:
            event = parse_monitor_message(self._events.recv_multipart())
            self._n_failed += 1
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._n_failed = 0
            elif event["event"] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._warn(event, "has one of us keys, and the other none? Not tried again")
            elif self._n_failed >= ENOUGH:
                self._warn(event, "is our key on its list, and its key the one that we were given?")

    def _warn(self, event: Any, question: str) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + EVERY_S
            logger.warning("%s refuses us: %s", event["endpoint"].decode(), question)

    def close(self) -> None:
        """End it; again, nothing."""
        if not self._events.closed:
            self._watched.monitor(None, 0)
            self._events.close()
