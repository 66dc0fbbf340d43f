"""Subscribers of another process or thread, waited for without a pause."""

from __future__ import annotations

import zmq

from daemon.publisher import Publisher

DEADLINE_MS = 60_000


def take_subscriptions(daemon: Publisher, n: int) -> list[bytes]:
    """Return the topics of the next subscriptions; from then on the publisher sends them.

    They are taken from the publisher, which therefore repeats nothing for them.
    """
    daemon.socket.set(zmq.RCVTIMEO, DEADLINE_MS)
    events = [daemon.socket.recv() for _ in range(n)]
    assert all(event[:1] == b"\x01" for event in events)
    return sorted(event[1:] for event in events)
