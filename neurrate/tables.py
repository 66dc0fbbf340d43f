"""Numbers for people and for programs: a table on the terminal, the same as JSON in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.atomic_files import partial_name
from contracts.errors import UserError


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table on standard output.

    Parameters
    ----------
    title : str
        Stands above the table.
    rows : sequence of mapping
        The first row's keys are the columns; floats are rounded to four digits. None at all
        is said in a line.
    """
    if not rows:
        print(f"{title}: nothing")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    Console().print(table)


def cell(value: object) -> str:
    """Return a value as it stands in a table: None as a dash, floats with four digits."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_json(path: Path | None, data: object) -> None:
    """Write data as indented JSON.

    Parameters
    ----------
    path : Path or None
        None writes nothing.
    data : object
        What `json` can hold.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    target = path.resolve()  # a link stays a link
    partial = partial_name(target)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)  # whoever waits for the file finds it whole
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
