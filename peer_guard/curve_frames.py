"""Frames on a connection with CURVE: cut apart, decrypted, encrypted. No socket here.

Behind the handshake (`peer_guard.curve`) each frame of ZMTP travels in a MESSAGE: its name, a
counter, and a box of a byte of flags and the body. Ends without encryption on either side see
frames as they are without CURVE.

References
----------
CurveZMQ, https://rfc.zeromq.org/spec/26/
"""

from __future__ import annotations

from collections.abc import Iterator

from nacl.bindings import crypto_box_easy_afternm, crypto_box_open_easy_afternm
from nacl.exceptions import CryptoError

from peer_guard.zmtp import COMMAND, LONG, MORE, PeerViolation, frame, frame_header

MESSAGE = b"\x07MESSAGE"
COUNTER_BYTES = 8
BOX_AT = len(MESSAGE) + COUNTER_BYTES

MAC_BYTES = 16
"""What a box has more than its content (Poly1305)."""

OVERHEAD_BYTES = BOX_AT + MAC_BYTES + 1
"""What a MESSAGE has more than the body of its frame."""

INNER_COMMAND = 2
"""In the byte of flags within a MESSAGE, beside ``MORE``; on the outside it is 4."""

MAX_OWN_BODY = 1 << 62
"""What our own socket sends is not limited here."""


def seal_box(content: bytes, nonce: bytes, key: bytes) -> bytes:
    """Encrypt and authenticate."""
    return crypto_box_easy_afternm(content, nonce, key)


def open_box(box: bytes, nonce: bytes, key: bytes) -> bytes:
    """Decrypt what is authentic.

    Raises
    ------
    PeerViolation
        If it is not.
    """
    try:
        return crypto_box_open_easy_afternm(box, nonce, key)
    except CryptoError as error:
        raise PeerViolation("encryption") from error


class FrameCutter:
    """Cuts what arrives in chunks into whole frames; holds one that is not whole.

    `max_body_bytes` may be changed between two frames.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._held: list[bytes] = []
        self._n_held = 0
        self._n_needed = 2  # of a frame, before anything can be done with it

    def frames(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield flags, without ``LONG``, and body of each frame that is whole.

        To be read to its end, unless it raises.

        Raises
        ------
        PeerViolation
            If there are no such flags or no such length, or one that is not allowed: before the
            body has come.
        """
        self._held.append(chunk)
        self._n_held += len(chunk)
        if self._n_held < self._n_needed:
            return
        data = chunk if len(self._held) == 1 else b"".join(self._held)
        at, self._n_needed = 0, 2
        while (header := frame_header(data, at)) is not None:
            flags, length, begin = header
            if length > self.max_body_bytes:
                raise PeerViolation("size")
            if begin + length > len(data):
                self._n_needed = begin + length - at
                break
            at = begin + length
            yield flags & ~LONG, data[begin:at]
        rest = data[at:]
        self._held, self._n_held = [rest] if rest else [], len(rest)


class Opener:
    """Decrypts the messages of a peer, whose counter must grow from `counter` on."""

    def __init__(self, key: bytes, prefix: bytes, counter: int) -> None:
        self._key = key
        self._prefix = prefix
        self._counter = counter

    def open(self, flags: int, body: bytes) -> bytes:
        """Return the frame that is in the body of an encrypted one.

        Raises
        ------
        PeerViolation
            If it is no message, one that came before, or was changed on its way.
        """
        # As libzmq sends them, and as we do. The specification has them as commands; both at once
        # would leave a bit that may be turned over on the way.
        if flags or body[: len(MESSAGE)] != MESSAGE or len(body) < OVERHEAD_BYTES:
            raise PeerViolation("frame")
        nonce = body[len(MESSAGE) : BOX_AT]
        counter = int.from_bytes(nonce, "big")
        if counter <= self._counter:
            raise PeerViolation("replay")
        opened = open_box(body[BOX_AT:], self._prefix + nonce, self._key)
        self._counter = counter
        inner = opened[0]
        if inner > (MORE | INNER_COMMAND):
            raise PeerViolation("frame")
        outer = (inner & MORE) | (COMMAND if inner & INNER_COMMAND else 0)
        return frame(outer, opened[1:])


class Sealer:
    """Encrypts frames of our own, counting from `counter` + 1 on."""

    def __init__(self, key: bytes, prefix: bytes, counter: int) -> None:
        self._key = key
        self._prefix = prefix
        self._counter = counter
        self._cutter = FrameCutter(MAX_OWN_BODY)

    def seal(self, chunk: bytes) -> bytes:
        """Return frames encrypted, of which a chunk may begin and end anywhere in one."""
        return b"".join(self._seal_one(flags, body) for flags, body in self._cutter.frames(chunk))

    def _seal_one(self, flags: int, body: bytes) -> bytes:
        inner = (flags & MORE) | (INNER_COMMAND if flags & COMMAND else 0)
        self._counter += 1
        nonce = self._counter.to_bytes(COUNTER_BYTES, "big")
        box = seal_box(bytes((inner,)) + body, self._prefix + nonce, self._key)
        return frame(0, MESSAGE + nonce + box)
