"""The handshake of CURVE, for connections that a guard ends itself. No socket here.

Theory of operation
-------------------
Whoever listens is the server of CURVE, whoever connects its client. Both have a pair of keys that
lasts and make another for each connection, so that what was recorded cannot be read once a key is
lost. In four commands, the last of which is answered to nobody who may not come in::

    client                                        server
    HELLO     a key of this connection,      -->  opened with the server's own key: who does not
              a box of zeros                      know its public half goes no further
                                             <--  WELCOME  a key of this connection, a cookie
    INITIATE  the cookie, the client's       -->  the cookie is this connection's; the client has
              lasting key, and proof of it        its key's secret half; the key is on the list
                                             <--  READY

What passes either way is given as ZMTP is without encryption (`CurveEnd.receive`) and taken as such
(`CurveServer.seal`, `CurveClient.seal`), so that whoever checks frames need not know of it.

Invariants (``tests/peer_guard/test_curve.py``):

1. Nothing of a peer is passed on before its key was found on the list:
   ``test_nothing_is_passed_on_before_the_key_is_allowed``
2. What was recorded of a connection opens no other: ``test_recorded_handshake_is_refused``
3. Counters only grow, ours and the peer's: ``test_repeated_message_is_refused``
4. Whatever arrives, nothing but `PeerViolation` is raised: ``test_noise_is_a_violation``

The cookie is random and kept with the connection, which the guard bounds anyway; one that the
server could forget, as the specification has it, would only save that.

References
----------
CurveZMQ, https://rfc.zeromq.org/spec/26/; its use in ZMTP, https://rfc.zeromq.org/spec/25/
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from nacl.bindings import (
    crypto_box_beforenm,
    crypto_box_keypair,
)
from nacl.exceptions import CryptoError

from contracts.errors import shown
from contracts.keys import KEY_BYTES, KeyPair, to_z85
from peer_guard.curve_frames import (
    COUNTER_BYTES,
    MAC_BYTES,
    OVERHEAD_BYTES,
    FrameCutter,
    Opener,
    Sealer,
    open_box,
    seal_box,
)
from peer_guard.zmtp import (
    COMMAND,
    CURVE_MECHANISM,
    GREETING,
    MAX_COMMAND_BYTES,
    SIGNATURE_BYTES,
    V3_GREETING_BYTES,
    PeerViolation,
    frame,
    greeting_bytes,
    socket_type_property,
)

HELLO, WELCOME, INITIATE = b"\x05HELLO", b"\x07WELCOME", b"\x08INITIATE"
READY, ERROR = b"\x05READY", b"\x05ERROR"
VERSION = b"\x01\x00"

LONG_NONCE_BYTES, COOKIE_BYTES = 16, 96
VOUCH_BYTES = 2 * KEY_BYTES + MAC_BYTES
HELLO_ZEROS, HELLO_PADDING = 64, 72
"""The box of a HELLO holds nothing but that the sender can make one; padding, so that no answer is
longer than what it answers."""

HELLO_BYTES = len(HELLO + VERSION) + HELLO_PADDING + KEY_BYTES + COUNTER_BYTES
HELLO_BYTES += HELLO_ZEROS + MAC_BYTES
WELCOME_BYTES = len(WELCOME) + LONG_NONCE_BYTES + KEY_BYTES + COOKIE_BYTES + MAC_BYTES
INITIATE_BOX_AT = len(INITIATE) + COOKIE_BYTES + COUNTER_BYTES
MIN_INITIATE_BYTES = INITIATE_BOX_AT + MAC_BYTES + KEY_BYTES + LONG_NONCE_BYTES + VOUCH_BYTES

FROM_CLIENT, FROM_SERVER = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"

OTHER_SERVER_KEY = "it has another public key of this server"
NOT_LISTED = "its key is not on the list"


def new_pair() -> KeyPair:
    """Make a pair of keys that did not exist before."""
    return KeyPair(*crypto_box_keypair())


def curve_greeting(*, is_server: bool) -> bytes:
    """Return the greeting of one side: ZMTP 3.0 with CURVE."""
    return GREETING[:12] + CURVE_MECHANISM + bytes((is_server,)) + GREETING[33:]


class CurveEnd:
    """One side of a connection: bytes of the peer in, ZMTP without encryption out.

    `max_body_bytes` limits the frames that the peer may send once it is let in.
    """

    def __init__(self, max_body_bytes: int, *, is_server: bool) -> None:
        self.is_ready = False
        self._max_body_bytes = max_body_bytes
        self._greeting = b""  # of the peer, until it is whole
        self._has_greeted = False
        self._cutter = FrameCutter(MAX_COMMAND_BYTES)
        self._reply = curve_greeting(is_server=is_server)
        self._short = new_pair()  # of this connection

    @property
    def has_signature(self) -> bool:
        """Whether the peer speaks ZMTP, as far as it has spoken."""
        return len(self._greeting) >= SIGNATURE_BYTES

    def take_reply(self) -> bytes:
        """Return what is to be sent to the peer now; often nothing."""
        reply, self._reply = self._reply, b""
        return reply

    def receive(self, chunk: bytes) -> bytes:
        """Return what the peer would have sent without encryption.

        Raises
        ------
        PeerViolation
            With what is wrong.
        """
        if not self._has_greeted:
            self._greeting += chunk
            n_bytes = greeting_bytes(self._greeting, mechanism=CURVE_MECHANISM)
            if not n_bytes:
                return b""
            if n_bytes != V3_GREETING_BYTES:  # ZMTP 2 has no encryption
                raise PeerViolation("version")
            self._has_greeted = True
            chunk = self._greeting[n_bytes:]
            self._begin()
        plain = []
        for flags, body in self._cutter.frames(chunk):
            if self.is_ready:
                plain.append(self._opener.open(flags, body))
            elif flags != COMMAND:
                raise PeerViolation("handshake")
            else:
                plain.append(self._shake_hands(body))
        return b"".join(plain)

    def _begin(self) -> None:
        """Do what follows the peer's greeting."""

    def _shake_hands(self, body: bytes) -> bytes:
        """Take a command of the handshake; once it is done, return an introduction without it."""
        raise NotImplementedError

    def _let_in(self, metadata: bytes, opener: Opener, sealer: Sealer) -> bytes:
        self._opener, self._sealer = opener, sealer
        self._cutter.max_body_bytes = self._max_body_bytes + OVERHEAD_BYTES
        self.is_ready = True
        return GREETING + frame(COMMAND, READY + metadata)


