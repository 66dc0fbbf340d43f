"""The tables of cluster labels in a phy folder, combined as phy combines them.

A person's ``group`` goes before the sorter's ``KSLabel``; ``unsorted`` and empty cells leave the
label open.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from contracts.errors import listed
from stream_sources.recordings.labels import label_text

ID_COLUMNS = ("cluster_id", "id")
"""The second in ``cluster_info.tsv`` of phy before 2.0."""

LABEL_COLUMNS = ("group", "kslabel")
"""In lower case; a person's label before the sorter's."""

LABEL_FILES = (
    "cluster_group.tsv", "cluster_group.csv", "cluster_groups.tsv", "cluster_groups.csv",
    "cluster_kslabel.tsv", "cluster_kslabel.csv",
)  # fmt: skip
"""In lower case, and in the order in which they count; other tables come after them, by name."""

EXPORT = "cluster_info"
"""Phy writes this table for people and never reads it: it counts last."""

HEADER_BYTES = 1 << 16
"""In which the first line ends; a longer one has no cluster labels."""

UNSORTED = "unsorted"
"""Phy's word for a cluster that nobody has looked at."""


class ClusterLabels(NamedTuple):
    """Labels by cluster, and what was not as it should be."""

    label_of: dict[int, str]
    unread: tuple[str, ...]
    """Rows that cannot be read, by file and line."""
    contradicted: int
    """Clusters with two different labels of one kind, of which the first table's last counts."""

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each of the two, with its number, where it is not zero."""
        sentences = {
            f"{len(self.unread):,} of the rows of cluster labels cannot be read and are left out: "
            f"{listed(self.unread)}": len(self.unread),
            f"{self.contradicted:,} clusters have two labels in the tables; a person's counts, in "
            "the last row of cluster_group": self.contradicted,
        }
        return tuple(sentence for sentence, n in sentences.items() if n)


def read_cluster_labels(folder: Path) -> ClusterLabels:
    """Read every table of cluster labels in a folder."""
    tables = [table for path in _paths(folder) if (table := _read_table(path)) is not None]
    label_of: dict[int, str] = {}
    contradicted: set[int] = set().union(*(table.contradicted for table in tables))
    for column in LABEL_COLUMNS:
        of_column: dict[int, str] = {}
        for table in tables:
            for cluster, label in table.labels.get(column, {}).items():
                if of_column.setdefault(cluster, label) != label:
                    contradicted.add(cluster)
        label_of = {**of_column, **label_of}
    unsorted = {cluster for table in tables for cluster in table.unsorted}
    return ClusterLabels(
        {**dict.fromkeys(unsorted, UNSORTED), **label_of},
        tuple(row for table in tables for row in table.unread),
        len(contradicted),
    )


@dataclass(slots=True)
class _LabelTable:
    labels: dict[str, dict[int, str]] = field(default_factory=dict)  # by column, then by cluster
    unsorted: set[int] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    contradicted: set[int] = field(default_factory=set)

    def add(self, cluster: int, column: str, text: str) -> None:
        label = label_text(text)
        if label.lower() == UNSORTED:
            self.unsorted.add(cluster)
        elif label:
            of_column = self.labels.setdefault(column, {})
            if of_column.get(cluster, label) != label:
                self.contradicted.add(cluster)
            of_column[cluster] = label  # the last row counts, as in phy


class _LabelLayout(NamedTuple):
    """Where a table has its columns."""

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


def _read_table(path: Path) -> _LabelTable | None:
    """Read one table; None if it has no cluster labels."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            header = next((line for line in _text(head).splitlines() if line.strip()), "")
            delimiter = next((mark for mark in "\t,;" if mark in header), ",")
            layout = _layout(path, next(_rows(header, delimiter), (1, []))[1])
            if layout is None and path.name.lower() not in LABEL_FILES:
                return None
            rows = list(_rows(_text(head + file.read()), delimiter))
    except OSError as error:
        return _LabelTable(unread=[f"{path.name} ({error.strerror})"])
    if layout is None:
        return _LabelTable(unread=[f"{path.name} line {line}" for line, _ in rows])
    table = _LabelTable()
    for line, cells in rows[layout.has_header :]:
        cluster = _cluster(cells[layout.id_at]) if len(cells) > layout.id_at else None
        # Phy passes over cells beyond the header's. Where commas separate, they may be decimals.
        is_shifted = len(cells) > layout.n_columns and delimiter != "\t"
        if cluster is None or is_shifted:
            table.unread.append(f"{path.name} line {line}")
            continue
        for column, at in layout.label_at.items():
            if at < len(cells):
                table.add(cluster, column, cells[at])
    return table


def _layout(path: Path, header: Sequence[str]) -> _LabelLayout | None:
    """Find the columns in the first row; None if it does not name them."""
    names = [name.lower() for name in header]
    id_at = next((names.index(name) for name in ID_COLUMNS if name in names), None)
    label_at = {name: names.index(name) for name in LABEL_COLUMNS if name in names}
    if id_at is not None and label_at:
        return _LabelLayout(id_at, label_at, len(names), has_header=True)
    if path.name.lower() in LABEL_FILES and len(names) == 2:  # without a header, or another one
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
    except csv.Error:  # such as a quotation mark without its partner: it costs its own line
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
    """Read a cluster's number, which pandas may have written as a float."""
    try:
        number = float(text)
        return int(text) if text.isdecimal() else int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None
