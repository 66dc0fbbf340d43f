"""Python's garbage collector, paused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Run the body without cyclic garbage collection, in any thread.

    For imports, such as torch and transformers: they make a million objects that stay, and
    collections among them take a quarter of the time. And while a lock is held that an object
    waits for when it is freed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
