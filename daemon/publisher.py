"""The publisher: where everything leaves the daemon, an XPUB socket with a last-value cache.

A new subscriber is sent the last narration of each population that it subscribes to, marked
``"repeat": true``. libzmq cannot send several messages to one subscriber alone, so every subscriber
to that population receives the repeat and should ignore it.
A slow subscriber loses its own messages and no other's.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from contracts.address import MAX_REQUEST_BYTES, cannot_bind, check_bindable
from contracts.narration_wire import as_repeat

REMEMBERED = b"narration."
"""Topics whose last message is kept for new subscribers; ``stats`` comes every second anyway."""

FLUSH_MS = 1000
"""How long the last messages may take to leave at shutdown."""


class Publisher:
    """Publishes to any number of subscribers without waiting for one.

    In `address`, port 0 or ``*`` takes any free one; `is_insecure` allows an address that other
    machines can reach. Beyond `queue_messages` a slow subscriber's next messages are dropped.

    Raises
    ------
    UserError
        If the address is taken, or is not loopback and not allowed.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        *,
        queue_messages: int = 1000,
        is_insecure: bool = False,
    ) -> None:
        bindable = check_bindable(address, setting="publish.bind", is_insecure=is_insecure)
        self.n_published = 0
        self._last: dict[bytes, bytes] = {}
        self._subscribed: set[bytes] = set()
        self.socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.SNDHWM, queue_messages)
        self.socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self.socket.set(zmq.LINGER, FLUSH_MS)
        self.socket.set(zmq.XPUB_VERBOSE, 1)  # every subscription, not only each topic's first
        try:
            self.socket.bind(str(bindable))
        except zmq.ZMQError as error:
            self.socket.close()
            raise cannot_bind(address, error.errno or 0, setting="publish.bind") from error
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def publish(self, parts: Sequence[bytes]) -> None:
        """Send ``[topic, payload]`` to its subscribers; called on the fast loop, never waits."""
        # The cache holds what was sent last, whether anybody received it or not: a subscriber that
        # joins between two narrations is served from it.
        topic, payload = parts
        if topic.startswith(REMEMBERED):
            self._last[topic] = payload
        self.socket.send_multipart(parts)
        self.n_published += 1

    def has_subscriber(self, prefix: bytes) -> bool:
        """Return whether anybody subscribes to topics that begin with a prefix."""
        # Both ways: a subscription to all of it, or to one population of it.
        return any(
            topic.startswith(prefix) or prefix.startswith(topic) for topic in self._subscribed
        )

    def serve(self) -> None:
        """Send new subscribers the last narrations; never waits."""
        while int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            # An XPUB socket receives 1 + topic for each subscription, and 0 + topic once the last
            # subscriber to a topic has gone (RFC 29). Anything else is a peer's own message.
            event = self.socket.recv()
            kind, subscription = event[:1], event[1:]
            if kind == b"\x00":
                self._subscribed.discard(subscription)
            if kind != b"\x01":
                continue
            self._subscribed.add(subscription)
            for topic, payload in self._last.items():
                if topic.startswith(subscription):
                    self.socket.send_multipart([topic, as_repeat(payload)])

    def close(self) -> None:
        """Close the socket; what is queued still leaves within `FLUSH_MS`."""
        self.socket.close()
