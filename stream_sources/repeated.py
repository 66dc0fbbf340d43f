"""A recording that goes round: after its end it begins again, and its time goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from contracts.clock import ns_to_second
from contracts.population import Population
from contracts.spikes import Mark, SpikeBatch
from stream_sources.recordings.recording import RecordingSource

logger = logging.getLogger(__name__)


class RepeatedSource:
    """Plays the part of a recording that `source` plays, as often as `duration_ns` takes.

    Spikes and presentations of each further round are later by the rounds before it. The last round
    ends with a whole batch.
    """

    def __init__(self, source: RecordingSource, duration_ns: int) -> None:
        self._source = source
        self._start_ns, stop_ns = source.span_ns
        self._round_ns = stop_ns - self._start_ns
        self._stop_ns = self._start_ns + duration_ns
        self.stream: str = source.stream
        self.run: str = source.run
        self.label: str = source.label
        self.population: Population = source.population
        self.session_start_utc, self.table = source.session_start_utc, source.table
        self.n_spikes: int | None = None
        self.span_ns: tuple[int, int] | None = (self._start_ns, self._stop_ns)

    @property
    def n_rounds(self) -> float:
        """How often the recording is played."""
        return (self._stop_ns - self._start_ns) / self._round_ns

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches of every round, numbered on."""
        seq = 0
        for number, shift_ns in self._rounds():
            if number:
                fields = {"round": number + 1, "round_s": ns_to_second(self._round_ns)}
                logger.info("recording begins again", extra=fields)
            for batch in self._source.batches():
                if batch.start_ns + shift_ns >= self._stop_ns:
                    return
                yield replace(
                    batch,
                    seq=seq,
                    start_ns=batch.start_ns + shift_ns,
                    stop_ns=batch.stop_ns + shift_ns,
                    spike_time_ns=batch.spike_time_ns + shift_ns,
                )
                seq += 1

    def marks(self) -> Iterator[Mark]:
        """Yield the presentations of every round."""
        for _, shift_ns in self._rounds():
            for mark in self._source.marks():
                start_ns = mark.start_ns + shift_ns
                if start_ns < self._stop_ns:
                    yield replace(mark, start_ns=start_ns, stop_ns=mark.stop_ns + shift_ns)

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def _rounds(self) -> Iterator[tuple[int, int]]:
        for number in count():
            shift_ns = number * self._round_ns
            if self._start_ns + shift_ns >= self._stop_ns:
                return
            yield number, shift_ns
