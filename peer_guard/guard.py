"""What the two kinds of guard share: a thread, a selector, counts and log lines."""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import time
from contextlib import suppress
from threading import Thread

from peer_guard.zmtp import REASONS

HANDSHAKE_S = 10.0
"""A peer must have introduced itself by then; libzmq does within milliseconds."""

LOOK_S = 0.5
"""How often deadlines are looked at when nothing happens."""

JOIN_S = 1.0
"""How long the thread may take to end; a look-up of a name cannot be interrupted."""

GRACE_S = 1.0
"""After the time to flush: libzmq gives up first. If a connection breaks in the moment in which
libzmq drops what waits for it, half of a message being written, libzmq aborts the process
(4.3.5, ``session_base.cpp``, ``clean_pipes``) or never ends its context.
"""

LOG_EVERY_S = 1.0

logger = logging.getLogger(__name__)


def inner_path() -> str:
    """Return a new name in Linux' abstract namespace for the way between a guard and its socket.

    No file is left behind by a process that is killed. Whoever listens there admits connections of
    its own process alone.
    """
    return f"@neurrate-{secrets.token_hex(16)}"


class Guard:
    """A thread that stands between peers and a socket of this process, until `close`.

    ``dropped`` counts, by reason, the peers whose connection was cut (`peer_guard.zmtp.REASONS`).
    What the selector finds ready is called with the events: ``key.data(events)``.
    """

    def __init__(self, what: str) -> None:
        self.dropped = dict.fromkeys(REASONS, 0)
        self._what = what
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
        self._close_by_s: float | None = None
        self._logged_s: dict[str, float] = {}
        self._thread = Thread(target=self._run, name=f"guard of {what}", daemon=True)

    def close(self, *, flush_s: float = 0.0) -> None:
        """Take no more peers, and end once those that are here have what was sent to them.

        After at most `flush_s`, and `GRACE_S` more. The socket behind must be closed before: it
        ends the connections. Returns at once; `wait` waits.
        """
        if self._close_by_s is None:
            grace_s = GRACE_S if flush_s else 0.0
            self._close_by_s = time.monotonic() + flush_s + grace_s
            with suppress(OSError):
                os.eventfd_write(self._wake, 1)

    def wait(self) -> None:
        """Wait until a closed guard has ended."""
        if self._close_by_s is None or self._wake < 0:
            return
        self._thread.join(max(0.0, self._close_by_s - time.monotonic()) + JOIN_S)
        if not self._thread.is_alive():  # else it looks up a name, and ends after that
            os.close(self._wake)
            self._wake = -1

    def _run(self) -> None:
        try:
            while self._close_by_s is None or (
                self._has_peers() and time.monotonic() < self._close_by_s
            ):
                try:
                    for key, events in self._selector.select(self._wait_s(time.monotonic())):
                        key.data(events)
                    self._look(time.monotonic())
                except Exception:  # after an error of ours the guard must go on
                    logger.exception("guard failed", extra={"guard": self._what})
                    self._close_all()
                    time.sleep(LOOK_S)
                if self._close_by_s is not None:
                    self._stop_listening()
        finally:
            self._stop_listening()
            self._close_all()
            self._selector.close()

    def _on_wake(self, _: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _wait_s(self, now_s: float) -> float:
        """Return for how long there is nothing to do but wait for sockets."""
        raise NotImplementedError

    def _look(self, now_s: float) -> None:
        """Do what time brings, after every wait."""
        raise NotImplementedError

    def _has_peers(self) -> bool:
        """Whether somebody is connected."""
        raise NotImplementedError

    def _stop_listening(self) -> None:
        """Take no more connections; may be called twice."""
        raise NotImplementedError

    def _close_all(self) -> None:
        """Close every connection; peers may come again."""
        raise NotImplementedError

    def _count(self, reason: str, peer: str, detail: str = "") -> None:
        self.dropped[reason] += 1
        now_s = time.monotonic()
        if now_s >= self._logged_s.get(reason, 0.0):
            self._logged_s[reason] = now_s + LOG_EVERY_S
            fields = {"guard": self._what, "reason": reason, "peer": peer}
            if detail:
                fields["detail"] = detail
            logger.warning("peer dropped", extra=fields | {"n_dropped": self.dropped[reason]})
