"""Numbers for people and for programs: a table on the terminal, the same as JSON in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contracts import atomic_files
from contracts.errors import UserError
from contracts.selection_text import shown

if TYPE_CHECKING:
    from rich.text import Text


MAX_COLUMNS = 400
"""Of a table in a file."""


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table on standard output.

    The first row's keys are the columns; floats are rounded to four digits. Without rows one line
    says so.
    """
    if not rows:
        print(f"{shown(title)}: nothing")
        return
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(title=_literal(title), title_justify="left", title_style="bold")
    for column in rows[0]:
        table.add_column(_literal(column), overflow="fold")
    for row in rows:
        table.add_row(*(_literal(cell(value)) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # a file has no edge, and words stay whole
        console.width = Measurement.get(
            console, console.options.update(width=MAX_COLUMNS), table
        ).maximum
    console.print(table)


def _literal(text: str) -> Text:
    """Return a text that is drawn as it is: brackets are no markup, control characters escapes."""
    from rich.text import Text

    return Text("\n".join(shown(line) for line in text.split("\n")))


def cell(value: object) -> str:
    """Return a value as it stands in a table: None as a dash, floats with four digits."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_json(path: Path | None, data: object) -> None:
    """Write data as indented JSON, whole or not at all; to None, nothing.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    if path is None:
        return
    try:
        atomic_files.write_json(path.resolve(), data, indent=2)  # resolved: a link stays a link
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
