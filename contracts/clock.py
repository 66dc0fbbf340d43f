"""Two clocks that are never subtracted from each other.

``session_ns`` is the data's own time: int64 nanoseconds since the start of the session.
``host_ns`` is the monotonic clock of the machine; on Linux all its processes share it.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000

MAX_SESSION_NS = 1 << 62
"""Times beyond +-146 years are refused, so that sums of two times stay within int64."""


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

TIME_NAMESPACE = Path("/proc/self/ns/time")
"""A container may have a monotonic clock of its own (man 7 time_namespaces)."""


class Clock(Protocol):
    """The host clock, so that tests can turn it by hand."""

    def now_ns(self) -> int:
        """Return the host's monotonic time in nanoseconds."""
        ...

    def sleep_ns(self, duration_ns: int) -> None:
        """Wait for a while; negative durations return at once."""
        ...


class HostClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Return the host's monotonic time in nanoseconds."""
        return time.monotonic_ns()

    def sleep_ns(self, duration_ns: int) -> None:
        """Wait for a while; negative durations return at once."""
        if duration_ns > 0:
            time.sleep(duration_ns / NS_PER_S)


@cache
def host_clock_id() -> str:
    """Return 16 hex digits that name the clock of `HostClock`; empty where nothing does.

    Programs that have the same one read the same clock: that of one machine since it was started.
    """
    try:
        name = BOOT_ID.read_bytes()
    except OSError:  # no Linux
        return ""
    with suppress(OSError):
        name += os.fsencode(TIME_NAMESPACE.readlink())
    return hashlib.sha256(name).hexdigest()[:16]


def seconds_to_ns(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round times in seconds, as files hold them, to whole nanoseconds.

    The whole seconds are split off first: ``t * 1e9`` rounds to 2 ns after 104 days of
    session time, and this does not.
    """
    whole = np.floor(seconds)
    fraction_ns = np.rint((seconds - whole) * NS_PER_S).astype(np.int64)
    return whole.astype(np.int64) * NS_PER_S + fraction_ns


def second_to_ns(seconds: float) -> int:
    """Round one time or duration in seconds to whole nanoseconds, as `seconds_to_ns` does."""
    whole = math.floor(seconds)
    return whole * NS_PER_S + round((seconds - whole) * NS_PER_S)


def ns_to_second(duration_ns: int) -> float:
    """Return a time or duration in seconds, for people and for messages."""
    return duration_ns / NS_PER_S
