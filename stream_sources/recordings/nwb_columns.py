"""The columns of a table of an NWB file, checked before their values are used.

A column may stand in another file than its table, be coded, lack values or have another length
than its table. What is wrong with one that the recording can do without becomes a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.wire_header import MAX_TEXT
from stream_sources.recordings.labels import NULL_LABELS, UNKNOWN
from stream_sources.recordings.nwb_links import UnreadableError, follow, target_of
from stream_sources.recordings.nwb_storage import Hole, holes, long_axis

MAX_WHOLE = 2.0**53
"""Whole numbers up to this are exact as float64."""

Label = str | None
"""A label, empty where the file states that there is none, None where it is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One-dimensional data of a table: of shape (n,), (n, 1) or (1, n), or a single value."""

    name: str
    data: h5py.Dataset

    def __len__(self) -> int:
        return int(self.data.size)

    @property
    def kind(self) -> str:
        """NumPy's letter for the kind of the values; ``r`` for references."""
        return "r" if h5py.check_ref_dtype(self.data.dtype) else str(self.data.dtype.kind)

    def read(self, first: int = 0, last: int | None = None) -> NDArray[np.generic]:
        """Read a range of rows, half open; all by default."""
        data = self.data
        if not data.shape:
            return np.atleast_1d(np.asarray(data[()], dtype=data.dtype))[first:last]
        rows = [slice(None)] * data.ndim
        rows[long_axis(data.shape)] = slice(first, last)
        values: NDArray[np.generic] = np.asarray(data[tuple(rows)]).reshape(-1)
        return values

    def holes(self) -> list[Hole]:
        """Return the rows that nobody wrote."""
        return holes(self.data)


def open_column(group: h5py.Group, name: str) -> Column | None:
    """Return a column of a table, None if the table has none of that name.

    Raises
    ------
    UnreadableError
        If it is there and is no column that can be read.
    """
    data = follow(group, name)
    if data is None:
        return None
    where = f"{group.name.strip('/')}/{name}"
    if not isinstance(data, h5py.Dataset):
        raise UnreadableError(f"{where} must be a data set; it is a group")
    if data.shape is None:
        raise UnreadableError(f"{where} holds nothing: its data space is null")
    if data.size != max(data.shape, default=1):
        raise UnreadableError(
            f"{where} must have one value for each row, so one dimension; its shape is {data.shape}"
        )
    try:
        data.dtype  # noqa: B018  # fails for types that NumPy does not have
    except TypeError as error:
        raise UnreadableError(f"{where} has a type that cannot be read: {error}") from error
    _check_filters(where, data)
    return Column(where, data)


