"""A command line as a process: its signals, its output, its exit code.

Nothing slow is imported at the top, so that control-C is understood from the first moment on.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

SERVING = frozenset({"demo", "run", "stream", "watch"})
"""Verbs that serve until they are stopped. Any other is unfinished when it is stopped, which what
follows in ``a && b`` needs to know."""

SHOWING = frozenset({"demo", "watch"})
"""Verbs whose work is to be seen: they end with the reader of their output."""

RESUMABLE = frozenset({"learn", "prepare", "train"})

EXIT_UNWRITTEN = 2
"""A full disk is for the user to mend."""


MIN_COLUMNS = 20
"""Below three cells the help never ends, and below twenty no table has room for a word."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


AFTER_FINALIZER_S = 0.01
"""By then Python has come back from the finalizer; if not, the signal is delivered once more."""


class SignalInterrupt(KeyboardInterrupt):
    """A signal that asks to stop. SIGTERM too unwinds a verb: children end, temporary folders go.

    Not `KeyboardInterrupt` itself: once one has passed through `exec`, as in the making of a data
    class, CPython ends by the signal, whatever the exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run_process(words: Sequence[str]) -> int:
    """Run one command line as this process; return its exit code."""
    from neurrate.output import OutputFailedError, guard_output, open_closed_descriptors

    open_closed_descriptors()
    output = guard_output(is_shown=bool(words) and words[0] in SHOWING)
    sys.unraisablehook = _interrupt_again
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored: the parent wants it so
            signal.signal(number, _interrupt)
    _widen()
    try:
        from neurrate.cli import main

        code = main(words)
    except KeyboardInterrupt as interrupt:
        code = stopped(words, interrupt)
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(code))
    with suppress(OutputFailedError):  # what it raises is in `failure`
        sys.stdout.flush()
    if output.failure and not isinstance(output.failure, BrokenPipeError) and not code:
        reason = os.strerror(output.failure.errno or 0).lower()
        remedy = "Make room there, or send the output elsewhere."
        print(f"neurrate: error: Cannot write standard output: {reason}. {remedy}", file=sys.stderr)
        return EXIT_UNWRITTEN
    return code


def stopped(words: Sequence[str], interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of a command line that was stopped; say so if it is unfinished.

    It is 0 for a verb that serves, else 128 and the number of the signal, as shells count.
    """
    verb = words[0] if words else ""
    if verb in SERVING:
        return 0
    hint = " Give the same command again to continue where it stopped." if verb in RESUMABLE else ""
    print(f"neurrate: stopped before the end.{hint}", file=sys.stderr)
    return 128 + getattr(interrupt, "number", signal.SIGINT)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SignalInterrupt(number)


def _interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Deliver a signal again that Python would report and discard: one raised in a finalizer."""
    interrupt = unraisable.exc_value
    if not isinstance(interrupt, SignalInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = interrupt.number

    def deliver() -> None:
        time.sleep(AFTER_FINALIZER_S)
        _thread.interrupt_main(signal.Signals(number))

    _thread.start_new_thread(deliver, ())  # here it would be raised in this function


def _widen() -> None:
    """Have a terminal that is too narrow for words wrap the lines: libraries never end at one cell.

    A width of 0, which is unknown, is taken for 80 by all of them.
    """
    widths = [os.environ.get("COLUMNS", "")]
    for descriptor in range(3):
        with suppress(OSError):
            widths.append(str(os.get_terminal_size(descriptor).columns))
    if any(width.isdecimal() and 0 < int(width) < MIN_COLUMNS for width in widths):
        os.environ["COLUMNS"] = str(MIN_COLUMNS)
