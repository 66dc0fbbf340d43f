"""The two sockets of the plugin: what it sends, and the heartbeats that it is sent."""

from __future__ import annotations

import json
import secrets

import zmq

from contracts.address import TcpAddress, check_connectable
from contracts.clock import NS_PER_S, Clock
from contracts.errors import UserError
from stream_sources.rigs.unencrypted import warn_if_it_leaves

RECEIVE_MESSAGES = 200_000
"""Messages that wait for this process: 12 s of 384 channels in 43 blocks a second. libzmq's own
1,000 are full after 60 ms, and 1 s without reading lost 0.8 s."""

MAX_PART_BYTES = 1 << 24
"""A part beyond it is no block of the plugin's: 384 channels of 0.36 s in one."""

HEARTBEAT_NS = 2 * NS_PER_S
"""The plugin takes a client for gone after 5 s."""


class PluginConnection:
    """Connects to the data port, and for heartbeats to the port after it.

    libzmq connects again by itself whenever the GUI is closed and opened.

    Attributes
    ----------
    n_replies : int
        Heartbeats that the plugin has answered.

    Raises
    ------
    UserError
        If the address is not one of TCP.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, clock: Clock) -> None:
        parsed = check_connectable(address, setting="--connect")
        if not isinstance(parsed, TcpAddress) or parsed.port > 65_534:
            raise UserError("--connect must be tcp://HOST:PORT, the data port of the plugin.")
        warn_if_it_leaves(parsed)
        self.address = str(parsed)
        self.heartbeat_address = f"tcp://{parsed.host}:{parsed.port + 1}"
        self.n_replies = 0
        self._clock = clock
        self._next_heartbeat_ns = 0
        self._heartbeat = json.dumps(
            {"application": "Neurrate", "uuid": secrets.token_hex(16), "type": "heartbeat"}
        ).encode()
        self._requests = context.socket(zmq.REQ)
        # A reply that never comes must not end the heartbeats: another request may follow.
        self._requests.set(zmq.REQ_RELAXED, 1)
        self._requests.set(zmq.REQ_CORRELATE, 1)
        self._data = context.socket(zmq.SUB)
        self._data.set(zmq.RCVHWM, RECEIVE_MESSAGES)
        self._data.set(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        # Everything, not spikes alone: numbers count messages of all kinds, and data are the clock.
        self._data.subscribe(b"")
        for socket, at in ((self._requests, self.heartbeat_address), (self._data, self.address)):
            socket.set(zmq.LINGER, 0)
            socket.connect(at)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._data.closed

    def receive(self, wait_ms: int) -> list[bytes] | None:
        """Return the next message, or None if none comes within `wait_ms`."""
        self._keep_alive()
        try:
            return self._data.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            pass
        return self._data.recv_multipart() if self._data.poll(wait_ms) else None

    def close(self) -> None:
        """Close both sockets."""
        self._requests.close()
        self._data.close()

    def _keep_alive(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns < self._next_heartbeat_ns:
            return
        self._next_heartbeat_ns = now_ns + HEARTBEAT_NS
        if self._requests.poll(0):
            self._requests.recv()
            self.n_replies += 1
        if self._requests.poll(0, zmq.POLLOUT):
            self._requests.send(self._heartbeat, zmq.NOBLOCK)
