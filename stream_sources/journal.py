"""A journal as a source: what one stream sent, again, as it was received.

Batches keep their numbers, spans and spikes bit for bit, and holes stay holes. Only two fields of a
batch are new: the run, which a receiver takes for one start of one source, and the stamp of when it
was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from contracts import wire
from contracts.clock import second_to_ns
from contracts.errors import UserError, WireError, listed
from contracts.journal import JournalMessage, Origin
from contracts.journal_reader import JournalReader
from contracts.population import Population
from contracts.spikes import Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from contracts.wire_header import MAX_TEXT
from stream_sources.source import new_run

logger = logging.getLogger(__name__)

SENT_BY_SOURCES = frozenset({"hello", "spikes", "mark", "end"})


@dataclass(frozen=True, slots=True)
class _RecordedRun:
    """One start of the source as recorded, and what it is called now."""

    hello: Hello
    name: str


class JournalSource:
    """One stream of a journal; see `stream_sources.source.SpikeSource`.

    Opening reads the journal once, for its hellos and for parts that were not closed, which are
    logged.

    Parameters
    ----------
    path : Path
        Folder of the journal, or one of its parts.
    stream : str, optional
        Which one; may be left out where there is one alone.
    start_s, duration_s : float, optional
        Session seconds: batches that lie outside are left out whole.

    Raises
    ------
    UserError
        If it is no journal, or the stream is not in it.
    """

    n_spikes: int | None = None
    span_ns: tuple[int, int] | None = None

    def __init__(
        self,
        path: Path,
        *,
        stream: str | None = None,
        start_s: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        self.n_unreadable = 0
        """Messages that follow no format, or whose run never said hello; not sent again."""
        self._reader = JournalReader(path)
        hellos = self._hellos()
        self.unclosed = list(self._reader.unclosed)
        for part in self.unclosed:
            logger.warning("%s", part, extra={"journal": str(path)})
        self.stream = _chosen(stream, sorted({hello.stream for hello in hellos}), path)
        self._runs = {
            hello.run: _RecordedRun(hello, new_run())
            for hello in hellos
            if hello.stream == self.stream
        }
        self._from_ns = None if start_s is None else second_to_ns(start_s)
        self._duration_ns = None if duration_s is None else second_to_ns(duration_s)
        first = self._first_hello()
        self.run = first.run
        self.population: Population = first.population
        self.label = first.source
        self.session_start_utc, self.table = first.session_start_utc, first.table
        self.next_seq = first.next_seq

    def in_order(self) -> Iterator[SourceMessage]:
        """Yield what was sent, in the order of arrival; a hello before whatever is of a new run."""
        current = ""
        waiting: list[SourceMessage] = []
        for message in self._in_interval():
            run = self._runs[message.run]
            again = replace(message, run=run.name)
            if message.run == current:
                yield again
            elif isinstance(message, SpikeBatch):
                current = message.run
                yield self._hello(run, message.seq)
                yield from (one for one in waiting if one.run == run.name)
                waiting = []
                yield again
            else:  # a mark, sent before the batch in which it begins
                waiting.append(again)

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches as they were recorded."""
        return (message for message in self.in_order() if isinstance(message, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield the marks as they were recorded."""
        return (message for message in self.in_order() if isinstance(message, Mark))

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _hellos(self) -> list[Hello]:
        newest: dict[tuple[str, str], Hello] = {}
        for message in self._reader.messages(_is_hello):
            value = self._value(message)
            if isinstance(value, Hello):
                newest.setdefault((value.stream, value.run), value)
        return list(newest.values())

    def _first_hello(self) -> Hello:
        for message in self.in_order():
            if isinstance(message, Hello):
                self.n_unreadable = 0
                return message
        raise UserError(
            f"Stream {self.stream} of {self._reader.path} has no spikes in the interval that was "
            "asked for. Choose another --start or --seconds."
        )

    def _in_interval(self) -> Iterator[SpikeBatch | Mark | StreamEnd]:
        """Yield what is to be sent again, as it was recorded."""
        from_ns, until_ns = self._from_ns, None
        for message in self._sent():
            if isinstance(message, Hello):
                continue
            if message.run not in self._runs:
                self.n_unreadable += 1
                continue
            if not isinstance(message, StreamEnd):
                if until_ns is None and self._duration_ns is not None:
                    until_ns = self._duration_ns + (
                        message.start_ns if from_ns is None else from_ns
                    )
                if from_ns is not None and message.stop_ns <= from_ns:
                    continue
                if until_ns is not None and message.start_ns >= until_ns:
                    continue
            yield message

    def _sent(self) -> Iterator[SourceMessage]:
        topics = {f"{kind}.{self.stream}" for kind in SENT_BY_SOURCES}
        for message in self._reader.messages(
            lambda origin, topic: origin is Origin.SOURCE and topic in topics
        ):
            value = self._value(message)
            if value is not None:
                yield value

    def _value(self, message: JournalMessage) -> SourceMessage | None:
        try:
            return wire.unpack(message.parts, received_host_ns=message.host_ns)
        except WireError:  # recorded as it came; the daemon dropped it too
            self.n_unreadable += 1
            return None

    def _hello(self, run: _RecordedRun, seq: int) -> Hello:
        source = f"journal:{run.hello.source}"[:MAX_TEXT]
        return replace(run.hello, run=run.name, source=source, next_seq=seq)


def _is_hello(origin: Origin, topic: str) -> bool:
    return origin is Origin.SOURCE and topic.startswith("hello.")


def _chosen(stream: str | None, streams: list[str], path: Path) -> str:
    """Return which stream to play.

    Raises
    ------
    UserError
        If it is not in the journal, or none was named and there are several.
    """
    if not streams:
        raise UserError(
            f"No source's hello is in {path}: there are no spikes to play. "
            "Was 'neurrate record' given the source's address (--spikes)?"
        )
    if stream is None and len(streams) == 1:
        return streams[0]
    if stream not in streams:
        was = "several streams" if stream is None else f"no stream {stream!r}"
        raise UserError(f"{path} has {was}. Choose one with --stream: {listed(streams)}.")
    return stream
