"""``neurrate`` as a subprocess, for tests of whole processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.wait_until import wait_until

DEADLINE_S = 200.0
"""For what takes up to 10 s on two quiet cores: ten times as long where ten programs share them."""


class Neurrate:
    """One command in a process of its own, killed at the end if it still runs.

    `output` is the descriptor that it writes to, instead of its log; `before` are words in front of
    it, such as a tracer's; `has_addresses` is false for a verb that binds nothing.
    """

    def __init__(
        self,
        *words: object,
        folder: Path,
        name: str,
        output: int | None = None,
        before: Sequence[object] = (),
        env: Mapping[str, str] = os.environ,
        has_addresses: bool = True,
    ) -> None:
        self.log = folder / f"{name}.log"
        self.json = folder / f"{name}.json"
        self._address_file = folder / f"{name}-addresses.json"
        self._address_file.unlink(missing_ok=True)
        files: tuple[object, ...] = ("--json", self.json)
        if has_addresses:
            files += ("--address-file", self._address_file)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *map(str, before),
                    sys.executable,
                    "-m",
                    "neurrate.cli",
                    *map(str, (*words, *files)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log if output is None else output,
                start_new_session=True,
                env={k: v for k, v in env.items() if not k.startswith("NEURRATE_")},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
        self.process.wait()

    def addresses(self) -> dict[str, str]:
        """Wait until it has written its addresses."""

        def is_written() -> bool:
            assert self.process.poll() is None, self.text()
            return self._address_file.exists()

        what = f"addresses in {self._address_file.name}"
        wait_until(is_written, deadline_s=DEADLINE_S, what=what)
        return dict(json.loads(self._address_file.read_text()))

    def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Return its exit code."""
        return self.process.wait(deadline_s)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def summary(self) -> dict[str, Any]:
        """Wait until it has ended; return what it wrote then."""
        self.wait()
        return dict(json.loads(self.json.read_text()))

    def text(self) -> str:
        """Return its log so far."""
        return self.log.read_text(errors="replace")


def get(url: str) -> tuple[int, str]:
    """Return status and body of a page."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
