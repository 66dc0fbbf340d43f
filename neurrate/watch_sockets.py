"""The sockets of a watcher: it subscribes, and nothing that it does can slow a publisher down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contracts.address import check_connectable
from contracts.errors import UserError

if TYPE_CHECKING:
    import zmq

NARRATION_TOPICS = (b"narration.", b"stats")
MARK_TOPICS = (b"mark.",)

MAX_MESSAGE_BYTES = 1 << 20
"""Narrations, statistics and marks take a few kB."""


@contextmanager
def subscribed(
    endpoint: str, topics: Sequence[bytes], *, setting: str
) -> Iterator[zmq.Socket[bytes]]:
    """Subscribe to topics of a publisher, whether it is up yet or not.

    Parameters
    ----------
    endpoint : str
        Where it publishes.
    topics : sequence of bytes
    setting : str
        Where the address was given, for the error.

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
