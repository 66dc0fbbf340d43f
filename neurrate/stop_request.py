"""Until when a verb that serves goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_request(with_stdin: bool) -> Iterator[Callable[[], bool]]:
    """Return what says whether a signal, or the end of standard input, has asked to stop."""
    from daemon.service import signals

    stop = signals.StopRequest()
    if with_stdin:
        signals.stop_with_stdin(stop)
    with signals.stop_on_signal(stop):
        yield lambda: stop.is_made