class CurveServer(CurveEnd):
    """The side that listens, in front of a socket of `socket_type`.

    `is_allowed` is asked for the public key of each client. Of what a client sends only a greeting
    is given before the socket's own has been sealed: libzmq takes an introduction that comes
    earlier for an error, now and then. What is held meanwhile is given by `take_held`.
    """

    def __init__(
        self,
        own: KeyPair,
        is_allowed: Callable[[bytes], bool],
        *,
        socket_type: bytes,
        max_body_bytes: int,
    ) -> None:
        super().__init__(max_body_bytes, is_server=True)
        self.client_key = b""  # the lasting one, once it is allowed
        self._own = own
        self._is_allowed = is_allowed
        self._metadata = socket_type_property(socket_type)
        self._cookie = b""
        self._client = b""  # its key of this connection
        self._counter = 0
        self._n_unskipped = V3_GREETING_BYTES  # of the socket's greeting
        self._held = b""
        self._has_passed_greeting = False

    def seal(self, chunk: bytes | memoryview) -> bytes:
        """Encrypt what the socket behind sends, without its greeting and introduction."""
        chunk = bytes(chunk)
        if self._n_unskipped > 0:
            self._n_unskipped, chunk = self._n_unskipped - len(chunk), chunk[self._n_unskipped :]
        return self._sealer.seal(chunk)

    @property
    def is_holding(self) -> bool:
        """Whether nothing more should be received until the socket behind has greeted."""
        return self._has_passed_greeting and self._n_unskipped > 0

    def receive(self, chunk: bytes) -> bytes:
        """Return what the peer would have sent without encryption, as far as it is due.

        Raises
        ------
        PeerViolation
            With what is wrong.
        """
        plain = super().receive(chunk)
        if not plain or self._n_unskipped <= 0:
            return plain
        self._held += plain
        if self._has_passed_greeting:
            return b""
        self._has_passed_greeting, self._held = True, self._held[V3_GREETING_BYTES:]
        return GREETING

    def take_held(self) -> bytes:
        """Return what was held back, once the socket behind has greeted."""
        if self.is_holding:
            return b""
        held, self._held = self._held, b""
        return held

    def _shake_hands(self, body: bytes) -> bytes:
        if not self._cookie:
            self._take_hello(body)
            return b""
        return self._take_initiate(body)

    def _take_hello(self, body: bytes) -> None:
        if not body.startswith(HELLO + VERSION) or len(body) != HELLO_BYTES:
            raise PeerViolation("handshake")
        at = len(HELLO + VERSION) + HELLO_PADDING
        self._client, at = body[at : at + KEY_BYTES], at + KEY_BYTES
        nonce = body[at : at + COUNTER_BYTES]
        self._counter = int.from_bytes(nonce, "big")
        shared = shared_key(self._client, self._own.secret)
        try:
            open_box(body[at + COUNTER_BYTES :], b"CurveZMQHELLO---" + nonce, shared)
        except PeerViolation as error:
            raise PeerViolation("key", OTHER_SERVER_KEY) from error
        self._cookie = secrets.token_bytes(COOKIE_BYTES)
        long_nonce = secrets.token_bytes(LONG_NONCE_BYTES)
        box = seal_box(self._short.public + self._cookie, b"WELCOME-" + long_nonce, shared)
        self._reply += frame(COMMAND, WELCOME + long_nonce + box)

    def _take_initiate(self, body: bytes) -> bytes:
        if not body.startswith(INITIATE) or len(body) < MIN_INITIATE_BYTES:
            raise PeerViolation("handshake")
        cookie_end = len(INITIATE) + COOKIE_BYTES
        if not secrets.compare_digest(body[len(INITIATE) : cookie_end], self._cookie):
            raise PeerViolation("replay")
        nonce = body[cookie_end:INITIATE_BOX_AT]
        counter = int.from_bytes(nonce, "big")
        if counter <= self._counter:
            raise PeerViolation("replay")
        shared = shared_key(self._client, self._short.secret)
        opened = open_box(body[INITIATE_BOX_AT:], b"CurveZMQINITIATE" + nonce, shared)
        client_key, rest = opened[:KEY_BYTES], opened[KEY_BYTES:]
        vouch_end = LONG_NONCE_BYTES + VOUCH_BYTES
        vouched = open_box(
            rest[LONG_NONCE_BYTES:vouch_end],
            b"VOUCH---" + rest[:LONG_NONCE_BYTES],
            shared_key(client_key, self._short.secret),
        )
        if not secrets.compare_digest(vouched, self._client + self._own.public):
            raise PeerViolation("encryption")
        if not self._is_allowed(client_key):
            raise PeerViolation("key", f"{NOT_LISTED}: {to_z85(client_key)}")
        self.client_key = client_key
        first = (1).to_bytes(COUNTER_BYTES, "big")
        box = seal_box(self._metadata, b"CurveZMQREADY---" + first, shared)
        self._reply += frame(COMMAND, READY + first + box)
        opener, sealer = Opener(shared, FROM_CLIENT, counter), _BehindIntroduction(shared)
        return self._let_in(rest[vouch_end:], opener, sealer)


