"""A worker as a child process: started, watched, restarted with back-off, stopped.

The child reads a secret from its standard input and nothing more; it exits when that closes, so
that no worker outlives a daemon that was killed. Ctrl-C reaches the whole process group and a
service manager's SIGTERM the whole control group, and the daemon decides when the worker ends:
both signals are blocked in it, from its first instruction on.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from contracts.clock import Clock
from daemon.backoff import Backoff

HEALTHY_AFTER_S = 60.0
"""A worker that ran for this long has its pauses start from the first again."""

logger = logging.getLogger(__name__)


class WorkerProcess:
    """Keeps one child process alive.

    `arguments` follow ``python -m``; `secret` is the first that each child reads from its standard
    input, where no other process sees it. `started_ns` is when the newest child was started, host
    clock.
    `start_problem` is why the next one cannot be started; empty if it can.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        clock: Clock,
        *,
        name: str = "narrator worker",
        secret: bytes = b"",
    ) -> None:
        self.n_restarts = 0
        self.started_ns = 0
        self.start_problem = ""
        self._clock = clock
        self._name = name
        self._secret = secret
        self._command = [sys.executable, "-m", *arguments]
        self._child: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._backoff = Backoff(clock, healthy_after_s=HEALTHY_AFTER_S)

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None while there is none."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the child."""
        self._is_wanted = True
        self._backoff.begin()
        self.started_ns = self._clock.now_ns()
        # A child inherits the mask of the thread that made it. A signal to this process in between
        # waits until the mask is restored.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._secret and self._child.stdin:
            with suppress(OSError):  # it is gone already; `check` finds that out
                self._child.stdin.write(self._secret)
                self._child.stdin.flush()
        logger.info("%s started", self._name, extra={"pid": self._child.pid})

    def check(self) -> int | None:
        """Return the exit code of a child that has died since the last call; never waits.

        The next child starts after a pause.
        """
        if self._child is None:
            # Not at once: a worker that dies while loading would keep a core and the disk busy.
            if self._is_wanted and self._backoff.is_over:
                self._start_again()
            return None
        exit_code = self._child.poll()
        if exit_code is None:
            return None
        self._release()
        pause_s = self._backoff.end()
        extra = {"exit_code": exit_code, "restart_in_s": pause_s}
        logger.error("%s died", self._name, extra=extra)
        return exit_code

    def _start_again(self) -> None:
        """Start the next child; where the system has no room for one, after another pause."""
        try:
            self.start()
        except OSError as error:  # no descriptor, process or memory is left: that may pass
            self.start_problem = str(error)
            extra = {"reason": str(error), "restart_in_s": self._backoff.end()}
            logger.error("%s cannot be started", self._name, extra=extra)  # noqa: TRY400 - the reason says all
        else:
            self.start_problem = ""
            self.n_restarts += 1

    def kill(self) -> None:
        """Kill a child that does not answer; `check` then reports it."""
        if self._child:
            self._child.kill()

    def stop(self, *, deadline_s: float) -> None:
        """Close the child's standard input and wait; kill it after the deadline (SIGKILL)."""
        self._is_wanted = False
        if self._child is None:
            return
        # The worker ends by itself when it reads the end of its standard input, between two tokens,
        # and lets go of the GPU in order. A worker that is stopped or hangs needs SIGKILL.
        if self._child.stdin:
            self._child.stdin.close()
        try:
            self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            logger.warning("%s killed", self._name, extra={"deadline_s": deadline_s})
            self._child.kill()
            self._child.wait()
        self._release()

    def _release(self) -> None:
        if self._child and self._child.stdin:
            self._child.stdin.close()
        self._child = None
