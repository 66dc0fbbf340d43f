"""When a concept was on the screen: as the recording's captions say, or as a CSV file says."""

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
from contracts.words import words_in
from evaluation.triggers.intervals import Span, Spans, merged

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

    from daemon.triggers.rules import Rule
    from stream_sources.recordings.presentations import Presentations

COLUMNS = ("start_s", "stop_s", "concept")

GREY = "spontaneous"
"""The stimulus that is a grey screen, in Allen sessions and in simulated ones."""

MAX_GAP_NS = 100_000_000
"""Between two presentations that are taken for one: the same as between two blocks of frames
(encoder_training/data_set/alignment.py)."""


class ConceptAnnotations(Protocol):
    """Knows when a concept was there."""

    @property
    def source(self) -> str: ...  # noqa: D102 - where it is from, for people
    def known(self, seen: Span) -> Spans:
        """Return when it is known what was on the screen, within what the daemon saw."""
        ...

    def there(self, rule: Rule) -> Spans | str:
        """Return when a rule's concept was there, or why that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class FileAnnotations:
    """The rows of a CSV file. What no row names was not there.

    Attributes
    ----------
    source : str
        Its path.
    spans : mapping of str to tuple
        Of each concept, whose letters are small.
    """

    source: str
    spans: Mapping[str, Spans]

    def known(self, seen: Span) -> Spans:
        """Return all that was seen: whoever annotates a recording annotates all of it."""
        return (seen,)

    def there(self, rule: Rule) -> Spans | str:
        """Return when a rule's concept was there: the rows of its own name, or of its concept."""
        for name in (rule.name.casefold(), rule.condition.what.casefold()):
            if name in self.spans:
                return self.spans[name]
        return (
            f"no row of {self.source} has the concept {rule.condition.what!r} or the rule's name "
            f"{rule.name!r}; there are {listed(sorted(self.spans))}"
        )


@dataclass(frozen=True, slots=True)
class CaptionInterval:
    """A stretch in which the screen showed what the same captions say."""

    start_ns: int
    stop_ns: int
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaptionAnnotations:
    """The captions of a recording's presentations. A grey screen shows nothing.

    Attributes
    ----------
    source : str
    shown : tuple of CaptionInterval
        In order; presentations of which nothing is known are left out.
    """

    source: str
    shown: tuple[CaptionInterval, ...]

    def known(self, seen: Span) -> Spans:
        """Return when captions or a grey screen say what was there."""
        spans = merged(((each.start_ns, each.stop_ns) for each in self.shown), gap_ns=MAX_GAP_NS)
        cut = ((max(start, seen[0]), min(stop, seen[1])) for start, stop in spans)
        return merged((start, stop) for start, stop in cut if start < stop)

    def there(self, rule: Rule) -> Spans | str:
        """Return when a caption names the concept, in any of its words for the frame."""
        what = rule.condition.what
        if rule.condition.kind is TriggerKind.LIKENESS:
            return (
                "captions name things and do not say what is like a sentence; give --truth with "
                f"rows whose concept is the rule's name {rule.name!r}"
            )
        wanted = words_in(what)
        spans = [
            (each.start_ns, each.stop_ns)
            for each in self.shown
            if any(_names(caption, wanted) for caption in each.captions)
        ]
        if not spans:
            return (
                f"no caption of the recording says {what!r}: it was never there, or goes by "
                "another name; give --truth"
            )
        return merged(spans, gap_ns=MAX_GAP_NS)


def read_truth_file(path: Path) -> FileAnnotations:
    """Read ``start_s,stop_s,concept``.

    Parameters
    ----------
    path : Path
        CSV with a header; more columns are passed over. A concept is a rule's concept, words,
        sentence or name.

    Returns
    -------
    FileAnnotations

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


def _read(rows: CsvReader, path: Path) -> dict[str, Spans]:
    header = [name.strip() for name in next(rows, [])]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"--truth {path}, line 1 must name the columns {','.join(COLUMNS)}, separated by "
            f"commas; {listed(missing)} is not among {listed(header) or 'none'}."
        )
    found: dict[str, list[Span]] = {}
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
        found.setdefault(concept, []).append((start_ns, stop_ns))
    if problems:
        raise UserError(f"--truth {path}: {'; '.join(problems[:5])}{_more(problems)}.")
    if not found:
        raise UserError(f"--truth {path} must have a row or more below its header, got none.")
    return {concept: merged(spans) for concept, spans in found.items()}


def _row(row: Mapping[str, str]) -> tuple[int, int, str]:
    """Read one row.

    Raises
    ------
    ValueError
        With the rule that it breaks.
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


def _more(problems: Sequence[str]) -> str:
    return f"; and {len(problems) - 5} lines more" if len(problems) > 5 else ""


def captions_as_truth(shown: Presentations, recording: str) -> CaptionAnnotations | None:
    """Take the captions of a recording's presentations for the truth.

    A simulated session knows more sentences for each frame, which lie beside it: with other words
    for the same thing. They count as well.

    Parameters
    ----------
    shown : Presentations
    recording : str
        Path, for its name and for the sentences beside it.

    Returns
    -------
    CaptionAnnotations or None
        None where no presentation has a caption.
    """
    if not shown.caption or not any(shown.caption):
        return None
    more = _sentences_beside(Path(recording), shown.names)
    found: list[CaptionInterval] = []
    for row in range(len(shown.start_ns)):
        name, caption = shown.names[shown.stimulus[row]], shown.caption[row]
        frame = shown.frame[row]
        if not caption and name != GREY and not frame < 0:  # below 0 is a blank; NaN is no number
            continue
        number = -1 if np.isnan(frame) else int(frame)
        said = (caption, *more.get((name, number), ())) if caption else ()
        _add(found, CaptionInterval(int(shown.start_ns[row]), int(shown.stop_ns[row]), said))
    source = "the recording's captions" + (" and the sentences beside it" if more else "")
    return CaptionAnnotations(source, tuple(found))


def _add(found: list[CaptionInterval], new: CaptionInterval) -> None:
    """Append, or lengthen the last if the same was shown on."""
    last = found[-1] if found else None
    if last and last.captions == new.captions and new.start_ns - last.stop_ns <= MAX_GAP_NS:
        found[-1] = CaptionInterval(last.start_ns, max(last.stop_ns, new.stop_ns), last.captions)
    elif new.stop_ns > new.start_ns:
        found.append(new)


def _sentences_beside(
    recording: Path, movies: Sequence[str]
) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the sentences of ``RECORDING_movies/MOVIE_facts.jsonl``, by movie and frame."""
    folder = recording.with_name(f"{recording.stem}_movies")
    found: dict[tuple[str, int], tuple[str, ...]] = {}
    for movie in movies:
        path = folder / f"{movie}_facts.jsonl"
        if path.is_file():
            found |= {(movie, number): said for number, said in _facts(path)}
    return found


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


def _names(caption: str, wanted: tuple[str, ...]) -> bool:
    said, n = _words(caption), len(wanted)
    return any(said[at : at + n] == wanted for at in range(len(said) - n + 1))
