"""A journal as an NWB file: units and spikes, narrations, triggers, marks.

The file is written under another name and takes its own when it is whole. Times are in session
seconds. Narrations stand in it twice: as an `EventsTable`, which few programs read yet, and as
`TimeIntervals`, one table for each population, whose rows do not overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from contracts.atomic_files import READABLE, sync
from contracts.journal_reader import JournalReader
from contracts.narration import Narration, latency_ms
from contracts.software import software
from contracts.spikes import Mark
from contracts.trigger import Trigger, trigger_latency_ms
from subscribers.recorder.nwb_rows import JournalRows, JournalTables
from subscribers.recorder.nwb_units import add_units, column, floats, table_name

NARRATION_COLUMNS = {
    "population": "the units that were decoded",
    "text": "the sentence; empty where it failed",
    "status": "ok, truncated or failed",
    "confidence": "how sure the decoding is, 0.1 by chance to 1; NaN where it is not known",
    "window_start": "session seconds at which the window begins",
    "window_stop": "session seconds at which the window ends",
    "frame_time": "session seconds at which the frame that it describes was on the screen",
    "latency_ms": "from the newest spike received to published",
    "n_gap_bins": "bins of the window that were not covered",
    "narration_id": "unique id",
}
TRIGGER_COLUMNS = {
    "rule": "name of the rule that fired",
    "kind": "probe, word or likeness",
    "condition": "the rule as it was written",
    "population": "the units that were decoded",
    "score": "what was found",
    "threshold": "what it had to cross",
    "dry_run": "whether it reached no sink",
    "latency_ms": "from the newest spike received to published",
    "trigger_id": "unique id",
}
MARK_COLUMNS = {
    "stimulus_name": "name of the stimulus",
    "presentation_id": "row in the table of its presentations",
    "frame": "frame of the movie or number of the image, -1 where unknown",
    "caption": "what it shows, in words",
}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and what was not."""

    n_units: int
    n_spikes: int
    n_narrations: int
    n_triggers: int
    n_marks: int
    n_left_out: int
    n_not_closed: int


@dataclass(frozen=True, slots=True)
class AnimalFacts:
    """What archives ask of the animal, and no stream says; empty where unknown.

    `age` is an ISO 8601 duration (``P90D``), `sex` one of F, M, U and O, `species` in Latin.
    """

    subject_id: str = ""
    species: str = ""
    sex: str = ""
    age: str = ""


