"""A ``neurrate`` command as a child process, which never outlives its ``with`` block."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contracts.errors import ChildError, DependencyError, UserError

PAUSE_S = 0.02
TAIL_LINES = 20  # Lines of a failed child's log that are shown
ERROR_PREFIX = "neurrate: error: "


class Child:
    """One ``neurrate`` command in a process of its own; its log goes to ``<name>.log``.

    `arguments` come after ``neurrate``; ``--json``, ``--address-file`` and ``--stop-with-stdin``
    are added.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self._name = name
        self._log = folder / f"{name}.log"
        self._address_file = folder / f"{name}-addresses.json"
        self._has_been_asked = False
        command = [
            sys.executable, "-m", "neurrate.cli", *arguments,
            "--json", str(folder / f"{name}.json"),
            "--address-file", str(self._address_file),
            "--stop-with-stdin",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            # Its standard input closes when this process dies, and `--stop-with-stdin` ends it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.is_running:
            self._process.kill()
        self._process.wait()
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
            if self._address_file.exists():
                return dict(read_json(self._address_file))
            time.sleep(PAUSE_S)
        raise ChildError(f"the {self._name} did not start in {deadline_s} s:\n{self._tail()}")

    def ask_to_stop(self) -> None:
        """Ask it to stop; only the first call counts, as a second signal would end it at once."""
        if not self._has_been_asked and self.is_running:
            self._process.terminate()
        self._has_been_asked = True

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
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise ChildError(
                f"the {self._name} did not end within {deadline_s} s:\n{self._tail()}"
            ) from error
        self.check()

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


def read_json(path: Path) -> Any:
    """Read a file that a command has written."""
    return json.loads(path.read_text(encoding="utf-8"))
