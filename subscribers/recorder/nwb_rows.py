"""What a journal says, as rows of tables: units, spikes, narrations, triggers, marks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts import wire
from contracts.clock import NS_PER_S
from contracts.errors import UserError, WireError
from contracts.journal import JournalMessage, Origin
from contracts.journal_reader import JournalReader
from contracts.narration import Narration
from contracts.narration_wire import load, narration_of
from contracts.population import Unit
from contracts.source_json import mark_of
from contracts.spikes import Hello, Mark, SpikeBatch
from contracts.trigger import Trigger, trigger_of


@dataclass(slots=True)
class JournalRows:
    """The messages of a journal that become tables.

    Attributes
    ----------
    units : list of (stream, Unit)
        Of every stream, in order of arrival; a unit that two runs announce stands there once.
    n_spikes : list of int
        Of each unit.
    daemon : str
        The newest ``daemon`` message; empty if none was recorded.
    recorded : datetime
        When the first message was received.
    session_start : datetime
        When session time was zero; see `is_start_stated`.
    is_start_stated : bool
        Whether a source stated it. Else it is reckoned from when the first batch was received.
    n_left_out : int
        Messages that follow no format, and spikes' messages of unknown units.
    """

    units: list[tuple[str, Unit]] = field(default_factory=list)
    n_spikes: list[int] = field(default_factory=list)
    narrations: list[Narration] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    daemon: str = ""
    recorded: datetime | None = None
    session_start: datetime | None = None
    is_start_stated: bool = False
    n_left_out: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SpikeTable:
    """Spike times, unit after unit.

    Attributes
    ----------
    times_s : array, shape (n_spikes,), float64, session seconds
        In order within a unit; on disk where it is large, in a file without a name.
    stops : array, shape (n_units,), int64
        Where the spikes of each unit stop.
    """

    times_s: NDArray[np.float64]
    stops: NDArray[np.int64]


class JournalTables:
    """Reads a journal twice: once for its rows, once for the spikes, whose number is then known.

    Raises
    ------
    UserError
        If it holds no messages, or is none.
    """

    def __init__(self, reader: JournalReader) -> None:
        self.rows = JournalRows()
        self._reader = reader
        self._row_of: dict[tuple[str, Unit], int] = {}
        self._rows_of_run: dict[tuple[str, str], NDArray[np.int64]] = {}
        self._marks: set[tuple[int, int, str, int]] = set()
        for message in reader.messages():
            self._read(message)
        if self.rows.recorded is None:
            raise UserError(f"{reader.path} holds no messages: there is nothing to export.")

    def spikes(self, folder: Path) -> SpikeTable:
        """Return the spikes by unit. `folder` lends the disk: those of a day exceed memory."""
        counts = np.array(self.rows.n_spikes, dtype=np.int64)
        stops = np.cumsum(counts)
        starts = stops - counts
        n_spikes = int(counts.sum())
        with tempfile.TemporaryFile(dir=folder) as file:  # the map outlives its name
            file.truncate(8 * max(1, n_spikes))
            times_s = np.memmap(file, np.float64, "r+", shape=(max(1, n_spikes),))[:n_spikes]
        free = starts.copy()
        for batch in self._batches():
            rows = self._unit_rows(batch)
            if rows is None or not batch.n_spikes:
                continue
            order = np.argsort(rows, kind="stable")
            found, first, n_each = np.unique(rows[order], return_index=True, return_counts=True)
            place = np.repeat(free[found] - first, n_each) + np.arange(len(rows))
            times_s[place] = batch.spike_time_ns[order] / NS_PER_S
            free[found] += n_each
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            times_s[start:stop].sort()  # batches need not be sorted, and runs may go back
        return SpikeTable(times_s, stops)

    def _read(self, message: JournalMessage) -> None:
        rows = self.rows
        rows.recorded = rows.recorded or _utc(message.wall_ns)
        try:
            if message.origin is Origin.SOURCE:
                self._read_source(message)
            elif message.kind == "narration":
                rows.narrations.append(narration_of(load(message.parts[1])))
            elif message.kind == "trigger":
                rows.triggers.append(trigger_of(load(message.parts[1])))
            elif message.kind == "mark":
                self._add_mark(mark_of(load(message.parts[1])))
            elif message.kind == "daemon":
                rows.daemon = message.parts[1].decode()
        except (WireError, UnicodeDecodeError):
            rows.n_left_out += 1

    def _read_source(self, message: JournalMessage) -> None:
        match wire.unpack(message.parts):
            case Hello() as hello:
                self._add_units(hello)
            case Mark() as mark:
                self._add_mark(mark)
            case SpikeBatch() as batch:
                unit_rows = self._unit_rows(batch)
                if unit_rows is None:
                    self.rows.n_left_out += 1
                    return
                for row, n in zip(*np.unique(unit_rows, return_counts=True), strict=True):
                    self.rows.n_spikes[row] += int(n)
                if self.rows.session_start is None:
                    self.rows.session_start = _utc(message.wall_ns - batch.stop_ns)

    def _add_units(self, hello: Hello) -> None:
        rows = self.rows
        if hello.session_start_utc and not rows.is_start_stated:
            rows.session_start = datetime.fromisoformat(hello.session_start_utc)
            rows.is_start_stated = True
        run = (hello.stream, hello.run)
        if run in self._rows_of_run:
            return
        for unit in hello.population.units:
            if (hello.stream, unit) not in self._row_of:
                self._row_of[hello.stream, unit] = len(rows.units)
                rows.units.append((hello.stream, unit))
                rows.n_spikes.append(0)
        found = [self._row_of[hello.stream, unit] for unit in hello.population.units]
        self._rows_of_run[run] = np.array(found, dtype=np.int64)

    def _add_mark(self, mark: Mark) -> None:
        """Add a mark once: several probes may send it, and the daemon passes it on."""
        key = (mark.start_ns, mark.stop_ns, mark.stimulus, mark.presentation_id)
        if key not in self._marks:
            self._marks.add(key)
            self.rows.marks.append(mark)

    def _unit_rows(self, batch: SpikeBatch) -> NDArray[np.int64] | None:
        """Return the row of each spike's unit; None if its run has not said hello before."""
        rows = self._rows_of_run.get((batch.stream, batch.run))
        if rows is None or (batch.n_spikes and int(batch.unit_index.max()) >= len(rows)):
            return None
        return rows[batch.unit_index]

    def _batches(self) -> Iterator[SpikeBatch]:
        for message in self._reader.messages(_is_spikes):
            try:
                value = wire.unpack(message.parts)
            except WireError:
                continue  # counted when its rows were read
            if isinstance(value, SpikeBatch):
                yield value


def _is_spikes(origin: Origin, topic: str) -> bool:
    return origin is Origin.SOURCE and topic.startswith("spikes.")


def _utc(wall_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=wall_ns // 1000)
