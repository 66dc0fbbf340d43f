"""A command line as a process: its signals, its output, its exit code.

Nothing slow is imported at the top, so that control-C is understood from the first moment on.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

SERVING = frozenset({"bridge", "dashboard", "demo", "emulate", "record", "run", "stream", "watch"})
"""Verbs that serve until they are stopped. Any other is unfinished when it is stopped, and its exit
code says so, for ``a && b``."""

SHOWING = frozenset({"demo", "watch"})
"""Verbs that only show things: they end when the reader of their output does."""

RESUMABLE = frozenset({"calibrate", "clips", "evaluate", "learn", "prepare", "train"})

MIN_COLUMNS = 20
"""Below three cells the help never ends, and below twenty no table has room for a word."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

AGAIN_S = 0.1
"""How long a signal may take to have its effect before it is delivered again."""


class SignalInterrupt(KeyboardInterrupt):
    """A signal that asks to stop. SIGTERM too unwinds a verb: children end, temporary folders go.

    Not `KeyboardInterrupt` itself: once one has passed through `exec`, as in the making of a data
    class, CPython ends by the signal, whatever the exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class SignalHandler:
    """Raises `SignalInterrupt`, again and again until that has arrived.

    Finalizers, and libraries while they are imported, discard exceptions; a program that goes on
    after control-C is worse than one that ends a moment later.
    """

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that was received; 0 while there was none."""
        self._has_arrived = False
        self._is_repeat = False

    def install(self) -> None:
        """Handle the signals, except those that the parent has this process ignore."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal.

        Raises
        ------
        SignalInterrupt
            Unless it is a repeat of one that has arrived or is on its way.
        """
        is_repeat, self._is_repeat = self._is_repeat, False
        if is_repeat and (self._has_arrived or _is_unwinding()):
            return
        if not self.number:
            self.number = number
            _thread.start_new_thread(self._repeat, (signal.Signals(number),))
        raise SignalInterrupt(number)

    def acknowledge(self) -> None:
        """Note that the exception has arrived where it was meant to."""
        self._has_arrived = True

    def _repeat(self, number: signal.Signals) -> None:
        while True:
            time.sleep(AGAIN_S)
            is_ours = signal.getsignal(number) is self
            if self._has_arrived:
                return
            self._is_repeat = is_ours
            _thread.interrupt_main(number)
            if not is_ours:  # a verb's own, which counts signals
                return


HANDLER = SignalHandler()


def run_process(words: Sequence[str]) -> int:
    """Run one command line as this process; return its exit code."""
    from contracts.errors import UserError
    from neurrate.output import OutputFailedError, guard_output, open_closed_descriptors

    open_closed_descriptors()
    output = guard_output(is_shown=bool(words) and words[0] in SHOWING)
    sys.unraisablehook = _report_unraisable
    HANDLER.install()
    _widen()
    try:
        from neurrate.cli import main

        code = main(words)
    except KeyboardInterrupt:
        code = stopped(words)
    HANDLER.acknowledge()
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(code))
    with suppress(OutputFailedError):  # what it raises is in `failure`
        sys.stdout.flush()
    if output.failure and not isinstance(output.failure, BrokenPipeError) and not code:
        reason = os.strerror(output.failure.errno or 0).lower()
        remedy = "Make room there, or send the output elsewhere."
        print(f"neurrate: error: Cannot write standard output: {reason}. {remedy}", file=sys.stderr)
        return UserError.exit_code  # a full disk is for the user to mend
    return code


def stopped(words: Sequence[str]) -> int:
    """Return the exit code of a command line that was stopped; say so if it is unfinished.

    It is 0 for a verb that serves, else 128 and the number of the signal, as shells count.
    """
    HANDLER.acknowledge()
    verb = words[0] if words else ""
    if verb in SERVING:
        return 0
    hint = " Give the same command again to continue where it stopped." if verb in RESUMABLE else ""
    print(f"neurrate: stopped before the end.{hint}", file=sys.stderr)
    return 128 + (HANDLER.number or signal.SIGINT)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Take control-C and SIGTERM as the end of the body."""
    try:
        yield
    except KeyboardInterrupt:
        HANDLER.acknowledge()


def _is_unwinding() -> bool:
    """Whether a ``finally``, an ``except`` or the end of a ``with`` is at work on the exception."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, SignalInterrupt):
            return True
        error = error.__context__
    return False


def _report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Keep a signal that a finalizer has discarded out of the output: it is raised again."""
    if not isinstance(unraisable.exc_value, SignalInterrupt):
        sys.__unraisablehook__(unraisable)


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
