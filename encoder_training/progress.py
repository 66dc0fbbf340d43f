"""How far long work is, and how long it takes: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MINUTE_S = 60.0


@contextmanager
def timed_progress(
    title: str, total: float | None, *, unit: str = "", every_s: float = MINUTE_S
) -> Iterator[Callable[[float], None]]:
    """Show how far some work is, on standard error, with the time that remains.

    Yields a function to be called with how much of the total is done. With a `total` of None, for
    work that does not tell, the time so far is shown.
    """
    from tqdm import tqdm

    started_s = time.monotonic()
    share = 0.0
    with tqdm(desc=title, total=total, unit=f" {unit}", disable=None, leave=False) as bar:

        def advance_to(done: float) -> None:
            nonlocal share
            share = done / total if total else 0.0
            bar.update(done - bar.n)

        def line() -> None:
            spent_s = time.monotonic() - started_s
            tqdm.write(f"{title}: {progress_text(share, spent_s)}", file=sys.stderr)

        with _every(every_s, line if bar.disable else bar.refresh):
            yield advance_to


def progress_text(share: float, spent_s: float) -> str:
    """Return the share that is done and the time that remains, in words.

    >>> progress_text(0.25, 60.0), progress_text(0.0, 125.0)
    ('25 %, 3 min left', '2 min so far')
    """
    if share <= 0:
        return f"{spent_s / 60:.0f} min so far"
    left_s = spent_s * (1 - share) / share
    return f"{100 * share:.0f} %, {left_s / 60:.0f} min left"


@contextmanager
def _every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call a function again and again, in a thread, until the block is left."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(seconds):
            act()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
