"""The listener: subscribe to the daemon or to a source, and yield typed messages as they arrive.

Every subscriber of this project uses it. `MessageReader` turns parts into values and has no
socket; `Listener` owns one.

No listener can slow a publisher down. It only subscribes, and its queue is its own: a listener
that does not read in time loses messages, and the daemon drops them for it alone. The one publisher
that waits for its subscribers is a lossless source (``neurrate stream --speed max``); whoever
listens to a source therefore takes an unbounded queue (`ANY_NUMBER`), which libzmq keeps reading
into on its own thread even while this program does something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import zmq

from contracts import wire
from contracts.address import check_connectable
from contracts.clock import Clock, HostClock
from contracts.daemon_json import DAEMON_TOPIC, DaemonIdentity, daemon_of
from contracts.displays import (
    ENCODER_TOPIC,
    PROBES_TOPIC,
    RATES_TOPIC,
    EncoderFacts,
    ProbeScores,
    Rates,
    encoder_of,
    probes_of,
    rates_of,
)
from contracts.errors import UserError, WireError
from contracts.keys import ClientKeys
from contracts.narration import Narration, PartialNarration
from contracts.narration_wire import load, narration_of, partial_of
from contracts.source_json import mark_of, units_of
from contracts.spikes import SourceMessage
from contracts.statistics import STATS_TOPIC, Statistics, statistics_of
from contracts.trigger import Trigger, trigger_of
from contracts.wire_header import Part
from subscribers.refusals import Refusals

NARRATION_TOPICS = (b"narration.", b"trigger.", STATS_TOPIC)
PARTIAL_TOPICS = (b"partial.",)
"""Sentences as they grow; the narrator sends them only while somebody subscribes to them."""

MARK_TOPICS = (b"mark.",)
"""Of a source, or of a daemon that publishes those of all of its sources."""

UNITS_TOPICS = (b"units.",)
"""Tables of the units of a daemon's streams; read as a `Hello`."""

DISPLAY_TOPICS = (RATES_TOPIC, PROBES_TOPIC, ENCODER_TOPIC)
"""What the daemon makes for displays: rates and probes while somebody subscribes."""

SPIKE_TOPICS = (b"spikes.",)

MAX_MESSAGE_BYTES = 1 << 20
"""Narrations, triggers, statistics and marks take a few kB. libzmq hangs up on a longer one."""

LARGE = (b"spikes.", b"hello.")
"""Topics whose messages may have `wire.MAX_MESSAGE_BYTES`."""

QUEUE = 1_000
"""Messages that wait to be read; the daemon's own default for one subscriber is the same."""

ANY_NUMBER = 0
"""Queue without a bound. The marks of an hour take 20 MB."""

N_REMEMBERED = 1_000
"""Ids of narrations. A repeat has the id of the last narration of some population, and a daemon
narrates a few tens of populations."""

Value = (
    Narration
    | PartialNarration
    | Trigger
    | Statistics
    | Rates
    | ProbeScores
    | EncoderFacts
    | DaemonIdentity
    | SourceMessage
)


@dataclass(frozen=True, slots=True)
class Received:
    """One message, and when it arrived.

    Attributes
    ----------
    host_ns : int
        This program's host clock, as soon as the message was taken from the socket.
    content : mapping
        The JSON object of a daemon's message as it was sent; empty for a source's message.
    """

    value: Value
    host_ns: int
    topic: str
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_repeat(self) -> bool:
        """Whether it was published before, and was sent again because somebody subscribed."""
        return bool(self.content.get("repeat"))


class MessageReader:
    """Turns the parts of messages into typed values. No socket here."""

    def __init__(self) -> None:
        self.n_unreadable = 0
        self.n_repeats = 0
        self._ids: dict[str, None] = {}  # a set that remembers the order of insertion

    def read(self, parts: Sequence[Part], *, host_ns: int) -> Received | None:
        """Return one message; None for a repeat, and for what cannot be read.

        A subscriber that has just connected, or whose connection was lost and is back, is sent
        the last narration of each population. ZeroMQ cannot send to one subscriber alone, so
        everybody receives it; only those who have not read it yet should see it.
        """
        try:
            received = parse(parts, host_ns=host_ns)
        except WireError:  # a publisher of another version, or another program altogether
            self.n_unreadable += 1
            return None
        if isinstance(received.value, Narration) and not self._is_new(received.value.id):
            self.n_repeats += 1
            return None
        return received

    def _is_new(self, narration_id: str) -> bool:
        if narration_id in self._ids:
            return False
        self._ids[narration_id] = None
        if len(self._ids) > N_REMEMBERED:
            del self._ids[next(iter(self._ids))]
        return True


