"""Signals: the first asks to stop, the second stops at once."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from types import FrameType

FORCED_EXIT_CODE = 1
"""After a second signal: what was under way is lost."""

STDIN = 0

logger = logging.getLogger(__name__)


class StopRequest:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self.is_made = False


@contextmanager
def stop_on_signal(request: StopRequest) -> Iterator[None]:
    """Take SIGINT and SIGTERM for a while, and give them back afterwards.

    Parameters
    ----------
    request : StopRequest
        Made by the first signal. The second ends the process at once, with code 1.
    """

    def stop(signal_number: int, _frame: FrameType | None) -> None:
        if request.is_made:
            os._exit(FORCED_EXIT_CODE)
        request.is_made = True
        logger.info("asked to stop", extra={"signal": signal.Signals(signal_number).name})

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_stdin(request: StopRequest) -> None:
    """Ask to stop once standard input closes, so that nobody outlives the parent that holds it.

    Parameters
    ----------
    request : StopRequest
    """

    def wait() -> None:
        while os.read(STDIN, 1024):  # not sys.stdin, whose lock the interpreter wants at its end
            pass
        request.is_made = True

    Thread(target=wait, name="stdin", daemon=True).start()
