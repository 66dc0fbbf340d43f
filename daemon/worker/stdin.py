"""The end of a worker's standard input, while the worker cannot look for it itself."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

POLL_S = 0.1


@contextmanager
def exit_when_stdin_closes() -> Iterator[None]:
    """End the process at once, with code 0, if its standard input closes while the body runs.

    For the loading of a model, which takes minutes and gigabytes: a daemon that is killed must not
    leave a worker behind for so long. Nothing has to be released in order yet.
    """
    done = Event()

    def watch() -> None:
        while not done.is_set():
            # Nothing is ever written to it: what can be read is its end.
            if select.select([sys.stdin.fileno()], [], [], POLL_S)[0] and not done.is_set():
                os._exit(0)

    thread = Thread(target=watch, name="stdin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