def parse(parts: Sequence[Part], *, host_ns: int) -> Received:
    """Read one message of the daemon or of a source.

    Raises
    ------
    WireError
        If it follows neither docs/narration-format.md nor docs/wire-format.md.
    """
    topic = bytes(parts[0]).decode(errors="replace") if parts else ""
    kind = topic.partition(".")[0]
    if kind not in _READERS or (kind == "mark" and not _is_json(parts)):
        return Received(wire.unpack(parts, received_host_ns=host_ns), host_ns, topic)
    if len(parts) != 2:
        raise WireError("parts", f"a message of the daemon has 2 parts, got {len(parts)}")
    content = load(bytes(parts[1]))
    return Received(_READERS[kind](content), host_ns, topic, content)


def _is_json(parts: Sequence[Part]) -> bool:
    """Whether a message is the daemon's: no msgpack map begins with this byte."""
    return len(parts) > 1 and bytes(parts[1][:1]) == b"{"


_READERS: dict[str, Callable[[Mapping[str, Any]], Value]] = {
    "narration": narration_of,
    "partial": partial_of,
    "trigger": trigger_of,
    "mark": mark_of,
    "units": units_of,
    STATS_TOPIC.decode(): statistics_of,
    RATES_TOPIC.decode(): rates_of,
    PROBES_TOPIC.decode(): probes_of,
    ENCODER_TOPIC.decode(): encoder_of,
    DAEMON_TOPIC.decode(): daemon_of,
}


class Listener:
    """Subscribes to publishers, whether they are up yet or not, and reads what they send.

    libzmq connects again by itself after a publisher has gone and come back. To be used, and
    closed, by one thread.

    With `keys` it is encrypted, and only a publisher that has that key is listened to. One that
    refuses this subscriber is named in the log, once a minute.

    `topics` are prefixes; ``b""`` is everything. `queue` counts the messages that wait to be read,
    for each publisher; `ANY_NUMBER` for a source.

    Raises
    ------
    UserError
        If the address is not one.
    """

    def __init__(
        self,
        endpoint: str,
        topics: Sequence[bytes],
        *,
        setting: str,
        queue: int = QUEUE,
        keys: ClientKeys | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._reader = MessageReader()
        self._clock = clock or HostClock()
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.SUB)
        is_large = any(large.startswith(topic[: len(large)]) for large in LARGE for topic in topics)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES if is_large else MAX_MESSAGE_BYTES)
        self.socket.set(zmq.RCVHWM, queue)
        # A machine that lost its power has ended no connection: the system looks whether it is
        # there, so that it is connected to anew after some ten seconds.
        self.socket.set(zmq.TCP_KEEPALIVE, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_IDLE, 2)
        self.socket.set(zmq.TCP_KEEPALIVE_INTVL, 2)
        self.socket.set(zmq.TCP_KEEPALIVE_CNT, 4)
        self.refusals = Refusals(self.socket)
        if keys is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
        for topic in topics:
            self.socket.subscribe(topic)
        try:
            self.connect(endpoint, setting=setting)
        except UserError:
            self.close()
            raise

    @property
    def n_unreadable(self) -> int:
        """Messages that could not be read."""
        return self._reader.n_unreadable

    @property
    def n_repeats(self) -> int:
        """Narrations that had been read before."""
        return self._reader.n_repeats

    def connect(self, endpoint: str, *, setting: str) -> None:
        """Listen to one more publisher, with the same topics.

        Raises
        ------
        UserError
            If the address is not one.
        """
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise UserError(
                f"{setting} takes an address such as tcp://127.0.0.1:5571, got {endpoint!r}: "
                f"{error}."
            ) from error
        # libzmq accepts ports that do not exist and connects to others: 99999 becomes 34463.
        check_connectable(endpoint, setting=setting)

    def wait(self, wait_ms: int) -> bool:
        """Wait for a message of any kind; return whether one has arrived."""
        self.refusals.look()
        return bool(self.socket.poll(wait_ms))

    def messages(self, *, wait_ms: int = 0, limit: int | None = None) -> Iterator[Received]:
        """Yield what has arrived, and end when nothing more is waiting.

        `wait_ms` is for the first message. `limit` counts messages taken from the socket, repeats
        and unreadable ones included, so that a publisher that never pauses cannot keep the caller
        from its other work.
        """
        n_taken = 0
        self.refusals.look()
        if wait_ms and not self.wait(wait_ms):
            return
        while limit is None or n_taken < limit:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            n_taken += 1
            received = self._reader.read(parts, host_ns=self._clock.now_ns())
            if received is not None:
                yield received

    def close(self) -> None:
        """Close the socket; what has not been read is lost."""
        self.refusals.close()
        self.socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
