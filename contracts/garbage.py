"""Python's garbage collector, kept still while something large is loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Search for no garbage while the body runs.

    Importing torch and transformers makes a million objects that stay. The collector would look
    through all of them again and again as they are made, a quarter of the time that it takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
