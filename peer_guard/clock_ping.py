"""How a subscriber asks a publisher for the time on its clock: a subscription that is none.

The topic holds a number, which the publisher returns with its next message (docs/wire-format.md).
It is cancelled at once, so that no socket between the two keeps it.
"""

from __future__ import annotations

import re

from peer_guard.zmtp import frame

PING_TOPIC = b"ping."

MAX_PING = (1 << 63) - 1

_TOPIC = re.compile(rb"ping\.([0-9a-f]{16})")


def ping_frames(number: int) -> bytes:
    """Return the two requests of a ping."""
    topic = PING_TOPIC + f"{number:016x}".encode()
    return frame(0, b"\x01" + topic) + frame(0, b"\x00" + topic)


def ping_number(topic: bytes) -> int | None:
    """Return the number in a topic; None if it is no ping's."""
    found = _TOPIC.fullmatch(topic)
    number = MAX_PING + 1 if found is None else int(found[1], 16)
    return number if number <= MAX_PING else None