class _BehindIntroduction(Sealer):
    """Encrypts what a server's socket sends, but for the first frame, which introduces it."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key, FROM_SERVER, counter=1)
        self._is_introduced = False

    def _seal_one(self, flags: int, body: bytes) -> bytes:
        if self._is_introduced:
            return super()._seal_one(flags, body)
        self._is_introduced = True
        return b""


class CurveClient(CurveEnd):
    """The side that connects, as a socket of `socket_type`, to a server whose key it knows."""

    def __init__(
        self, own: KeyPair, server: bytes, *, socket_type: bytes, max_body_bytes: int
    ) -> None:
        super().__init__(max_body_bytes, is_server=False)
        self.has_begun = False  # whether it has said HELLO
        self.is_welcome = False  # whether the server has answered it
        self._own = own
        self._server = server
        self._metadata = socket_type_property(socket_type)
        self._shared = b""

    def seal(self, chunk: bytes) -> bytes:
        """Encrypt frames."""
        return self._sealer.seal(chunk)

    def _begin(self) -> None:
        shared = shared_key(self._server, self._short.secret)
        nonce = (1).to_bytes(COUNTER_BYTES, "big")
        box = seal_box(bytes(HELLO_ZEROS), b"CurveZMQHELLO---" + nonce, shared)
        hello = HELLO + VERSION + bytes(HELLO_PADDING) + self._short.public + nonce + box
        self._reply += frame(COMMAND, hello)
        self.has_begun = True

    def _shake_hands(self, body: bytes) -> bytes:
        if body.startswith(ERROR):
            raise PeerViolation("key", f"it refuses: {shown(body[7:].decode(errors='replace'))}")
        if self.is_welcome:
            return self._take_ready(body)
        self._take_welcome(body)
        return b""

    def _take_welcome(self, body: bytes) -> None:
        if not body.startswith(WELCOME) or len(body) != WELCOME_BYTES:
            raise PeerViolation("handshake")
        box_at = len(WELCOME) + LONG_NONCE_BYTES
        nonce = b"WELCOME-" + body[len(WELCOME) : box_at]
        try:
            opened = open_box(body[box_at:], nonce, shared_key(self._server, self._short.secret))
        except PeerViolation as error:
            raise PeerViolation("key", "it has not the key that it should have") from error
        server, cookie = opened[:KEY_BYTES], opened[KEY_BYTES:]
        self._shared = shared_key(server, self._short.secret)
        long_nonce = secrets.token_bytes(LONG_NONCE_BYTES)
        vouch = seal_box(
            self._short.public + self._server,
            b"VOUCH---" + long_nonce,
            shared_key(server, self._own.secret),
        )
        nonce = (2).to_bytes(COUNTER_BYTES, "big")
        content = self._own.public + long_nonce + vouch + self._metadata
        box = seal_box(content, b"CurveZMQINITIATE" + nonce, self._shared)
        self._reply += frame(COMMAND, INITIATE + cookie + nonce + box)
        self.is_welcome = True

    def _take_ready(self, body: bytes) -> bytes:
        box_at = len(READY) + COUNTER_BYTES
        if not body.startswith(READY) or len(body) < box_at + MAC_BYTES:
            raise PeerViolation("handshake")
        nonce = body[len(READY) : box_at]
        metadata = open_box(body[box_at:], b"CurveZMQREADY---" + nonce, self._shared)
        opener = Opener(self._shared, FROM_SERVER, int.from_bytes(nonce, "big"))
        return self._let_in(metadata, opener, Sealer(self._shared, FROM_CLIENT, counter=2))


def shared_key(public: bytes, secret: bytes) -> bytes:
    """Return what both ends can compute.

    Raises
    ------
    PeerViolation
        For a public key that any secret gives the same with.
    """
    try:
        return crypto_box_beforenm(public, secret)
    except CryptoError as error:
        raise PeerViolation("encryption") from error
