"""A recording as a source: trains, units and presentations become batches and marks.

What every file format shares. The formats themselves are ``nwb.py`` and ``sorting.py``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, ns_to_second, second_to_ns
from contracts.errors import MisuseError, RecordingError
from contracts.population import Population, Unit
from contracts.spikes import MAX_SPAN_NS, STREAM_NAME, Mark, SpikeBatch
from stream_sources.recordings.presentations import Presentations
from stream_sources.recordings.trains import SpikeTrains, walk_blocks
from stream_sources.recordings.unit_filter import parse_units
from stream_sources.source import cut_batches, new_run

logger = logging.getLogger(__name__)

MIN_BATCH_NS = 1_000
"""The shortest batch, 1 us: shorter ones hold no more truth, and a billion of them a second."""


NOTHING_INVALID: NDArray[np.int64] = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The contents of a file, read and checked.

    Attributes
    ----------
    identifier : str
        The session's own name; empty if it has none.
    invalid_ns : array, shape (n_invalid, 2), int64, session nanoseconds
        Start and stop of each interval that is not to be analysed.
    areas_from, probes_from : str
        Source of the units' areas and probes in the file; empty if it has none.
    sampling_rate : str
        Sampling rate of a sorting and its source; empty where times are in seconds.
    session_start_utc : str
        When session time was zero, as in `Hello`; empty where the file does not state it.
    table : str
        How the unit table was made, as in `Hello`.
    notes : tuple of str
        What was left out or is in doubt.
    """

    path: str
    label: str
    identifier: str
    population: Population
    trains: SpikeTrains
    presentations: Presentations = field(default_factory=Presentations.none)
    invalid_ns: NDArray[np.int64] = field(default_factory=NOTHING_INVALID.copy)
    areas_from: str = ""
    probes_from: str = ""
    sampling_rate: str = ""
    session_start_utc: str = ""
    table: str = ""
    notes: tuple[str, ...] = ()


class Play(NamedTuple):
    """Which part of a recording is sent, and in what pieces. Checked by `check_request`.

    Without a start the part begins with the first spike, or rather with its batch: that time
    rounded down to a whole batch. The duration counts from there.
    """

    stream: str
    start_s: float | None
    duration_s: float | None
    batch_ms: float

    @property
    def batch_ns(self) -> int:
        """Length of a batch, nanoseconds."""
        return second_to_ns(self.batch_ms / 1e3)

    @property
    def duration_ns(self) -> int | None:
        """What is played, nanoseconds: one at least; None for all there is."""
        return None if self.duration_s is None else max(1, second_to_ns(self.duration_s))


