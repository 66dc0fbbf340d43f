"""When a concept was on the screen, from the recording's captions or from a CSV file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from contracts.clock import MAX_SESSION_NS, NS_PER_S, second_to_ns
from contracts.errors import UserError, listed
from contracts.trigger import TriggerKind
from contracts.words import has_phrase, words_in
from evaluation.triggers.intervals import TimeInterval, TimeIntervals, common, merged
from stream_sources.recordings.presentations import GREY

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

    from daemon.triggers.rules import Rule
    from stream_sources.recordings.presentations import Presentations

COLUMNS = ("start_s", "stop_s", "concept")

MAX_GAP_NS = 100_000_000
"""Longest gap between presentations that count as continuous, as between blocks of frames in
encoder_training/data_set/alignment.py."""


class ConceptAnnotations(Protocol):
    """When each concept was on the screen."""

    @property
    def source(self) -> str:
        """Where the annotations are from, in words."""
        ...

    def annotated(self, played: TimeInterval) -> TimeIntervals:
        """Return the annotated parts of what was played."""
        ...

    def concept_intervals(self, rule: Rule) -> TimeIntervals | str:
        """Return when a rule's concept was on the screen, or why that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class FileAnnotations:
    """The rows of a CSV file. A concept is absent outside the rows that name it."""

    source: str  # Path of the file
    intervals: Mapping[str, TimeIntervals]  # By concept, in lower case

    def annotated(self, played: TimeInterval) -> TimeIntervals:
        """Return all that was played: a file annotates the whole recording."""
        return (played,)

    def concept_intervals(self, rule: Rule) -> TimeIntervals | str:
        """Return the rows with the rule's own name, or else those of its concept."""
        for name in (rule.name.casefold(), rule.condition.what.casefold()):
            if name in self.intervals:
                return self.intervals[name]
        return (
            f"no row of {self.source} has the concept {rule.condition.what!r} or the rule's name "
            f"{rule.name!r}; there are {listed(sorted(self.intervals))}"
        )


@dataclass(frozen=True, slots=True)
class CaptionInterval:
    """An interval in which the captions of the screen stay the same; none for a grey screen."""

    start_ns: int
    stop_ns: int
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaptionAnnotations:
    """The captions of a recording's presentations. A grey screen shows no concept."""

    source: str
    shown: tuple[CaptionInterval, ...]  # In order; presentations without annotation are left out

    def annotated(self, played: TimeInterval) -> TimeIntervals:
        """Return when a caption or a grey screen was shown."""
        shown = merged(
            ((interval.start_ns, interval.stop_ns) for interval in self.shown), gap_ns=MAX_GAP_NS
        )
        return common(shown, (played,))

    def concept_intervals(self, rule: Rule) -> TimeIntervals | str:
        """Return when any caption of the frame names the concept."""
        what = rule.condition.what
        if rule.condition.kind is TriggerKind.LIKENESS:
            return (
                "captions name things and do not say what resembles a sentence; give --truth with "
                f"rows whose concept is the rule's name {rule.name!r}"
            )
        wanted = words_in(what)
        intervals = [
            (interval.start_ns, interval.stop_ns)
            for interval in self.shown
            if any(has_phrase(_words(caption), wanted) for caption in interval.captions)
        ]
        if not intervals:
            return (
                f"no caption of the recording says {what!r}: it was never on the screen, or has "
                "another name; give --truth"
            )
        return merged(intervals, gap_ns=MAX_GAP_NS)


