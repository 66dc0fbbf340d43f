"""The framing of ZMTP, as far as a guard must know it. No socket here.

A connection begins with a greeting (64 bytes; 12 in version 2), then a first frame that names the
peer's kind of socket (version 3) or its identity (version 2), then frames: a byte of flags, the
length in 1 or 8 bytes, and the body.

References
----------
ZMTP 3.1, https://rfc.zeromq.org/spec/37/; ZMTP 2.0, https://rfc.zeromq.org/spec/15/
"""

from __future__ import annotations

from dataclasses import dataclass

MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame: another part follows, the length has 8 bytes, no message but a command."""

MAX_SHORT = 255
"""Of a body whose length is given in one byte."""

SIGNATURE_BYTES = 10
NULL_MECHANISM, CURVE_MECHANISM = b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0")
V2_GREETING_BYTES, V3_GREETING_BYTES = 12, 64
V2_SOCKET_TYPES = {1: b"PUB", 2: b"SUB", 9: b"XPUB", 10: b"XSUB"}

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + NULL_MECHANISM + bytes(32)
"""What a guard says where it speaks for itself: ZMTP 3.0, without security."""

SUBSCRIBE_TO_ALL = b"\x00\x01\x01"

MAX_COMMAND_BYTES = 4096
"""READY names two properties; a PING holds at most 16 bytes. libzmq's own are below 100."""

REASONS = (
    "greeting", "version", "mechanism", "socket_type", "handshake", "frame", "size", "parts",
    "commands", "request", "subscriptions", "connections", "key", "replay", "encryption",
)  # fmt: skip
"""Why a peer is disconnected.

``greeting``, ``version``, ``mechanism``, ``socket_type``
    It does not speak ZMTP, not version 2 or 3, has no keys where there are some or has some where
    there are none, or is no publisher where one is expected, or no subscriber.
``handshake``
    It did not introduce itself in time, or left or erred before it had.
``frame``
    Flags or a length that ZMTP does not have.
``size``, ``parts``
    A frame or message of too many bytes, a message of too many parts.
``commands``
    A source sent more heartbeats than it could need.
``request``
    A subscriber sent a message of several parts.
``subscriptions``
    One subscriber has too many, or they take too much memory.
``connections``
    From one machine: too many at once. In all: no more are accepted until one has left.
``key``
    Its key is not on the list, or is no longer; or one side has another public key of the other
    than the right one.
``replay``
    It sent what was recorded of another connection, or a message twice.
``encryption``
    What it sent was changed on the way, or is not what CURVE says.
"""


