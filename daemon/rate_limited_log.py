"""Limits log output to one line per reason and second."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.clock import NS_PER_S, Clock


@dataclass(slots=True)
class _Silence:
    until_ns: int
    n_suppressed: int = 0


class RateLimitedLog:
    """Writes at most one line per reason and interval (a second), and counts the others.

    Not shared between threads: each user has its own.
    """

    def __init__(self, logger: logging.Logger, clock: Clock, *, interval_s: float = 1.0) -> None:
        self._logger = logger
        self._clock = clock
        self._interval_ns = round(interval_s * NS_PER_S)
        self._silences: dict[str, _Silence] = {}

    def warning(self, reason: str, event: str, *, extra: Mapping[str, object]) -> None:
        """Log a warning, or count it if its reason was logged less than an interval ago.

        `extra` are the fields of the line; ``suppressed`` is added when lines were left out.
        """
        self._write(logging.WARNING, reason, event, extra)

    def info(self, reason: str, event: str, *, extra: Mapping[str, object]) -> None:
        """Log a line of less weight in the same way."""
        self._write(logging.INFO, reason, event, extra)

    def _write(self, level: int, reason: str, event: str, extra: Mapping[str, object]) -> None:
        now_ns = self._clock.now_ns()
        silence = self._silences.get(reason)
        if silence and now_ns < silence.until_ns:
            silence.n_suppressed += 1
            return
        fields = dict(extra)
        if silence and silence.n_suppressed:
            fields["suppressed"] = silence.n_suppressed
        self._silences[reason] = _Silence(now_ns + self._interval_ns)
        self._logger.log(level, event, extra=fields)

    def flush(self) -> None:
        """Log how many lines were left out since; called at shutdown."""
        for reason, silence in self._silences.items():
            if silence.n_suppressed:
                self._logger.warning(
                    "lines suppressed", extra={"reason": reason, "suppressed": silence.n_suppressed}
                )
                silence.n_suppressed = 0
