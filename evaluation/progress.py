"""How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then.

The log of a run over night, or of continuous integration, shows no bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

N_PARTS = 10
"""Lines for the whole of some work."""

MINUTE_S = 60


def report(line: str) -> None:
    """Write a line to standard error, above a bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@contextmanager
def progress(
    title: str, total: float | None, *, unit: str = "", label: str | None = None
) -> Iterator[Callable[[float], None]]:
    """Show a bar, or write a line for each tenth.

    Parameters
    ----------
    title : str
        Of the bar.
    total : float or None
        All of the work; None where it is not known, which gives no lines.
    unit : str
        Of the total.
    label : str, optional
        What the lines begin with; the title if omitted.

    Yields
    ------
    advance_to : callable
        To be called with how much of the total is done.
    """
    step = total / N_PARTS if total else None
    with _steps(
        title, total, unit, step, lambda n: f"{label or title}: {100 * n // N_PARTS} %"
    ) as advance_to:
        yield advance_to


@contextmanager
def timed_progress(title: str, seconds: float, *, label: str) -> Iterator[Callable[[float], None]]:
    """Show a bar of wall seconds, or write a line at the beginning and one for each minute.

    Parameters
    ----------
    title : str
    seconds : float
        Of the whole.
    label : str
        What the lines begin with.

    Yields
    ------
    advance_to : callable
        To be called with how many seconds have passed.
    """
    if not sys.stderr.isatty():
        report(f"{label}, {seconds:.0f} s")
    with _steps(
        title, seconds, "s", MINUTE_S, lambda n: f"{label}, {MINUTE_S * n} of {seconds:.0f} s"
    ) as advance_to:
        yield advance_to


@contextmanager
def _steps(
    title: str, total: float | None, unit: str, step: float | None, text: Callable[[int], str]
) -> Iterator[Callable[[float], None]]:
    """Show a bar; where it is disabled, write the text of the newest step that is done."""
    from tqdm import tqdm

    n_done = 0
    form = f"{{desc}}: {{bar}} {{n:.0f}} of {{total:.0f}} {unit}" if total else None
    with tqdm(
        desc=title,
        total=total or None,
        unit=f" {unit}",
        disable=None,  # where standard error is no terminal
        leave=False,
        bar_format=form,
    ) as bar:

        def advance_to(done: float) -> None:
            nonlocal n_done
            done = min(done, total) if total else done
            if not bar.disable:
                bar.update(done - bar.n)
            elif step is not None and (n := int(done / step)) > n_done:
                n_done = n
                report(text(n))

        yield advance_to
