"""Whose monotonic clock the stamps of a source are of, and pings that ask what it says.

A daemon on another machine sends pings, to know how far that machine's clock is off
(``docs/wire-format.md``).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

MAX_WAITING = 16
"""Pings of several daemons that wait for a batch; the newest are answered."""

_PING = re.compile(rb"\x01ping\.([0-7][0-9a-f]{15})")


def clock_id() -> str:
    """Return 16 hex digits that name this machine's clock since it was started, or nothing."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return ""
    with suppress(OSError):
        name += os.fsencode(Path("/proc/self/ns/time").readlink())
    return hashlib.sha256(name).hexdigest()[:16]


class Pings:
    """The pings that wait to be answered, each with a batch."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque(maxlen=MAX_WAITING)

    def take_request(self, request: bytes) -> None:
        """Note a subscriber's request if it is a ping."""
        if found := _PING.fullmatch(request):
            self._waiting.append((int(found[1], 16), time.monotonic_ns()))

    def answer(self) -> dict[str, int]:
        """Return the fields of a batch that answer the oldest one; none if there is none."""
        if not self._waiting:
            return {}
        number, came_ns = self._waiting.popleft()
        return {"ping": number, "ping_host_ns": came_ns}
