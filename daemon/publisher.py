"""The publisher: where everything leaves the daemon, an XPUB socket with a last-value cache.

A new subscriber is sent the last narration of each population that it subscribes to, the last mark
and the unit table of each stream, and what the daemon is, marked ``"repeat": true``. libzmq cannot
send several messages to one subscriber alone, so every subscriber to that topic receives the repeat
and should ignore it.
A slow subscriber loses its own messages and no other's. A guard stands in front of the socket
(`peer_guard.subscriber_guard`): what one subscriber may ask for is limited.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq

from contracts.address import check_bindable
from contracts.allow_list import ServerKeys
from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import UserError
from contracts.narration_wire import as_repeat
from peer_guard.sockets import bind_guarded

REMEMBERED = (b"narration.", b"mark.", b"units.", b"daemon", b"encoder")
"""Topics whose last message is kept for new subscribers; ``stats`` comes every second anyway."""

PARTIALS = b"partial."
ON_DEMAND = (PARTIALS, b"rates", b"probes")
"""Topics of messages that are made only while somebody subscribes to them."""

EVENTS_OF_A_STEP = 256
"""Subscriptions that are read in one step of the loop, which must go on."""

REPEAT_EVERY_NS = NS_PER_S // 10
"""Subscribers that come at once share one repeat; a flood of them costs ten messages a second."""

REPEAT_LARGE_EVERY_NS = NS_PER_S
LARGE_BYTES = 16 << 10
"""The same for larger messages, which are tables of units."""

FLUSH_MS = 1000
"""How long the last messages may take to leave at shutdown."""


class Publisher:
    """Publishes to any number of subscribers without waiting for one.

    In `address`, port 0 or ``*`` takes any free one. Either of `keys` and `is_insecure` allows an
    address that other machines can reach. Beyond `queue_messages` a slow subscriber's next messages
    are dropped.

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
        keys: ServerKeys | None = None,
        clock: Clock | None = None,
    ) -> None:
        wanted = check_bindable(
            address,
            setting="publish.bind",
            is_insecure=is_insecure,
            has_keys=keys is not None,
        )
        self.n_published = 0
        self._clock = clock or HostClock()
        self._last: dict[bytes, bytes] = {}
        self._repeat_due: set[bytes] = set()
        self._repeated_ns: dict[bytes, int] = {}
        # By topic of `ON_DEMAND`, the subscriptions that it is sent to.
        self._on_demand: dict[bytes, set[bytes]] = {topic: set() for topic in ON_DEMAND}
        self.socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.SNDHWM, queue_messages)
        self.socket.set(zmq.LINGER, FLUSH_MS)
        self.socket.set(zmq.XPUB_VERBOSE, 1)  # every subscription, not only each topic's first
        try:
            self._guard = bind_guarded(self.socket, wanted, setting="publish.bind", keys=keys)
        except UserError:
            self.socket.close()
            raise
        self.address = self._guard.address

    def publish(self, parts: Sequence[bytes]) -> None:
        """Send ``[topic, payload]`` to its subscribers; called on the fast loop, never waits."""
        # The cache holds what was sent last, whether anybody received it or not: a subscriber that
        # joins between two narrations is served from it.
        topic, payload = parts
        if topic.startswith(REMEMBERED):
            self._last[topic] = payload
        self.socket.send_multipart(parts)
        self.n_published += 1

    @property
    def has_partial_subscriber(self) -> bool:
        """Whether anybody subscribes to sentences that grow, all of them or one population's."""
        return self.has_subscriber(PARTIALS)

    def has_subscriber(self, topic: bytes) -> bool:
        """Whether anybody subscribes to one of `ON_DEMAND`, or to a part of it."""
        return bool(self._on_demand[topic])

    @property
    def dropped(self) -> dict[str, int]:
        """How many connections of subscribers were cut, by reason."""
        return self._guard.dropped

    @property
    def n_ignored(self) -> int:
        """Messages of subscribers that are no subscription."""
        return self._guard.n_ignored

    def serve(self) -> None:
        """Read some subscriptions, and repeat the last narrations to new ones; never waits.

        A topic is repeated at most once in `REPEAT_EVERY_NS` (`REPEAT_LARGE_EVERY_NS`), however
        many subscribe to it: the repeat goes to all of them.
        """
        new = set(self._read_subscriptions())
        if new:
            self._repeat_due.update(
                topic for topic in self._last if any(map(topic.startswith, new))
            )
        if self._repeat_due:
            self._repeat(self._clock.now_ns())

    def _read_subscriptions(self) -> Iterator[bytes]:
        """Yield each topic that is subscribed to, at most `EVENTS_OF_A_STEP`."""
        for _ in range(EVENTS_OF_A_STEP):
            if not int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
                return
            # An XPUB socket receives 1 + topic for each subscription, and 0 + topic once the last
            # subscriber to a topic has gone (RFC 29). The guard lets nothing else through.
            event = self.socket.recv()
            kind, subscription = event[:1], event[1:]
            if kind == b"\x00":
                for subscriptions in self._on_demand.values():
                    subscriptions.discard(subscription)
            elif kind == b"\x01":
                for topic, subscriptions in self._on_demand.items():
                    # Both ways: a subscription to all of them, or to one population.
                    if subscription.startswith(topic) or topic.startswith(subscription):
                        subscriptions.add(subscription)
                yield subscription

    def _repeat(self, now_ns: int) -> None:
        for topic in sorted(self._repeat_due):
            if now_ns >= self._repeated_ns.get(topic, now_ns):
                self._repeat_due.remove(topic)
                payload = self._last[topic]
                is_large = len(payload) > LARGE_BYTES
                self._repeated_ns[topic] = now_ns + (
                    REPEAT_LARGE_EVERY_NS if is_large else REPEAT_EVERY_NS
                )
                self.socket.send_multipart([topic, as_repeat(payload)])

    def close(self) -> None:
        """Close the socket; what is queued still leaves within `FLUSH_MS`."""
        self.socket.close()
        self._guard.close(flush_s=FLUSH_MS / 1000)
        self._guard.wait()