class Table:
    """A table whose columns a recording can do without: what cannot be used is noted.

    Parameters
    ----------
    n_rows : int
        Rows that each column must have.
    notes : list of str
        Gets a sentence for each column that is there and cannot be used.
    """

    def __init__(self, group: h5py.Group, n_rows: int, notes: list[str]) -> None:
        self.group = group
        self.name = group.name.strip("/").rpartition("/")[2]
        self.n_rows = n_rows
        self.notes = notes

    def note(self, text: str) -> None:
        """Add a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def column(self, name: str, *, ragged: bool = False) -> Column | None:
        """Return a sound column; `ragged` ones may have another length than the table.

        Raises
        ------
        UnreadableError
            If it is there and cannot be used.
        """
        column = open_column(self.group, name)
        if column is None:
            return None
        if not ragged and len(column) != self.n_rows:
            raise UnreadableError(
                f"{column.name} has {len(column)} values, the table has {self.n_rows} rows"
            )
        found = column.holes()
        if found:
            raise UnreadableError(f"{column.name} {found[0].reason}")
        return column

    def required(self, name: str, *, ragged: bool = False) -> NDArray[np.float64] | None:
        """Return a column of numbers, None if there is none.

        Raises
        ------
        UnreadableError
            If it is there and cannot be used.
        """
        column = self.column(name, ragged=ragged)
        if column is None:
            return None
        if column.kind not in "fiub":
            raise UnreadableError(f"{column.name} must hold numbers, not {column.data.dtype}")
        return column.read().astype(np.float64)

    def numbers(self, name: str, *, ragged: bool = False) -> NDArray[np.float64] | None:
        """Return a column of numbers, None if there is none that can be used."""
        try:
            return self.required(name, ragged=ragged)
        except UnreadableError as error:
            self.note(f"left out: {error}")
            return None

    def labels(self, name: str) -> list[Label] | None:
        """Return a column of labels: text, codes of an enumeration, or whole numbers."""
        try:
            column = self.column(name)
            texts = None if column is None or column.kind == "r" else self._texts(column, name)
        except UnreadableError as error:
            self.note(f"left out: {error}")
            return None
        return None if texts is None else [as_label(text) for text in texts]

    def _texts(self, column: Column, name: str) -> list[str]:
        names = self._names_of_codes(column, name)
        if names is not None:
            codes = column.read().astype(np.int64).tolist()
            beyond = sum(code not in names for code in codes)
            if beyond:
                self.note(f"{column.name} has {beyond} codes without a name; they count as none")
            return [names.get(code, "") for code in codes]
        texts = as_texts(column.read())
        if texts is None:
            raise UnreadableError(
                f"{column.name} must hold text or whole numbers, not {column.data.dtype}"
            )
        return texts

    def _names_of_codes(self, column: Column, name: str) -> dict[int, str] | None:
        """Return the names of coded labels: of an HDF5 enumeration or of hdmf's EnumData.

        Raises
        ------
        UnreadableError
            If the codes have no names.
        """
        enum = h5py.check_enum_dtype(column.data.dtype)
        if enum:
            return {int(code): text for text, code in enum.items()}
        attributes = column.data.attrs
        if column.kind not in "iu" or (
            "elements" not in attributes and attributes.get("neurodata_type") != "EnumData"
        ):
            return None
        elements = target_of(column.data, attributes.get("elements"))
        if elements is None:
            other = self.column(f"{name}_elements", ragged=True)
            elements = None if other is None else other.data
        texts = None
        if isinstance(elements, h5py.Dataset) and elements.ndim == 1 and not holes(elements):
            texts = as_texts(elements[:])
        if texts is None:
            raise UnreadableError(f"{column.name} holds codes whose names are not in the file")
        return dict(enumerate(texts))


def as_texts(values: NDArray[np.generic]) -> list[str] | None:
    """Return texts, or whole numbers as text; NaN becomes ``nan``. None for anything else."""
    if values.dtype.kind == "f":
        whole = np.isnan(values) | ((np.abs(values) < MAX_WHOLE) & (values == np.rint(values)))
        if not whole.all():
            return None
        return ["nan" if np.isnan(value) else str(int(value)) for value in values.tolist()]
    if values.dtype.kind not in "OSUiu":
        return None
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values.tolist()
    ]


def as_label(text: str) -> Label:
    """Return a label without the blanks around it; see `Label` for what stands for none."""
    label = text.strip(" \t\r\n\0")
    if label.casefold() == UNKNOWN:
        return None
    return "" if label.casefold() in NULL_LABELS else label[:MAX_TEXT]


def read_text(file: h5py.File, name: str) -> str:
    """Return one text of the file; empty if it is not there or cannot be read."""
    try:
        column = open_column(file, name)
    except UnreadableError:
        return ""
    if column is None or len(column) != 1 or column.kind not in "OSU" or column.holes():
        return ""
    return (as_texts(column.read()) or [""])[0]


def first_labels(table: Table, names: Sequence[str]) -> tuple[list[Label], str] | None:
    """Return the first of these columns that has any label, and its name."""
    return next(_labelled(table, names), None)


def _labelled(table: Table, names: Sequence[str]) -> Iterator[tuple[list[Label], str]]:
    for name in names:
        labels = table.labels(name)
        if labels and any(labels):
            yield labels, f"{table.name}/{name}"


def fullest_labels(table: Table, names: Sequence[str]) -> tuple[list[Label], str] | None:
    """Return the column that knows most rows, the earlier name first, and what it was made of.

    Rows without a label take one from the other columns that never contradict it: columns of
    another level, as a region beside a layer, are not mixed.
    """
    found = list(_labelled(table, names))
    if not found:
        return None
    labels, source = min(found, key=lambda one: one[0].count(None))
    for others, other_source in found:
        pairs = list(zip(labels, others, strict=True))
        if all(a == b for a, b in pairs if a and b) and any(b and not a for a, b in pairs):
            labels = [a or b or ("" if "" in {a, b} else None) for a, b in pairs]
            source = f"{source}, {other_source}"
    return labels, source


def _check_filters(where: str, data: h5py.Dataset) -> None:
    """Refuse data that were packed by a filter that is not installed.

    Raises
    ------
    UnreadableError
        With its name.
    """
    settings = data.id.get_create_plist()
    for place in range(settings.get_nfilters()):
        code, _, _, name = settings.get_filter(place)
        if not h5py.h5z.filter_avail(code):
            label = name.decode("ascii", "replace").strip("\0") or "without a name"
            raise UnreadableError(
                f"{where} is packed with the filter {label} ({code}), which is not installed. "
                "Unpack it with h5repack where it is, or set HDF5_PLUGIN_PATH."
            )
