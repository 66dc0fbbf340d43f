"""Log lines: text for a terminal, one JSON object a line otherwise. Set up once.

A line is a stable short phrase plus key=value pairs given as ``extra``: searchable by phrase,
readable by a machine.

Logging never waits for the reader: a pipe that nobody reads, or a terminal that is paused,
would stop the fast loop. Lines go through a bounded queue to a thread that writes them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Literal, TextIO

from contracts.selection_text import shown

ROOT_LOGGERS = (
    "contracts", "daemon", "encoder_export", "encoder_training", "evaluation", "neurrate",
    "peer_guard", "simulation", "stream_sources", "subscribers",
)  # fmt: skip
"""Our packages. Of libraries only warnings and errors are written."""

MAX_QUEUED = 2000
"""Lines while nobody reads. One has a few hundred bytes."""

FLUSH_TIMEOUT_S = 2.0
"""For the lines that are left when the process ends; a reader that is alive needs milliseconds."""

THREAD_END_S = 0.5
THREAD_NAME = "log"

logger = logging.getLogger(__name__)

_OF_EVERY_RECORD = vars(logging.LogRecord("", 0, "", 0, "", (), None))
_STANDARD = frozenset({*_OF_EVERY_RECORD, "message", "asctime", "taskName"})


def configure_logging(
    level: str = "INFO",
    log_format: Literal["auto", "text", "json"] = "auto",
    output: TextIO | None = None,
) -> None:
    """Choose how log lines look. Called once, by the process that starts the others.

    `level` is the lowest severity of our own lines. The format ``auto`` is text on a terminal and
    JSON otherwise. `output` is standard error if omitted.
    """
    output = sys.stderr if output is None else output
    is_text = log_format == "text" or (log_format == "auto" and output.isatty())
    handler = QueuedHandler(output)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ROOT_LOGGERS:
        logging.getLogger(name).setLevel(level)


def n_lines_dropped() -> int:
    """Return how many log lines of this process were not written."""
    handlers = logging.getLogger().handlers
    return sum(handler.n_dropped for handler in handlers if isinstance(handler, QueuedHandler))


class QueuedOutput:
    """A text file that a thread writes to `output`, so that the caller of `write` never waits.

    A text for which the queue has no room is dropped and counted. Once there is room again, the
    thread calls `on_flow` with the number of texts dropped.
    """

    def __init__(self, output: TextIO, on_flow: Callable[[int], None] = lambda _: None) -> None:
        self.n_dropped = 0
        self.encoding = output.encoding or "utf-8"
        self._n_reported = 0
        self._output = output
        self._on_flow = on_flow
        self._queue: SimpleQueue[str | Event | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue a line or another piece of text, or count it as dropped."""
        if self._queue.qsize() < MAX_QUEUED:
            self._queue.put(text)
        else:
            self.n_dropped += 1

    def flush(self) -> None:
        """Do nothing: what is written is on its way. `wait` waits for it."""

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._output.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._output.isatty()

    def wait(self) -> None:
        """Wait until what was queued is written, or for two seconds."""
        if self._thread.is_alive():
            is_written = Event()
            self._queue.put(is_written)
            is_written.wait(FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """End the thread after the last text, unless a write blocks because nobody reads."""
        self._queue.put(None)
        self._thread.join(THREAD_END_S)

    def _run(self) -> None:
        write = _writer(self._output)
        while (item := self._queue.get()) is not None:
            if isinstance(item, Event):
                item.set()
                continue
            try:
                write(item)
            except (OSError, ValueError):  # the reader is gone, or the file closed
                self.n_dropped += 1
                self._n_reported += 1  # nobody would read the report
            n_dropped = self.n_dropped
            if n_dropped > self._n_reported and self._queue.qsize() < MAX_QUEUED:
                self._on_flow(n_dropped - self._n_reported)
                self._n_reported = n_dropped


class QueuedHandler(logging.Handler):
    """Writes log lines through `QueuedOutput`; `logging.shutdown` waits for the last of them."""

    def __init__(self, output: TextIO) -> None:
        super().__init__()
        self._output = QueuedOutput(output, _report_dropped)

    @property
    def n_dropped(self) -> int:
        """Lines that were not written."""
        return self._output.n_dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line."""
        try:
            self._output.write(self.format(record) + "\n")
        except Exception:  # as `logging.Handler` has it: no error in a log line ends the program
            self.handleError(record)

    def flush(self) -> None:
        """Wait until the lines so far are written, or for two seconds."""
        self._output.wait()

    def close(self) -> None:
        """End the thread after the last line."""
        self._output.close()
        super().close()


def _report_dropped(n_lines: int) -> None:
    logger.warning("log lines dropped, since nobody read them", extra={"lines": n_lines})


def _writer(output: TextIO) -> Callable[[str], object]:
    """Return a function that writes to a file past Python's buffers, whatever `output` is.

    A thread that is stuck in a buffer would hold its lock when the interpreter ends.
    """
    try:
        descriptor = output.fileno()
    except (OSError, AttributeError):  # no file: a test's
        return output.write
    encoding = getattr(output, "encoding", None) or "utf-8"

    def write(text: str) -> None:
        rest = memoryview(text.encode(encoding, "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:  # whoever shares the file has made it so
                select.select([], [descriptor], [])

    return write


class TextFormatter(logging.Formatter):
    """``12:00:01.234 WARNING daemon.message_intake: message dropped reason=version``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line, and its traceback if it has one."""
        moment = datetime.fromtimestamp(record.created).astimezone()
        fields = "".join(f" {key}={_shown(value)}" for key, value in fields_of(record).items())
        line = (
            f"{moment:%H:%M:%S}.{record.msecs:03.0f} {record.levelname} "
            f"{record.name}: {shown(record.getMessage())}{fields}"
        )
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``event``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one JSON object."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(
            {key: _plain(value) for key, value in line.items()}, default=str, ensure_ascii=False
        )
        return shown(text)  # what JSON leaves as it is may still steer a terminal


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the pairs that were given as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _shown(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    is_bare = text.isprintable() and text and not set(text) & set(' "=')
    return text if is_bare else shown(json.dumps(text, ensure_ascii=False))


def _plain(value: object) -> object:
    """Replace the numbers that JSON does not have."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