class RecordingSource:
    """Replays a recording: the part of `SpikeSource` that all files share.

    Raises
    ------
    RecordingError
        If the part holds nothing.
    """

    def __init__(self, recording: Recording, play: Play) -> None:
        self.stream = play.stream
        self.run = new_run()
        self.label = recording.label
        self.identifier = recording.identifier
        self.population = recording.population
        self._batch_ns = play.batch_ns
        self._trains: SpikeTrains | None = recording.trains
        self.presentations = recording.presentations
        self.invalid_ns = recording.invalid_ns
        self.areas_from, self.probes_from = recording.areas_from, recording.probes_from
        self.sampling_rate = recording.sampling_rate
        self.session_start_utc, self.table = recording.session_start_utc, recording.table
        self.notes = recording.notes
        for note in recording.notes:
            logger.warning("recording read in part", extra={"note": note, "recording": self.label})
        self.span_ns = _span_of(recording, play)
        self._shown_ns = _asked_span(play, self.span_ns[0])
        self.n_spikes = _count(recording.trains, self.span_ns)

    @property
    def trains(self) -> SpikeTrains:
        """The spikes of the whole recording, in the order of the population.

        Raises
        ------
        MisuseError
            If the source is closed.
        """
        if self._trains is None:
            raise MisuseError(f"{self.label} is closed")
        return self._trains

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches in order, from the start at each call."""
        start_ns, stop_ns = self.span_ns
        blocks = walk_blocks(
            self.trains, start_ns=start_ns, stop_ns=stop_ns, batch_ns=self._batch_ns
        )
        return cut_batches(blocks, stream=self.stream, run=self.run, batch_ns=self._batch_ns)

    def marks(self) -> Iterator[Mark]:
        """Yield the presentations that meet the part that is played, in order of their start."""
        start_ns, stop_ns = self._shown_ns
        return self.presentations.marks(self.stream, self.run, start_ns=start_ns, stop_ns=stop_ns)

    def close(self) -> None:
        """Let go of the file; iterators that are still open keep it until they end."""
        self._trains = None


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """What ``neurrate inspect`` says of a recording.

    Attributes
    ----------
    n_units, n_spikes : int
        Of the chosen units in the chosen part.
    span_s : tuple of float, or None
        First and last second of what would be sent; None where spike times were not read.
    areas, probes, cell_types, qualities : dict of str to int
        Units of each, most first; the empty name stands for unknown.
    presentations : dict of str to int
        Presentations of each stimulus, in order of their first.
    areas_from, probes_from, sampling_rate, notes
        As in `Recording`.
    """

    label: str
    identifier: str
    n_units: int
    n_spikes: int
    span_s: tuple[float, float] | None
    areas: dict[str, int]
    probes: dict[str, int]
    cell_types: dict[str, int]
    qualities: dict[str, int]
    presentations: dict[str, int]
    areas_from: str
    probes_from: str
    notes: tuple[str, ...]
    sampling_rate: str = ""

    @classmethod
    def of(cls, units: Sequence[Unit], presentations: Presentations, **more: Any) -> Self:
        """Count the units and the presentations; `more` are the other attributes."""
        rows = presentations.stimulus.tolist()
        return cls(
            n_units=len(units),
            areas=_most_first(unit.area for unit in units),
            probes=_most_first(unit.probe for unit in units),
            cell_types=_most_first(unit.cell_type for unit in units),
            qualities=_most_first(unit.quality for unit in units),
            presentations=dict(Counter(presentations.names[row] for row in rows)),
            **more,
        )


def describe(source: RecordingSource) -> RecordingSummary:
    """Summarise what a recording holds."""
    start_ns, stop_ns = source.span_ns
    return RecordingSummary.of(
        source.population.units,
        source.presentations,
        label=source.label,
        identifier=source.identifier,
        n_spikes=source.n_spikes,
        span_s=(ns_to_second(start_ns), ns_to_second(stop_ns)),
        areas_from=source.areas_from,
        probes_from=source.probes_from,
        sampling_rate=source.sampling_rate,
        notes=source.notes,
    )


def check_request(path: str, play: Play, units: str) -> None:
    """Refuse what was asked of a recording before any file is opened or fetched.

    `units` are conditions as for ``--units``.

    Raises
    ------
    RecordingError
        With every problem of `play`.
    UserError
        If the conditions cannot be read.
    """
    problems = []
    if not STREAM_NAME.fullmatch(play.stream):
        problems.append(f"stream must be 1 to 64 letters, digits, '_' or '-', got {play.stream!r}")
    if not MIN_BATCH_NS <= play.batch_ms * 1e6 <= MAX_SPAN_NS:
        problems.append(
            f"batch_ms must be from {MIN_BATCH_NS / 1e6} to {MAX_SPAN_NS / 1e6:.0f} ms, "
            f"got {play.batch_ms}"
        )
    if play.start_s is not None and not abs(play.start_s) * 1e9 <= MAX_SESSION_NS:
        problems.append(f"--start (start_s) must be a time in seconds, got {play.start_s:g}")
    if play.duration_s is not None and not 0 < play.duration_s * 1e9 <= MAX_SESSION_NS:
        problems.append(f"--seconds (duration_s) must be more than 0 s, got {play.duration_s:g}")
    if problems:
        raise RecordingError(path, *problems)
    parse_units(units)


def _asked_span(play: Play, first_ns: int) -> tuple[int, int]:
    """Return the part whose presentations are sent: nothing before a requested start.

    The length counts from where the spikes start, as theirs does.
    """
    start_ns = -MAX_SESSION_NS if play.start_s is None else second_to_ns(play.start_s)
    if play.duration_ns is None:
        return start_ns, MAX_SESSION_NS
    return start_ns, max(start_ns, first_ns) + play.duration_ns


def _span_of(recording: Recording, play: Play) -> tuple[int, int]:
    """Return what will be sent: whole batches from the first spike, to just past the last.

    Raises
    ------
    RecordingError
        If that is nothing.
    """
    ends = recording.trains.ends_ns()
    if ends is None:
        raise RecordingError(
            recording.path,
            f"the {len(recording.population)} chosen units have no spikes; choose others",
        )
    start_ns = ends[0] // play.batch_ns * play.batch_ns
    if play.start_s is not None:
        start_ns = second_to_ns(play.start_s)
    stop_ns = ends[1] + 1
    if play.duration_ns is not None:
        stop_ns = min(stop_ns, start_ns + play.duration_ns)
    if start_ns >= stop_ns:
        raise RecordingError(
            recording.path,
            "--start (start_s) must come before the last spike at "
            f"{ns_to_second(ends[1]):.3f} s, got {play.start_s}",
        )
    return start_ns, stop_ns


def _count(trains: SpikeTrains, span_ns: tuple[int, int]) -> int:
    first = trains.positions(span_ns[0], trains.start)
    last = trains.positions(span_ns[1], first)
    trains.release()
    return int((last - first).sum())


def _most_first(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
