"""How far long work is, in plain lines on standard error, where that is no terminal.

On a terminal a bar shows it. A log, or the file that a run over night writes to, has no bar.
"""

from __future__ import annotations

import sys

N_PARTS = 10


def say(line: str) -> None:
    """Print a line, unless standard error is a terminal."""
    if not sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


class Tenths:
    """Says each tenth of some work, once.

    Parameters
    ----------
    title : str
        What is done.
    total : float or None
        All of it, in any unit; None or none at all says nothing.
    """

    def __init__(self, title: str, total: float | None) -> None:
        self._title = title
        self._total = total or 0.0
        self._said = 0

    def reach(self, done: float) -> None:
        """Say the newest tenth that is done, if it was not said."""
        if self._total <= 0:
            return
        tenths = min(int(N_PARTS * done / self._total), N_PARTS)
        if tenths > self._said:
            self._said = tenths
            say(f"{self._title}: {100 * tenths // N_PARTS} %")
