"""Waiting on a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_S = 0.005


def wait_until(
    condition: Callable[[], object], *, deadline_s: float = 100.0, what: str = ""
) -> None:
    """Return once `condition` holds; fail with `what` if it does not in time."""
    stop = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > stop:
            raise AssertionError(f"not within {deadline_s} s: {what or condition}")
        time.sleep(PAUSE_S)
