"""Signals: the first asks to stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread, Timer
from types import FrameType

FORCED_EXIT_CODE = 1
"""After a second signal: what was under way is lost."""

PRINTING_TIMEOUT_S = 5.0
"""For a table; a terminal that was paused counts as one that nobody reads."""

STDIN = 0


class StopRequest:
    """Whether somebody has asked to stop; `signal_name` is empty if that was not a signal."""

    def __init__(self) -> None:
        self.is_made = False
        self.signal_name = ""


@contextmanager
def stop_on_signal(
    request: StopRequest,
    *,
    force: Callable[[], None] = lambda: os._exit(FORCED_EXIT_CODE),
    is_forced: bool = False,
) -> Iterator[None]:
    """Handle SIGINT and SIGTERM while the body runs: the first asks to stop, the second forces.

    With `is_forced` the first forces, too. `force` ends the process at once, with code 1.
    """

    def stop(signal_number: int, _frame: FrameType | None) -> None:
        # No logging here: the handler may have interrupted a line that is being written.
        if is_forced or request.signal_name:
            force()
        request.signal_name = signal.Signals(signal_number).name
        request.is_made = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def bounded_end(request: StopRequest, *, deadline_s: float = PRINTING_TIMEOUT_S) -> Iterator[None]:
    """Print the last output in the body; after a signal, not for longer than the deadline.

    Standard output that nobody reads would keep a process that was asked to end. One that ends by
    itself waits for its reader, as programs do.
    """
    timer = Timer(deadline_s, os._exit, [0])
    timer.daemon = True
    if request.signal_name:
        timer.start()
    with stop_on_signal(StopRequest(), force=lambda: os._exit(0), is_forced=True):
        try:
            yield
            sys.stdout.flush()
        finally:
            timer.cancel()


def stop_with_stdin(request: StopRequest) -> None:
    """Ask to stop once standard input closes, so that no process outlives its parent."""

    def wait() -> None:
        while os.read(STDIN, 1024):  # not sys.stdin, whose lock the interpreter takes when it exits
            pass
        request.is_made = True

    Thread(target=wait, name="stdin", daemon=True).start()
