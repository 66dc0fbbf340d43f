"""How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then.

The log of a run over night, or of continuous integration, shows no bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

N_PARTS = 10  # Lines for the whole of some work
MINUTE_S = 60


def report(line: str) -> None:
    """Write a line to standard error, above a bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@contextmanager
def progress(
    title: str,
    total: float | None,
    *,
    unit: str = "",
    label: str | None = None,
    is_timed: bool = False,
) -> Iterator[Callable[[float], None]]:
    """Show a bar, or write a line for each tenth of some work.

    Yields a function to be called with how much of the total is done. Both say how long the rest
    takes. A `total` of None, where it is not known, gives no lines. Lines begin with `label`, by
    default the title. If `is_timed`, the total is in wall seconds: a line at the beginning and one
    for each minute instead.
    """
    from tqdm import tqdm

    label, total = label or title, total or 0.0
    step = MINUTE_S if is_timed else total / N_PARTS
    n_done = 0
    started_s = time.monotonic()
    of_total = f"{{n:.0f}} of {{total:.0f}} {unit}, {{remaining}} left"
    with tqdm(
        desc=title,
        total=total or None,
        unit=f" {unit}",
        disable=None,  # where standard error is no terminal
        leave=False,
        bar_format=f"{{desc}}: {{bar}} {of_total}" if total else None,
    ) as bar:

        def advance_to(done: float) -> None:
            nonlocal n_done
            done = min(done, total) if total else done
            if not bar.disable:
                bar.update(done - bar.n)
            elif step and (n := int(done / step)) > n_done:
                n_done = n
                left_s = (time.monotonic() - started_s) * (total - done) / done
                left = f", {tqdm.format_interval(left_s)} left" if done < total else ""
                tenths = f": {100 * n // N_PARTS} %{left}"
                report(label + (f", {step * n} of {total:.0f} s" if is_timed else tenths))

        if is_timed and bar.disable:
            report(f"{label}, {total:.0f} s")
        yield advance_to
