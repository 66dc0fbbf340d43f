"""Log lines: text for a terminal, one JSON object a line otherwise. Set up once.

A line is a stable short phrase plus key=value pairs given as ``extra``: searchable by phrase,
readable by a machine.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from contracts.selection_text import shown

ROOT_LOGGERS = (
    "contracts", "daemon", "encoder_export", "encoder_training", "evaluation", "neurrate",
    "simulation", "stream_sources", "subscribers",
)  # fmt: skip
"""Our packages. Of libraries only warnings and errors are written."""

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
    handler = logging.StreamHandler(output)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ROOT_LOGGERS:
        logging.getLogger(name).setLevel(level)


class TextFormatter(logging.Formatter):
    """``12:00:01.234 WARNING daemon.ingest: message dropped reason=version``."""

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
