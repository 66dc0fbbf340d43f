"""The sockets of a watcher: it subscribes, and nothing that it does can slow a publisher down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contracts.address import check_connectable
from contracts.errors import UserError

if TYPE_CHECKING:
    import zmq

NARRATION_TOPICS = (b"narration.", b"trigger.", b"stats")
PARTIAL_TOPICS = (b"partial.",)
"""Sentences as they grow; the narrator sends them only while somebody asks for them."""

MARK_TOPICS = (b"mark.",)

MAX_MESSAGE_BYTES = 1 << 20
"""Narrations, triggers, statistics and marks take a few kB."""


QUEUE = 1_000
"""Messages; a watcher that reads none for longer loses its own."""

ANY_NUMBER = 0
"""For marks: a lossless source waits for whoever has a full queue. Those of an hour take 20 MB."""


@contextmanager
def subscribed(
    endpoint: str, topics: Sequence[bytes], *, setting: str, queue: int = QUEUE
) -> Iterator[zmq.Socket[bytes]]:
    """Subscribe to topics of a publisher, whether it is up yet or not.

    Parameters
    ----------
    endpoint : str
        Where it publishes.
    topics : sequence of bytes
    setting : str
        Where the address was given, for the error.
    queue : int
        Messages that wait to be read; 0 for any number.

    Yields
    ------
    socket : zmq.Socket

    Raises
    ------
    UserError
        If the address is none.
    """
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.set(zmq.RCVHWM, queue)
        for topic in topics:
            socket.subscribe(topic)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise UserError(
                f"{setting} takes an address such as tcp://127.0.0.1:5571, got {endpoint!r}: "
                f"{error}."
            ) from error
        # What libzmq lets pass: a port that is none becomes another port.
        check_connectable(endpoint, setting=setting)
        yield socket
