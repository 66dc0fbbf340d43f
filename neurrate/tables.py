"""Numbers for people and for programs: a table on the terminal, the same as JSON in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def check_writable(path: Path | None) -> None:
    """Refuse a path that cannot be written, before the work that leads to it.

    Parameters
    ----------
    path : Path or None
        None, no file wanted, is fine.

    Raises
    ------
    UserError
        With what is in the way.
    """
    if path is None:
        return
    target = path.resolve()
    folder = target.parent
    if target.is_dir():
        raise UserError(f"Cannot write {path}: it is a folder. Name a file in it.")
    if target.exists() and not target.is_file():
        raise UserError(f"Cannot write {path}: it is a device, not a file. Name a file.")
    if not folder.is_dir():
        raise UserError(f"Cannot write {path}: there is no folder {folder}. Make it first.")
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"Cannot write {path}: permission denied. Name a file that you may write.")
    partial = _partial(target)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        reason = (error.strerror or "it cannot be made").lower()
        raise UserError(
            f"Cannot write {path}: {reason}. Name a file that you may write."
        ) from error


def check_folder_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written, before the work that leads to it.

    Parameters
    ----------
    folder : Path
        Folders above it are made as well.

    Raises
    ------
    UserError
        With what is in the way.
    """
    lowest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not lowest.is_dir():
        raise UserError(f"Cannot write {folder}: {lowest} is a file. Name another folder.")
    if not os.access(lowest, os.W_OK):
        raise UserError(
            f"Cannot write {folder}: permission denied in {lowest}. "
            "Name a folder that you may write."
        )


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
    partial = _partial(target)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)  # whoever waits for the file finds it whole
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")
