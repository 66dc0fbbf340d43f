"""A ``neurrate`` command as a child process, which never outlives its ``with`` block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contracts.errors import ChildError, DependencyError, UserError

PAUSE_S = 0.02
TAIL_LINES = 20  # Lines of a failed child's log that are shown
ERROR_PREFIX = "neurrate: error: "


class Child:
    """One ``neurrate`` command in a process of its own; its log goes to ``<name>.log``.

    `arguments` come after ``neurrate``; ``--json`` is added, and for a command that has addresses
    ``--address-file`` and ``--stop-with-stdin``. `prefix` is a program that runs the command in its
    place, such as ``prlimit``; `environment` is added to this process's own.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        has_addresses: bool = True,
    ) -> None:
        self._name = name
        self._log = folder / f"{name}.log"
        self._address_file = folder / f"{name}-addresses.json"
        self._has_been_asked = False
        self._address_file.unlink(missing_ok=True)  # of an earlier process of this name
        command = [
            *prefix, sys.executable, "-m", "neurrate", *arguments,
            "--json", str(folder / f"{name}.json"),
        ]  # fmt: skip
        if has_addresses:
            command += ["--address-file", str(self._address_file), "--stop-with-stdin"]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            # Its standard input closes when this process dies, and `--stop-with-stdin` ends it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if self._process.stdin:
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def is_up(self) -> bool:
        """Whether it has written its addresses."""
        return self._address_file.exists()

    def addresses(self, *, deadline_s: float) -> dict[str, str]:
        """Wait until it has written its addresses.

        Raises
        ------
        ChildError
            If it ends before, or writes nothing in time.
        """
        stop = time.monotonic() + deadline_s
        while time.monotonic() < stop:
            self.check()
            if self.is_up:
                return dict(read_json(self._address_file))
            time.sleep(PAUSE_S)
        raise ChildError(f"the {self._name} did not start in {deadline_s} s:\n{self._tail()}")

    def ask_to_stop(self) -> None:
        """Ask it to stop; only the first call counts, as a second signal would end it at once."""
        if not self._has_been_asked and self.is_running:
            self._process.terminate()
        self._has_been_asked = True

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL, if it runs, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def text(self) -> str:
        """Return what it has written so far, standard output and error."""
        return self._log.read_text(errors="replace")

    def exit_code(self, *, deadline_s: float) -> int:
        """Wait for its end, and return its exit code.

        Raises
        ------
        ChildError
            If it does not come in time.
        """
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise ChildError(
                f"the {self._name} did not end within {deadline_s} s:\n{self._tail()}"
            ) from error

    def check(self) -> None:
        """Raise its error, if it has ended with one.

        Raises
        ------
        UserError
            With its own sentence, if its input was at fault.
        DependencyError
            With its own sentence, if something is not installed.
        ChildError
            With the end of its log, otherwise.
        """
        code = self._process.poll()
        if code is None or code == 0:
            return
        if code < 0:
            raise ChildError(
                f"the {self._name} was killed by {signal.Signals(-code).name}. If nobody did that, "
                "the machine may have run out of memory."
            )
        tail = self._tail()
        sentence = tail.rpartition(ERROR_PREFIX)[2].strip() if ERROR_PREFIX in tail else ""
        for error in (UserError, DependencyError):
            if code == error.exit_code and sentence:
                raise error(sentence)
        raise ChildError(f"the {self._name} ended with code {code}:\n{tail}")

    def wait(self, *, deadline_s: float) -> None:
        """Wait for its end.

        Raises
        ------
        ChildError
            If it does not come in time.
        """
        self.exit_code(deadline_s=deadline_s)
        self.check()

    def _tail(self) -> str:
        return "\n".join(self.text().splitlines()[-TAIL_LINES:])


def read_json(path: Path) -> Any:
    """Read a file that a command has written."""
    return json.loads(path.read_text(encoding="utf-8"))
