"""Tables that a person writes: CSV with a row of names, every problem in one error."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.errors import RecordingError, listed


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file, each a text by column; columns may stand in any order.

    Raises
    ------
    RecordingError
        If it cannot be read, lacks one of `columns`, or has no row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            rows = [_cells(row) for row in reader]
    except OSError as error:
        raise RecordingError(str(path), f"it cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(str(path), f"it is no CSV file in UTF-8: {error}") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise RecordingError(
            str(path),
            f"it needs the columns {', '.join(columns)}; {', '.join(missing)} is missing, and "
            f"there are {listed(names) or 'none'}",
        )
    if not rows:
        raise RecordingError(str(path), "it has no row below its names of columns")
    return rows


def number(row: Mapping[str, str], name: str) -> float:
    """Return a cell as a finite number; NaN if it is none."""
    try:
        value = float(row[name])
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _cells(row: Mapping[str | None, str | Sequence[str] | None]) -> dict[str, str]:
    # Cells beyond the names have the key None, cells that a short row lacks the value None.
    return {
        key: value.strip() if isinstance(value, str) else ""
        for key, value in row.items()
        if key is not None
    }
