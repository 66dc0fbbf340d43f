"""How far long work is, and the time that remains: a bar on a terminal, elsewhere a line a minute.

The log of a run over night, or of continuous integration, shows no bar.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

EVERY_S = 60.0
"""Between two lines, and before the first: work that is over sooner says nothing."""

NO_TOTAL = "{desc}: {elapsed} so far"

LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {percentage:.0f} %, {remaining} left"


class ProgressBar(tqdm):  # type: ignore[misc] # tqdm has no types
    """A bar of tqdm that writes lines where standard error is no terminal.

    Parameters
    ----------
    iterable : iterable, optional
        Walked through by the caller; without one the caller calls `update`.
    unit : str
        One of what is counted.
    total : int, optional
        By default the length of the iterable. Without either the time so far is shown.
    initial : int
        Done before, which says nothing of how fast it goes.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        unit: str,
        total: int | None = None,
        initial: int = 0,
        unit_scale: bool = False,
        leave: bool = True,
        delay_s: float = 0.0,
        is_silent: bool = False,
    ) -> None:
        self._is_line = not sys.stderr.isatty()
        self._line_s = time.monotonic()  # of the newest line
        super().__init__(
            iterable,
            desc=desc,
            unit=unit,
            total=total,
            initial=initial,
            unit_scale=unit_scale,
            leave=leave,
            delay=delay_s,
            mininterval=EVERY_S if self._is_line else 0.1,
            miniters=1 if self._is_line else None,
            bar_format=(LINE if total or iterable else NO_TOTAL) if self._is_line else None,
            file=sys.stderr,
            disable=is_silent,
        )

    def close(self) -> None:
        """Leave the bar as it is, and write no last line: that it is done is said elsewhere."""
        self.disable |= self._is_line
        super().close()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or write a line; an empty `msg` clears a bar, and a line stays."""
        if not self._is_line:
            super().display(msg, pos)
        elif msg is None and time.monotonic() - self._line_s >= EVERY_S:
            self._line_s = time.monotonic()
            self.fp.write(f"{self}\n")
            self.fp.flush()


@contextmanager
def elapsed_progress(desc: str, unit: str) -> Iterator[None]:
    """Show the time so far of work that says nothing itself."""
    is_over = threading.Event()
    with ProgressBar(desc=desc, unit=unit, leave=False) as bar:

        def repeat() -> None:
            while not is_over.wait(min(EVERY_S, 1.0)):
                bar.refresh()

        thread = threading.Thread(target=repeat, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
