"""Standard output and standard error of a command, also where they cannot be written.

A terminal of another encoding, a full disk and a reader that has gone (``| head -1``) say nothing
about the work of the command. So no letter is refused, and what cannot be written is discarded: the
files that the command makes are made, and `run_process` reports the failure at the end. Only a
command that shows things until it is stopped ends with its output.
"""

from __future__ import annotations

import os
import select
import sys
from io import BufferedWriter, FileIO, RawIOBase, TextIOWrapper
from typing import TextIO, cast

STDOUT, STDERR = 1, 2


class OutputFailedError(Exception):
    """Standard output cannot be written, of a command that has nothing else to do."""


class OutputFile(RawIOBase):
    """A descriptor that is written until that fails; the rest is discarded.

    `failure` is the error. If `is_shown`, `OutputFailedError` is raised once.
    """

    def __init__(self, descriptor: int, *, is_shown: bool = False) -> None:
        self.failure: OSError | None = None
        self._descriptor = descriptor
        self._is_shown = is_shown

    def writable(self) -> bool:
        """Return true, as its base class does not."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, content: memoryview) -> int:  # type: ignore[override] # called with no other
        """Write some of the bytes, or discard all; return how many.

        Raises
        ------
        OutputFailedError
            At the first failure of an output that is shown.
        """
        if self.failure is not None:
            return len(content)
        try:
            return self._write(content)
        except OSError as error:
            self.failure = error
            if self._is_shown:
                raise OutputFailedError from error
            return len(content)

    def _write(self, content: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:  # another program that shares it has made it non-blocking
                select.select([], [self._descriptor], [])


def open_closed_descriptors() -> None:
    """Open on the null device what the caller has closed (``>&-``).

    The next file or socket would take its number, and be written by whoever prints.
    """
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def guard_output(*, is_shown: bool) -> OutputFile:
    """Replace standard output and standard error; return the file of the first.

    If `is_shown`, the command has nothing to do once its output fails.
    """
    output = OutputFile(STDOUT, is_shown=is_shown)
    sys.stdout = _text(output, sys.stdout, is_line_buffered=output.isatty())
    sys.stderr = _text(OutputFile(STDERR), sys.stderr, is_line_buffered=True)
    return output


def _text(file: OutputFile, before: TextIO | None, *, is_line_buffered: bool) -> TextIOWrapper:
    return TextIOWrapper(
        BufferedWriter(cast(FileIO, file)),  # RawIOBase is what it needs
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",  # ASCII has few letters, and names of files need not be text
        line_buffering=is_line_buffered,
    )
