"""The tables of cluster labels in a phy folder, combined as phy combines them.

A person's ``group`` precedes the sorter's ``KSLabel``. ``unsorted`` and empty cells are no label.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contracts.errors import listed
from stream_sources.recordings.labels import label_text

ID_COLUMNS = ("cluster_id", "id")
"""``id`` is in ``cluster_info.tsv`` of phy before 2.0."""

LABEL_COLUMNS = ("group", "kslabel")
"""In lower case; a person's label before the sorter's."""

LABEL_FILES = (
    "cluster_group.tsv", "cluster_group.csv", "cluster_groups.tsv", "cluster_groups.csv",
    "cluster_kslabel.tsv", "cluster_kslabel.csv",
)  # fmt: skip
"""In lower case, in order of precedence; other tables follow by name."""

EXPORT = "cluster_info"
"""Phy writes this table for people and never reads it, so it comes last."""

HEADER_BYTES = 1 << 16
"""A table whose first line is longer has no cluster labels."""

UNSORTED = "unsorted"
"""Phy's word for a cluster that nobody has looked at."""


class ClusterLabels(NamedTuple):
    """Labels by cluster, and the faults of the tables."""

    label_of: dict[int, str]
    unread: tuple[str, ...]
    """File and line of each row that cannot be read."""
    contradicted: int
    """Clusters with different labels in one column; the last in the first table is used."""

    def notes(self) -> tuple[str, ...]:
        """Describe each kind of fault that was found, with its number."""
        notes = []
        if self.unread:
            notes.append(
                f"{len(self.unread):,} of the rows of cluster labels cannot be read and are left "
                f"out: {listed(self.unread)}"
            )
        if self.contradicted:
            notes.append(
                f"{self.contradicted:,} clusters have different labels in the tables; the last row "
                "of the first table is used, cluster_group before the others"
            )
        return tuple(notes)


def read_cluster_labels(folder: Path) -> ClusterLabels:
    """Read every table of cluster labels in a folder."""
    tables = [_read_table(path) for path in _paths(folder)]
    # By increasing precedence, so that each label replaces the one before it.
    cells = [cell for table in reversed(tables) for cell in table.cells]
    label_of = {cell.cluster: UNSORTED for cell in cells if cell.is_unsorted}
    contradicted: set[int] = set()
    for column in reversed(LABEL_COLUMNS):
        of_column: dict[int, str] = {}
        for cell in cells:
            if cell.column == column and not cell.is_unsorted:
                if of_column.get(cell.cluster, cell.label) != cell.label:
                    contradicted.add(cell.cluster)
                of_column[cell.cluster] = cell.label
        label_of |= of_column
    unread = tuple(row for table in tables for row in table.unread)
    return ClusterLabels(label_of, unread, len(contradicted))


class _LabelCell(NamedTuple):
    cluster: int
    column: str
    label: str

    @property
    def is_unsorted(self) -> bool:
        return self.label.lower() == UNSORTED


class _LabelTable(NamedTuple):
    cells: Sequence[_LabelCell] = ()
    unread: Sequence[str] = ()


class _LabelLayout(NamedTuple):
    """Positions of a table's columns."""

    id_at: int
    label_at: dict[str, int]  # by column
    n_columns: int
    has_header: bool


def _paths(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in {".tsv", ".csv"}]

    def place(path: Path) -> tuple[bool, int, str]:
        name = path.name.lower()
        rank = LABEL_FILES.index(name) if name in LABEL_FILES else len(LABEL_FILES)
        return path.stem.lower() == EXPORT, rank, path.name

    return sorted((path for path in found if path.is_file() or path.is_symlink()), key=place)


def _read_table(path: Path) -> _LabelTable:
    """Read one table; nothing if it has no cluster labels."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            header = next((line for line in _text(head).splitlines() if line.strip()), "")
            delimiter = next((mark for mark in "\t,;" if mark in header), ",")
            layout = _layout(path, next(_rows(header, delimiter), (1, []))[1])
            if layout is None and path.name.lower() not in LABEL_FILES:
                return _LabelTable()
            rows = list(_rows(_text(head + file.read()), delimiter))
    except OSError as error:
        return _LabelTable(unread=[f"{path.name} ({error.strerror})"])
    if layout is None:
        return _LabelTable(unread=[f"{path.name} line {line}" for line, _ in rows])
    read: list[_LabelCell] = []
    unread: list[str] = []
    for line, cells in rows[layout.has_header :]:
        cluster = _cluster(cells[layout.id_at]) if len(cells) > layout.id_at else None
        labels = {
            column: label_text(cells[at])
            for column, at in layout.label_at.items()
            if at < len(cells)
        }
        # Phy ignores extra cells. Between commas they, and labels that are numbers, may be the
        # decimals of a number before them: "1,0,good".
        is_shifted = delimiter != "\t" and (
            len(cells) > layout.n_columns or any(map(str.isdecimal, labels.values()))
        )
        if cluster is None or is_shifted:
            unread.append(f"{path.name} line {line}")
            continue
        read += (_LabelCell(cluster, column, label) for column, label in labels.items() if label)
    return _LabelTable(read, unread)


def _layout(path: Path, header: Sequence[str]) -> _LabelLayout | None:
    """Find the columns by the first row; None if they cannot be told."""
    names = [name.lower() for name in header]
    id_at = next((names.index(name) for name in ID_COLUMNS if name in names), None)
    label_at = {name: names.index(name) for name in LABEL_COLUMNS if name in names}
    if id_at is not None and label_at:
        return _LabelLayout(id_at, label_at, len(names), has_header=True)
    if path.name.lower() in LABEL_FILES and len(names) == 2:  # it has no header, or another one
        column = "kslabel" if "kslabel" in path.name.lower() else "group"
        return _LabelLayout(0, {column: 1}, 2, has_header=_cluster(names[0]) is None)
    return None


def _text(data: bytes) -> str:
    """Decode as a spreadsheet may have saved it."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the line and the cells of each row that is not blank."""
    try:
        rows = _parsed(io.StringIO(text, newline=""), delimiter, is_strict=True)
    except csv.Error:  # such as an unclosed quotation mark: parse line by line, to lose only one
        rows = []
        for at, line in enumerate(text.splitlines(), start=1):
            try:
                rows += [(at, cells) for _, cells in _parsed([line], delimiter, is_strict=False)]
            except csv.Error:
                rows.append((at, ["?"]))
    yield from ((at, cells) for at, cells in rows if any(cells))


def _parsed(
    lines: io.StringIO | list[str], delimiter: str, *, is_strict: bool
) -> list[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=is_strict)
    rows, first_line = [], 1
    for row in reader:
        cells = [cell.strip() for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        rows.append((first_line, cells))
        first_line = reader.line_num + 1
    return rows


def _cluster(text: str) -> int | None:
    """Return a cluster's number, which pandas may have written as a float; None if it is none."""
    try:
        if text.isdecimal():
            return int(text)  # exact beyond 2**53
        number = float(text)
        return int(number) if number.is_integer() else None
    except ValueError:
        return None
