"""The unit table: which sorted id of which electrode of the GUI is which unit of the bundle.

A CSV file with the columns ``electrode``, ``sorted_id`` and ``unit_id``; ``probe``, ``area``,
``cell_type`` and ``quality`` if there are any. Others are left alone.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from contracts.atomic_files import write_text
from contracts.errors import UserError, listed
from contracts.population import Population, Unit

REQUIRED = ("electrode", "sorted_id", "unit_id")
OPTIONAL = ("probe", "area", "cell_type", "quality")

MAX_SORTED_ID = 65_535
"""The GUI keeps it in 16 bits; 0 stands for unsorted."""

SortedUnit = tuple[str, int]
"""Name of the electrode, and sorted id."""


class RigUnitTable(NamedTuple):
    """The units in the order of the file, and the row of each (electrode, sorted id)."""

    population: Population
    row_of: dict[SortedUnit, int]
    origin: str = ""  # of the table, for people


def read_unit_table(
    path: Path,
    *,
    electrodes: Collection[str] = (),
    expected: Sequence[tuple[str, str]] | None = None,
) -> RigUnitTable:
    """Read a table.

    Parameters
    ----------
    electrodes
        Only units of these; all if empty.
    expected : sequence of (probe, unit_id), optional
        Units of the bundle; the table may have no others.

    Raises
    ------
    UserError
        With every problem found.
    """
    lines = _read_lines(path)
    if electrodes:
        absent = sorted(set(electrodes) - {line["electrode"] for line in lines})
        if absent:
            raise UserError(f"{path}: there are no units of the electrodes {listed(absent)}.")
        lines = [line for line in lines if line["electrode"] in electrodes]
    keys = [(line["electrode"], _sorted_id(line["sorted_id"])) for line in lines]
    units = [_unit(line) for line in lines]
    problems = []
    if bad := [line["sorted_id"] for line in lines if not _sorted_id(line["sorted_id"])]:
        problems.append(f"sorted_id must be from 1 to {MAX_SORTED_ID}, got {listed(bad)}")
    if not all(line["unit_id"] and line["electrode"] for line in lines):
        problems.append("each row needs an electrode and a unit_id")
    if twice := [f"{name}/{number}" for (name, number), n in Counter(keys).items() if n > 1]:
        problems.append(f"electrode/sorted_id {listed(twice)} are there twice")
    if expected is not None and (extra := [u.label for u in units if u.key not in expected]):
        problems.append(
            f"{len(extra)} units are not in the bundle: unit_id {listed(extra)}. Give the probe "
            "and unit_id of the bundle's units, or delete the rows"
        )
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}.")
    origin = f"sorted units of the Open Ephys GUI, by {path.name}"
    try:
        return RigUnitTable(Population(units), {key: row for row, key in enumerate(keys)}, origin)
    except UserError as error:
        raise UserError(f"{path}: {error}.") from error


def write_unit_table(path: Path, units: Sequence[tuple[SortedUnit, Unit]]) -> None:
    """Write a table of units in memory."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*REQUIRED, *OPTIONAL))
    for (electrode, sorted_id), unit in units:
        row = (electrode, sorted_id, unit.unit_id, *(getattr(unit, key) for key in OPTIONAL))
        writer.writerow(row)
    write_text(path, text.getvalue())


def _read_lines(path: Path) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        lines = [{k: (v or "").strip() for k, v in line.items() if k} for line in reader]
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: there is no such file. Make a table with --learn 60, which writes what "
            "comes in 60 s, and give its rows the unit_id of the bundle."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: it is no CSV file in UTF-8: {error}.") from error
    missing = [column for column in REQUIRED if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}: the columns {', '.join(missing)} are missing.")
    if not lines:
        raise UserError(f"{path}: it has no units.")
    return lines


def _unit(line: dict[str, str]) -> Unit:
    probe, area, cell_type, quality = (line.get(column, "") for column in OPTIONAL)
    return Unit(line["unit_id"], probe, area, cell_type, quality)


def _sorted_id(text: str) -> int:
    """Return a sorted id, or 0 for what is none."""
    return int(text) if text.isdecimal() and 0 < int(text) <= MAX_SORTED_ID else 0
