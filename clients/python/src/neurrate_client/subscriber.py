"""Subscribers: a loop or an ``async for`` over what a daemon publishes.

libzmq connects again by itself after the daemon, or the cable, has gone and come back, and
subscribes anew; heartbeats find a connection that is dead without being closed. The daemon then
sends its last values again, and the numbers of the messages say what was missed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self, cast

import zmq
import zmq.asyncio

from neurrate_client.addresses import check_connectable
from neurrate_client.keys import FilePath, use_keys
from neurrate_client.reader import Event, Reader
from neurrate_client.refusals import Refusals

ADDRESS = "tcp://127.0.0.1:5571"
"""Where a daemon publishes unless it is told otherwise."""

TOPICS = ("narration.", "trigger.", "mark.", "units.", "stats", "daemon")
"""Everything but growing sentences, which the daemon makes only while somebody wants them."""

MAX_MESSAGE_BYTES = 1 << 20
"""The largest, tables of units, take half of it. libzmq hangs up on a longer one."""

QUEUE = 1_000
"""Messages that wait to be read; beyond them this subscriber loses messages."""

LOOK_MS = 1_000
"""In silence, whether the daemon refuses is looked at so often."""

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2_000, 6_000


class _Connection:
    """What both subscribers share: a socket, and what is known of its messages."""

    def __init__(
        self,
        kind: type[zmq.Context[Any]],
        address: str,
        topics: Sequence[str],
        queue: int,
        keys: tuple[FilePath | None, FilePath | None],
    ) -> None:
        check_connectable(address)
        self.reader = Reader()
        self._waiting: deque[Event] = deque()
        self._context = kind()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.set(zmq.RCVHWM, queue)
        self._socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        self._refusals = Refusals(self._socket)
        for topic in topics:
            self._socket.subscribe(topic.encode())
        try:
            use_keys(self._socket, *keys)
        except (OSError, ValueError):
            self.close()
            raise
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(
                f"an address is such as {ADDRESS}, got {address!r}: {error}."
            ) from error

    def close(self) -> None:
        """Close the socket; what has not been read is lost."""
        if not self._socket.closed:
            self._refusals.close()
        self._socket.close()
        self._context.term()


class Subscriber(_Connection):
    """Yields messages, and `Lost` where some are missing, in a blocking loop. For one thread.

    ``reader.latest`` holds the last message of each topic, ``reader.n_lost`` and its other counters
    what went wrong.

    Parameters
    ----------
    address : str
        What the daemon binds: ``tcp://127.0.0.1:5571``. It need not be up yet.
    topics : sequence of str
        Prefixes: ``narration.VISp``, ``trigger.``; an empty text is everything.
    queue : int
        Messages that wait to be read.
    key, server_key : path
        Where the daemon has keys: ``NAME.key_secret`` of one's own, and the daemon's ``NAME.key``.

    Raises
    ------
    ValueError
        If the address is not one, or a file holds no key.
    OSError
        If a key cannot be read.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        topics: Sequence[str] = TOPICS,
        *,
        queue: int = QUEUE,
        key: FilePath | None = None,
        server_key: FilePath | None = None,
    ) -> None:
        super().__init__(zmq.Context, address, topics, queue, (key, server_key))

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """Return the next message or hole; None if none came in time."""
        deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not self._waiting:
            self._refusals.look()
            # Below zero where messages came all the time, and none of them could be read.
            left_ms = 1000 * (deadline_s - time.monotonic())
            if left_ms >= -0.5 and self._socket.poll(round(min(left_ms, LOOK_MS))):
                self._waiting += self.reader.read(self._socket.recv_multipart())
            elif left_ms <= LOOK_MS:
                return None
        return self._waiting.popleft()

    def __iter__(self) -> Iterator[Event]:
        while not self._socket.closed:
            event = self.receive()
            if event is not None:
                yield event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSubscriber(_Connection):
    """The same for asyncio: ``async with``, ``async for`` and ``await receive()``."""

    def __init__(
        self,
        address: str = ADDRESS,
        topics: Sequence[str] = TOPICS,
        *,
        queue: int = QUEUE,
        key: FilePath | None = None,
        server_key: FilePath | None = None,
    ) -> None:
        super().__init__(zmq.asyncio.Context, address, topics, queue, (key, server_key))
        self._awaited = cast("zmq.asyncio.Socket", self._socket)

    async def receive(self, timeout_s: float | None = None) -> Event | None:
        """Return the next message or hole; None if none came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._waiting:
                    # Taken without waiting, and waited for by a poll: a receive that is cancelled
                    # while it waits may lose a message.
                    try:
                        parts = await self._awaited.recv_multipart(zmq.NOBLOCK)
                    except zmq.Again:
                        self._refusals.look()
                        await self._awaited.poll(LOOK_MS)
                        continue
                    self._waiting += self.reader.read(parts)
                    if not self._waiting:  # others get their turn, and the timeout its effect
                        await asyncio.sleep(0)
        except TimeoutError:
            return None
        return self._waiting.popleft()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while not self._socket.closed:
            event = await self.receive()
            if event is not None:
                yield event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