def export_nwb(journal: Path, out: Path, animal: AnimalFacts | None = None) -> ExportReport:
    """Write a journal as an NWB file, whole or not at all.

    Raises
    ------
    UserError
        If it is no journal, or holds no messages.
    """
    from pynwb import NWBHDF5IO

    reader = JournalReader(journal)
    tables = JournalTables(reader)
    rows = tables.rows
    partial = out.with_name(f".{out.stem}.partial.nwb")  # pynwb wants the ending
    try:
        spikes = tables.spikes(out.absolute().parent)
        file = _file(journal, rows, reader)
        _add_animal(file, animal or AnimalFacts())
        add_units(file, rows, spikes)
        _add_narrations(file, rows.narrations)
        _add_triggers(file, rows.triggers)
        _add_marks(file, rows.marks)
        with NWBHDF5IO(partial, "w") as io:
            io.write(file)
        partial.chmod(READABLE)
        sync(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return ExportReport(
        n_units=len(rows.units),
        n_spikes=len(spikes.times_s),
        n_narrations=len(rows.narrations),
        n_triggers=len(rows.triggers),
        n_marks=len(rows.marks),
        n_left_out=rows.n_left_out,
        n_not_closed=len(reader.unclosed),
    )


def _file(journal: Path, rows: JournalRows, reader: JournalReader) -> Any:
    from pynwb import NWBFile

    start = (
        "Session time zero is as the source stated it"
        if rows.is_start_stated
        else "No source stated when session time was zero: it is reckoned from when the first "
        "batch was received"
    )
    parts = [
        {"recording": one.recording, "part": one.part, "commit": one.commit}
        for one in reader.identities
    ]
    return NWBFile(
        session_description=f"Spikes and narrations that Neurrate recorded in {journal.name}. "
        f"{start}.",
        identifier=f"{reader.identities[0].recording}-{reader.identities[0].part}",
        session_start_time=rows.session_start or rows.recorded,
        source_script=f"neurrate journal to-nwb, version {software()['version']}",
        source_script_file_name="subscribers/recorder/nwb_export.py",
        notes=json.dumps(
            {"parts": parts, "daemon": json.loads(rows.daemon) if rows.daemon else None}
        ),
    )


def _add_animal(file: Any, animal: AnimalFacts) -> None:
    from pynwb.file import Subject

    known = {name: text for name, text in asdict(animal).items() if text}
    if known:
        file.subject = Subject(**known)


def _add_narrations(file: Any, narrations: Sequence[Narration]) -> None:
    if not narrations:
        return
    ordered = sorted(narrations, key=lambda one: (one.window_stop_s, one.population))
    file.add_events_table(
        _events(
            "narrations",
            "Sentences about what the animal sees. A timestamp is the end of the window of spikes "
            "that a sentence was made of.",
            [one.window_stop_s for one in ordered],
            NARRATION_COLUMNS,
            _narration_columns(ordered),
        )
    )
    by_population = sorted(narrations, key=lambda one: (one.population, one.frame_s))
    for population, group in groupby(by_population, key=lambda one: one.population):
        rows = list({one.frame_s: one for one in group}.values())
        begin, end = _intervals(rows)
        file.add_time_intervals(
            _time_intervals(
                f"narrations_{population}",
                f"Sentences of the population {population}. An interval begins with the frame that "
                "a sentence describes, and ends with that of the next one, or after the length of "
                "a window.",
                begin,
                end,
                NARRATION_COLUMNS,
                _narration_columns(rows),
            )
        )


def _intervals(narrations: Sequence[Narration]) -> tuple[list[float], list[float]]:
    """Return starts and stops of narrations in order of their frames; none overlap."""
    starts = [one.frame_s for one in narrations]
    lengths = [one.window_stop_s - one.window_start_s for one in narrations]
    following = [*starts[1:], math.inf]
    stops = [
        min(start + length, after)
        for start, length, after in zip(starts, lengths, following, strict=True)
    ]
    return starts, stops


def _narration_columns(narrations: Sequence[Narration]) -> dict[str, Any]:
    return {
        "population": [one.population for one in narrations],
        "text": [one.utterance.text for one in narrations],
        "status": [one.utterance.status.value for one in narrations],
        "confidence": floats([one.confidence for one in narrations]),
        "window_start": [one.window_start_s for one in narrations],
        "window_stop": [one.window_stop_s for one in narrations],
        "frame_time": [one.frame_s for one in narrations],
        "latency_ms": [latency_ms(one.stamps)["total"] for one in narrations],
        "n_gap_bins": [one.n_gap_bins for one in narrations],
        "narration_id": [one.id for one in narrations],
    }


def _add_triggers(file: Any, triggers: Sequence[Trigger]) -> None:
    if not triggers:
        return
    ordered = sorted(triggers, key=lambda one: one.window.stop_s)
    columns = {
        "rule": [one.name for one in ordered],
        "kind": [one.kind.value for one in ordered],
        "condition": [one.rule for one in ordered],
        "population": [one.population for one in ordered],
        "score": [one.score for one in ordered],
        "threshold": [one.threshold for one in ordered],
        "dry_run": [one.dry_run for one in ordered],
        "latency_ms": [trigger_latency_ms(one.stamps)["total"] for one in ordered],
        "trigger_id": [one.id for one in ordered],
    }
    description = "Rules that fired. A timestamp is the end of the window in which one did."
    times = [one.window.stop_s for one in ordered]
    file.add_events_table(_events("triggers", description, times, TRIGGER_COLUMNS, columns))


def _add_marks(file: Any, marks: Iterable[Mark]) -> None:
    def name_of(mark: Mark) -> str:
        return f"{table_name(mark.stimulus) or 'stimulus'}_presentations"

    ordered = sorted(marks, key=lambda one: (name_of(one), one.start_ns, one.presentation_id))
    for name, group in groupby(ordered, key=name_of):
        rows = list(group)
        columns: dict[str, Any] = {
            "stimulus_name": [one.stimulus for one in rows],
            "presentation_id": [one.presentation_id for one in rows],
            "frame": [-1 if one.frame is None else one.frame for one in rows],
        }
        if any(one.caption for one in rows):
            columns["caption"] = [one.caption or "" for one in rows]
        begin = [one.start_ns / 1e9 for one in rows]
        end = [one.stop_ns / 1e9 for one in rows]
        description = f"what was shown of {rows[0].stimulus}, as a source sent it"
        file.add_time_intervals(
            _time_intervals(name, description, begin, end, MARK_COLUMNS, columns)
        )


def _events(
    name: str,
    description: str,
    times: Sequence[float],
    descriptions: Mapping[str, str],
    columns: Mapping[str, Any],
) -> Any:
    from pynwb.event import EventsTable, TimestampVectorData

    stamps = TimestampVectorData(name="timestamp", description="session seconds", data=list(times))
    return EventsTable(
        name=name,
        description=description,
        columns=[stamps, *(column(key, descriptions, data) for key, data in columns.items())],
        id=list(range(len(times))),
    )


def _time_intervals(
    name: str,
    description: str,
    begin: Sequence[float],
    end: Sequence[float],
    descriptions: Mapping[str, str],
    columns: Mapping[str, Any],
) -> Any:
    from hdmf.common import VectorData
    from pynwb.epoch import TimeIntervals

    times = [
        VectorData(name=key, description="session seconds", data=list(data))
        for key, data in (("start_time", begin), ("stop_time", end))
    ]
    return TimeIntervals(
        name=name,
        description=description,
        columns=[*times, *(column(key, descriptions, data) for key, data in columns.items())],
        id=list(range(len(begin))),
    )
