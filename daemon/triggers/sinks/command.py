"""Triggers to a program: kept running, one JSON line each on its standard input.

The program runs in a session of its own, so that Ctrl-C does not reach it. It ends when its
standard input closes, which also happens when the daemon is killed. One that ends by itself is
started again after a pause that doubles; what is left of its process group is killed with it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from contextlib import suppress

from contracts.clock import Clock
from daemon.backoff import Backoff
from daemon.triggers.sinks.thread import Delivery, DeliveryError
from daemon.triggers.tables import CommandSinkTable

HEALTHY_AFTER_S = 10.0
"""Seconds after which a program counts as healthy: its next pause is the first one again."""

logger = logging.getLogger(__name__)


class CommandOutlet:
    """Writes one line a trigger to a program."""

    def __init__(self, table: CommandSinkTable, clock: Clock) -> None:
        self.n_restarts = 0  # times that the program had ended and was started again
        self._words = list(table.command)
        self._timeout_s = table.timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(clock, healthy_after_s=HEALTHY_AFTER_S)

    @property
    def pid(self) -> int | None:
        """Process id of the program, or None while it does not run."""
        return self._child.pid if self._child else None

    def open(self) -> None:
        """Start the program."""
        self._start()

    def deliver(self, delivery: Delivery) -> None:
        """Write one line.

        Raises
        ------
        DeliveryError
            If the program does not run, or does not read in time.
        """
        self.tend()
        if self._child is None:
            raise DeliveryError("the program has ended; it is started again after a pause")
        try:
            is_written = self._write(delivery.payload + b"\n")
        except OSError as error:
            self._end(f"its standard input broke: {error}")
            raise DeliveryError(f"{type(error).__name__}: {error}") from error
        if not is_written:  # half a line may be in the pipe, so the next one could not be read
            self._end("it did not read")
            raise DeliveryError(f"the program did not read for {self._timeout_s:g} s")

    def tend(self) -> None:
        """Start the program again if it has ended and its pause is over."""
        if self._child is not None and self._child.poll() is not None:
            self._end(f"exit code {self._child.returncode}")
        if self._child is None and self._backoff.is_over:
            self.n_restarts += 1
            self._start()

    def close(self, *, deadline_s: float) -> None:
        """Close the program's standard input, wait for it, and kill it after the deadline."""
        if self._child is None:
            return
        self._close_input(self._child)
        try:
            self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            logger.warning("trigger command killed", extra={"pid": self._child.pid})
        self._kill(self._child)

    def _start(self) -> None:
        self._backoff.begin()
        try:
            self._child = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=2,  # our own standard output may carry data for another program
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._end(str(error))
            return
        if self._child.stdin:
            os.set_blocking(self._child.stdin.fileno(), False)
        logger.info("trigger command started", extra={"pid": self._child.pid})

    def _write(self, line: bytes) -> bool:
        """Write a line; return whether the pipe took all of it in time."""
        pipe = self._child.stdin if self._child else None
        if pipe is None:
            return False
        poll = select.poll()
        poll.register(pipe, select.POLLOUT)
        stop_s = time.monotonic() + self._timeout_s
        while line:
            remaining_s = stop_s - time.monotonic()
            if remaining_s <= 0 or not poll.poll(1000 * remaining_s):
                return False
            with suppress(BlockingIOError):
                line = line[os.write(pipe.fileno(), line) :]
        return True

    def _end(self, reason: str) -> None:
        """Clean up a program that has ended or must; the next one starts after a pause."""
        if self._child is not None:
            self._close_input(self._child)
            self._kill(self._child)
            self._child = None
        pause_s = self._backoff.end()
        logger.error(
            "trigger command ended",
            extra={"command": self._words[0], "reason": reason, "restart_in_s": pause_s},
        )

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """Kill a program, which may have ended, and the processes that it has started."""
        with suppress(OSError):  # none of them is left
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def _close_input(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdin:
            with suppress(OSError):
                child.stdin.close()