def read_truth_file(path: Path) -> FileAnnotations:
    """Read ``start_s,stop_s,concept``.

    The CSV file has a header; other columns are ignored. A concept is a rule's concept, words,
    sentence or name.

    Raises
    ------
    UserError
        With every line that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"--truth must be a CSV file that is there, got {path}.") from None
    except ValueError as error:
        raise UserError(f"--truth {path} is not UTF-8 text: {error}.") from error
    rows = csv.reader(text.splitlines())
    try:
        return FileAnnotations(str(path), _read(rows, path))
    except csv.Error as error:
        raise UserError(f"--truth {path}, line {rows.line_num} is no CSV: {error}.") from error


def _read(rows: CsvReader, path: Path) -> dict[str, TimeIntervals]:
    header = [name.strip() for name in next(rows, [])]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"--truth {path}, line 1 must name the columns {','.join(COLUMNS)}, separated by "
            f"commas; {listed(missing)} is not among {listed(header) or 'none'}."
        )
    intervals: dict[str, list[TimeInterval]] = {}
    problems = []
    for values in rows:
        if not any(value.strip() for value in values):
            continue
        row = dict(zip(header, values, strict=False))
        try:
            start_ns, stop_ns, concept = _row(row)
        except ValueError as error:
            problems.append(f"line {rows.line_num} {error}")
            continue
        intervals.setdefault(concept, []).append((start_ns, stop_ns))
    if problems:
        more = f"; and {len(problems) - 5} lines more" if len(problems) > 5 else ""
        raise UserError(f"--truth {path}: {'; '.join(problems[:5])}{more}.")
    if not intervals:
        raise UserError(f"--truth {path} must have a row or more below its header, got none.")
    return {concept: merged(rows_of) for concept, rows_of in intervals.items()}


def _row(row: Mapping[str, str]) -> tuple[int, int, str]:
    """Return start, stop (nanoseconds) and concept of one row.

    Raises
    ------
    ValueError
        With the rule that the row breaks.
    """
    lacking = [name for name in COLUMNS if not row.get(name, "").strip()]
    if lacking:
        raise ValueError(f"must have a value for {listed(lacking)}")
    times = []
    for name in COLUMNS[:2]:
        try:
            second = float(row[name])
        except ValueError:
            second = math.nan
        if not abs(second) < MAX_SESSION_NS / NS_PER_S:
            raise ValueError(f"must have seconds of session time as {name}, got {row[name]!r}")
        times.append(second_to_ns(second))
    if times[1] <= times[0]:
        raise ValueError(
            f"must stop after it starts, got {row['start_s'].strip()} to {row['stop_s'].strip()} s"
        )
    return times[0], times[1], row["concept"].strip().casefold()


def captions_as_truth(shown: Presentations, recording: str) -> CaptionAnnotations | None:
    """Return the captions of a recording's presentations; None if no presentation has one.

    A simulated session has further sentences for each frame, with synonyms, in a folder beside the
    recording. They count as captions too.
    """
    if not shown.caption or not any(shown.caption):
        return None
    more = _sentences_beside(Path(recording), shown.names)
    intervals: list[CaptionInterval] = []
    for row in range(len(shown.start_ns)):
        name, caption = shown.names[shown.stimulus[row]], shown.caption[row]
        frame = shown.frame[row]
        if not caption and name != GREY and not frame < 0:  # below 0 is a blank; NaN is no number
            continue
        number = -1 if np.isnan(frame) else int(frame)
        captions = (caption, *more.get((name, number), ())) if caption else ()
        start_ns, stop_ns = int(shown.start_ns[row]), int(shown.stop_ns[row])
        _add(intervals, CaptionInterval(start_ns, stop_ns, captions))
    source = "the recording's captions" + (" and the sentences beside it" if more else "")
    return CaptionAnnotations(source, tuple(intervals))


def _add(intervals: list[CaptionInterval], new: CaptionInterval) -> None:
    """Append an interval, or extend the last one if it has the same captions."""
    last = intervals[-1] if intervals else None
    if last and last.captions == new.captions and new.start_ns - last.stop_ns <= MAX_GAP_NS:
        intervals[-1] = CaptionInterval(
            last.start_ns, max(last.stop_ns, new.stop_ns), last.captions
        )
    elif new.stop_ns > new.start_ns:
        intervals.append(new)


def _sentences_beside(
    recording: Path, movies: Sequence[str]
) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the sentences of ``RECORDING_movies/MOVIE_facts.jsonl``, by movie and frame."""
    folder = recording.with_name(f"{recording.stem}_movies")
    sentences: dict[tuple[str, int], tuple[str, ...]] = {}
    for movie in movies:
        path = folder / f"{movie}_facts.jsonl"
        if path.is_file():
            sentences |= {(movie, frame): captions for frame, captions in _facts(path)}
    return sentences


def _facts(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                yield int(row["frame"]), tuple(map(str, row["captions"]))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number} must hold a frame and its captions, as 'neurrate "
                    f"simulate session' writes them: {error!r}. Remove the file to do without."
                ) from error


@cache
def _words(caption: str) -> tuple[str, ...]:
    return words_in(caption)