class PeerViolation(Exception):  # noqa: N818 - what the peer did, no error of ours
    """A peer broke a rule; its connection is to be closed."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail  # for the log


def ready(socket_type: bytes) -> bytes:
    """Return the command that says which kind of socket one is."""
    return command(b"\x05READY" + socket_type_property(socket_type))


def socket_type_property(socket_type: bytes) -> bytes:
    """Return the property of a READY that says which kind of socket one is."""
    return b"\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type


def command(body: bytes) -> bytes:
    """Return a command."""
    return frame(COMMAND, body)


def frame(flags: int, body: bytes) -> bytes:
    """Return one frame."""
    if len(body) > MAX_SHORT:
        return bytes((flags | LONG,)) + len(body).to_bytes(8, "big") + body
    return bytes((flags, len(body))) + body


def greeting_bytes(data: bytes | bytearray, *, mechanism: bytes = NULL_MECHANISM) -> int:
    """Return the length of a greeting at the beginning of `data`; 0 while it is incomplete.

    Raises
    ------
    PeerViolation
        As soon as the bytes can be no greeting.
    """
    if data and (data[0] != 0xFF or (len(data) >= SIGNATURE_BYTES and not data[9] & 1)):
        raise PeerViolation("greeting")
    if len(data) <= SIGNATURE_BYTES:
        return 0
    revision = data[SIGNATURE_BYTES]
    if revision == 1:  # ZMTP 2.0
        return V2_GREETING_BYTES if len(data) >= V2_GREETING_BYTES else 0
    if revision < 3:
        raise PeerViolation("version")
    if len(data) < V3_GREETING_BYTES:
        return 0
    if data[12:32] != mechanism:
        raise PeerViolation("mechanism", _other_mechanism(bytes(data[12:32])))
    return V3_GREETING_BYTES


def _other_mechanism(asked: bytes) -> str:
    """Say for the log what a peer has in place of what it should have."""
    return {
        NULL_MECHANISM: "it has no keys, and needs some here",
        CURVE_MECHANISM: "it asks for keys, and there are none here",
    }.get(asked, "")


def frame_header(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int, int] | None:
    """Return flags, length and begin of the body of the frame that begins at `at`; None if cut off.

    Raises
    ------
    PeerViolation
        If there are no such flags or no such length.
    """
    if len(data) < at + 2:
        return None
    flags = data[at]
    if flags > (MORE | LONG | COMMAND) or flags & (MORE | COMMAND) == (MORE | COMMAND):
        raise PeerViolation("frame")
    if not flags & LONG:
        return flags, data[at + 1], at + 2
    if len(data) < at + 9:
        return None
    length = int.from_bytes(data[at + 1 : at + 9], "big")
    if length >> 63:
        raise PeerViolation("frame")
    return flags, length, at + 9


class Handshake:
    """The greeting and the first frame of a peer that must be one of some kinds of socket."""

    def __init__(self, socket_types: frozenset[bytes]) -> None:
        self._socket_types = socket_types
        self._data = bytearray()
        self._n_passed = 0
        self._n_greeting = 0
        self.is_done = False

    @property
    def has_greeted(self) -> bool:
        """Whether the greeting is whole."""
        return self._n_greeting > 0

    @property
    def is_v2(self) -> bool:
        """Whether the greeting is that of ZMTP 2.0."""
        return self._n_greeting == V2_GREETING_BYTES

    def read(self, chunk: bytes | memoryview) -> tuple[bytes, bytes]:
        """Return what may be passed on, and, once it is done, what came after it.

        Raises
        ------
        PeerViolation
            If it is no handshake.
        """
        self._data += chunk
        if not self._n_greeting:
            self._n_greeting = greeting_bytes(self._data)
            if self.is_v2:
                self._check_type(V2_SOCKET_TYPES.get(self._data[V2_GREETING_BYTES - 1], b""))
        # A peer sends its signature, and the rest once it has seen ours: it cannot be held back.
        n_passed = len(self._data) if len(self._data) >= SIGNATURE_BYTES else 0
        if self._n_greeting:
            n_passed = self._first_frame_end() or self._n_greeting
        passed = bytes(self._data[self._n_passed : n_passed])
        self._n_passed = n_passed
        return passed, bytes(self._data[n_passed:]) if self.is_done else b""

    def _first_frame_end(self) -> int:
        """Return where the first frame ends, once it is whole; until then 0.

        Raises
        ------
        PeerViolation
            If it is no frame that introduces a peer.
        """
        header = frame_header(self._data, self._n_greeting)
        if header is None:
            return 0
        flags, length, begin = header
        if flags & MORE or bool(flags & COMMAND) == self.is_v2:
            raise PeerViolation("handshake")
        if length > MAX_COMMAND_BYTES:
            raise PeerViolation("size")
        if len(self._data) < begin + length:
            return 0
        if not self.is_v2:
            self._check_ready(bytes(self._data[begin : begin + length]))
        self.is_done = True
        return begin + length

    def _check_ready(self, body: bytes) -> None:
        if body[:6] != b"\x05READY":
            raise PeerViolation("handshake")
        at = 6
        while at < len(body):  # properties: 1 byte and name, 4 bytes and value
            name_end = at + 1 + body[at]
            value_begin = name_end + 4
            at = value_begin + int.from_bytes(body[name_end:value_begin], "big")
            if at > len(body):
                raise PeerViolation("handshake")
            if body[name_end - 11 : name_end].lower() == b"socket-type":
                self._check_type(body[value_begin:at])
                return
        raise PeerViolation("handshake")

    def _check_type(self, socket_type: bytes) -> None:
        if socket_type not in self._socket_types:
            raise PeerViolation("socket_type")


@dataclass(frozen=True, slots=True)
class SubscriberLimits:
    """What one subscriber may ask for."""

    request_bytes: int
    topics: int = 1000
    topic_bytes: int = 16_384


class SubscriberStream:
    """What a subscriber sends: requests, of which only those that concern topics are passed on.

    Topics that begin with `asks`, if it is given, are no subscriptions: `asked` collects them.
    """

    def __init__(self, limits: SubscriberLimits, *, asks: bytes = b"") -> None:
        self._limits = limits
        self._asks = asks
        self.asked: list[bytes] = []
        self._handshake = Handshake(frozenset((b"SUB", b"XSUB")))
        self._passed = bytearray()  # of the handshake
        self._data = bytearray()  # after it
        self._topics: set[bytes] = set()
        self.topic_bytes = 0
        self.n_ignored = 0  # messages that were no request

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over."""
        return self._handshake.is_done

    @property
    def has_request(self) -> bool:
        """Whether a whole request waits to be taken."""
        header = frame_header(self._data, 0)
        return header is not None and header[1] + header[2] <= len(self._data)

    def add(self, chunk: bytes) -> None:
        """Add what has arrived.

        Raises
        ------
        PeerViolation
            If it is no handshake.
        """
        if not self.is_ready:
            passed, chunk = self._handshake.read(chunk)
            self._passed += passed
        self._data += chunk

    def take(self, n_requests: int) -> tuple[bytes, int]:
        """Return what may be passed on, and how many requests (at most so many) were read.

        Raises
        ------
        PeerViolation
            With what is wrong.
        """
        taken = bytearray(self._passed)
        self._passed.clear()
        n_read = at = 0
        while n_read < n_requests:
            header = frame_header(self._data, at)
            if header is None:
                break
            flags, length, begin = header
            if length > self._limits.request_bytes:
                raise PeerViolation("size")
            if flags & MORE:
                raise PeerViolation("request")
            if len(self._data) < begin + length:
                break
            n_read += 1
            if self._is_wanted(flags, bytes(self._data[begin : begin + length])):
                taken += self._data[at : begin + length]
            at = begin + length
        del self._data[:at]
        return bytes(taken), n_read

    def _is_wanted(self, flags: int, body: bytes) -> bool:
        """Note what is subscribed to; return whether a request is one that concerns the socket.

        Raises
        ------
        PeerViolation
            If it is one subscription too many.
        """
        if flags & COMMAND:
            name = body[1 : 1 + body[0]] if body else b""
            if name in (b"PING", b"PONG"):
                return True
            action, topic = _ACTIONS.get(name), body[1 + len(name) :]
        else:
            action, topic = _ACTIONS.get(body[:1]), body[1:]
        if action is None:
            self.n_ignored += 1
            return False
        if self._asks and topic.startswith(self._asks):
            if action:
                self.asked.append(topic)
            return False
        if not action:
            if topic not in self._topics:
                return False
            self._topics.remove(topic)
            self.topic_bytes -= len(topic)
        elif topic not in self._topics:
            self._topics.add(topic)
            self.topic_bytes += len(topic)
            limits = self._limits
            if len(self._topics) > limits.topics or self.topic_bytes > limits.topic_bytes:
                raise PeerViolation("subscriptions")
        return True


_ACTIONS = {b"\x01": True, b"SUBSCRIBE": True, b"\x00": False, b"CANCEL": False}
"""Whether a request subscribes; as a message (ZMTP 3.0) and as a command (3.1)."""
