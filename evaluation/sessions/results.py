"""Read what `neurrate evaluate` wrote about each of several sessions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import UserError, listed
from encoder_training.evaluation.bootstrap import Interval
from evaluation.questions.origin import AnswerOrigin, read_origin

SAME = ("language_model", "sentence_model", "split", "movies")
"""Of `AnswerOrigin`: what must not differ between sessions."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a table that means the same in every session."""

    question: str
    table: str
    column: str  # With its interval in two more columns, ``_low`` and ``_high``
    of: tuple[str, ...]  # Columns that say what a row is of
    null: tuple[str, str] | None = None  # Columns of the band of chance

    @property
    def name(self) -> str:
        """For people: ``scaling: slope``."""
        return f"{self.question}: {self.column}"


# A lead is above 0 for who tells one movie from another, and knows nothing of frames
FIDELITY = Measure("fidelity", "scores", "over_shifts", ("narrator",))
SLOPE = Measure("scaling", "fits", "slope_over_shifts", ("population", "encoder"))
GROWTH = Measure("scaling", "points", "lead", ("population", "encoder", "units"))
APART = Measure(
    "regions-and-types",
    "apart",
    "apart",
    ("population", "among"),
    null=("random_low", "random_high"),
)
SIMILARITY = Measure("regions-and-types", "similarity", "lead", ("one", "other"))
POOLING = Measure("pooling", "differences", "difference", ("measure", "population"))
MEASURES = (FIDELITY, SLOPE, GROWTH, APART, SIMILARITY, POOLING)


@dataclass(frozen=True, slots=True)
class SessionValue:
    """One row of a session's table."""

    session: str
    measure: Measure
    of: tuple[str, ...]
    value: Interval  # Over the frames of this session
    null: tuple[float, float] | None = None


def read_results(folders: Sequence[Path]) -> list[SessionValue]:
    """Return every measure of every session.

    Raises
    ------
    UserError
        If two folders are of one session, if sessions were evaluated in different ways, or if a
        folder or a table cannot be read.
    """
    twice = [
        f for at, f in enumerate(folders) if f.resolve() in {g.resolve() for g in folders[:at]}
    ]
    if twice:
        raise UserError(f"each session counts once, and {twice[0]} is named twice. Leave one out.")
    origins = {folder: _origins(folder) for folder in folders}
    for question in sorted({name for of in origins.values() for name in of}):
        _check_alike({f: of[question] for f, of in origins.items() if question in of})
    return [
        value
        for folder, of in origins.items()
        for measure in MEASURES
        if measure.question in of
        # This session's units may not allow it: scarcely any has three cell types
        if measure.table in of[measure.question].tables
        for value in _read(folder, measure, of[measure.question].session)
    ]


def _origins(folder: Path) -> dict[str, AnswerOrigin]:
    questions = dict.fromkeys(measure.question for measure in MEASURES)
    found = {name: read_origin(folder, name) for name in questions}
    known = {name: origin for name, origin in found.items() if origin is not None}
    if not known:
        raise UserError(
            f"a folder of results must hold an answer to one of {listed(list(questions))}, and "
            f"{folder} {'has none' if folder.is_dir() else 'does not exist'}. Write it with "
            "'neurrate evaluate QUESTION BUNDLE DATASET --out FOLDER'; for one of an earlier "
            "version too, as kept narrations are not made again."
        )
    if len({origin.session for origin in known.values()}) > 1:
        raise UserError(
            f"a folder of results must be of one session, and {folder} is of "
            f"{listed(sorted({origin.session for origin in known.values()}))}. Evaluate each "
            "session into a folder of its own."
        )
    return known


def _check_alike(origins: dict[Path, AnswerOrigin]) -> None:
    (first, one), *others = origins.items()
    seen = {one.session: first}
    for folder, other in others:
        if other.session in seen:
            raise UserError(
                f"each session counts once, and {seen[other.session]} and {folder} are both of "
                f"{other.session}. Leave one out."
            )
        seen[other.session] = folder
        for name in SAME:
            if getattr(one, name) != getattr(other, name):
                raise UserError(
                    f"sessions must be evaluated alike, and {name.replace('_', ' ')} is "
                    f"{getattr(one, name)!r} in {first} and {getattr(other, name)!r} in {folder}. "
                    "Evaluate one of them again."
                )


def _read(folder: Path, measure: Measure, session: str) -> list[SessionValue]:
    path = folder / f"{measure.question}-{measure.table}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if measure is APART:
            rows = [{**row, "among": _among(rows, row)} for row in rows]
        return [
            SessionValue(
                session, measure, tuple(row[k] for k in measure.of), found, _null(row, measure)
            )
            for row in rows
            if (found := _interval(row, measure.column)) is not None
        ]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"{path} must be a table of 'neurrate evaluate', and cannot be read: {error!r}. Answer "
            "the question again."
        ) from error


def _among(rows: Sequence[dict[str, str]], row: dict[str, str]) -> str:
    """Return all populations of its kind: being apart from others depends on who they are."""
    kind = row["population"].partition(":")[0]
    return " ".join(sorted(r["population"] for r in rows if r["population"].startswith(kind)))


def _interval(row: dict[str, str], column: str) -> Interval | None:
    """Return None for an empty cell, which is a value that could not be computed.

    Rounded, so that what is 0 but for the order of a sum has no spread over sessions.
    """
    cells = [row[column + end] for end in ("", "_low", "_high")]
    return Interval(*(round(float(cell), 9) + 0.0 for cell in cells)) if all(cells) else None


def _null(row: dict[str, str], measure: Measure) -> tuple[float, float] | None:
    if measure.null is None:
        return None
    low, high = measure.null
    return float(row[low]), float(row[high])
