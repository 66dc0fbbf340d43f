"""The columns of a table of an NWB file, checked before their values are used.

A column may be in another file than its table, be coded, lack values, or differ from its table in
length. A fault in an optional column becomes a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from stream_sources.recordings.labels import UNKNOWN, label_text
from stream_sources.recordings.nwb_links import UnreadableError, follow, reading, target_of
from stream_sources.recordings.nwb_storage import Hole, holes, long_axis

MAX_WHOLE = 2.0**53
"""Whole numbers up to this are exact as float64."""

ENUM_DATA = ("EnumData", b"EnumData")
"""hdmf's type of coded columns; h5py gives bytes for a string of fixed length."""

Label = str | None
"""A label; empty where the file states that there is none, None where it is not known."""


class Labels(NamedTuple):
    """A label for each row of a table, and the columns that they are from; empty for no column."""

    labels: list[Label]
    source: str


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
        with reading(self.name):
            if not data.shape:
                return np.atleast_1d(np.asarray(data[()], dtype=data.dtype))[first:last]
            rows = [slice(None)] * data.ndim
            rows[long_axis(data.shape)] = slice(first, last)
            values: NDArray[np.generic] = np.asarray(data[tuple(rows)]).reshape(-1)
        return values

    def holes(self) -> list[Hole]:
        """Return the rows that were never written."""
        with reading(self.name):
            return holes(self.data)


def open_column(group: h5py.Group, name: str) -> Column | None:
    """Return a column of a table, None if the table has none of that name.

    Raises
    ------
    UnreadableError
        If it is there and cannot be read as a column.
    """
    data = open_dataset(group, name)
    if data is None:
        return None
    column = Column(f"{group.name}/{name}".strip("/"), data)
    if data.size != max(data.shape, default=1):
        raise UnreadableError(
            f"{column.name} must have one value for each row, so one dimension; its shape is "
            f"{data.shape}"
        )
    return column


def open_dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return a data set of any shape, None if the group has nothing of that name.

    Raises
    ------
    UnreadableError
        If it is there and cannot be read as a data set.
    """
    data = follow(group, name)
    if data is None:
        return None
    where = f"{group.name}/{name}".strip("/")
    if not isinstance(data, h5py.Dataset):
        raise UnreadableError(f"{where} must be a data set; it is a group")
    if data.shape is None:
        raise UnreadableError(f"{where} holds nothing: its data space is null")
    try:
        data.dtype  # noqa: B018  # fails for types that NumPy does not have
    except TypeError as error:
        raise UnreadableError(f"{where} has a type that cannot be read: {error}") from error
    _check_filters(where, data)
    return data


class Table:
    """A table with optional columns.

    Parameters
    ----------
    n_rows : int
        Length that each column must have.
    notes : list of str
        A note is added for each column that is there and cannot be used.
    """

    def __init__(self, group: h5py.Group, n_rows: int, notes: list[str]) -> None:
        self.group = group
        self.name = PurePosixPath(str(group.name)).name
        self.n_rows = n_rows
        self.notes = notes

    def note(self, text: str) -> None:
        """Add a note that is not there yet."""
        if text not in self.notes:
            self.notes.append(text)

    def column(self, name: str, *, ragged: bool = False) -> Column | None:
        """Return a column, None if there is none; `ragged` ones may have any length.

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
        """Return a column of numbers; None, and a note, if there is none that can be used."""
        try:
            return self.required(name, ragged=ragged)
        except UnreadableError as error:
            self.note(f"left out: {error}")
            return None

    def labels(self, name: str) -> list[Label] | None:
        """Return a column of labels: text, codes of an enumeration, or whole numbers."""
        try:
            column = self.column(name)
            texts = [] if column is None or column.kind == "r" else self._texts(column, name)
        except UnreadableError as error:
            self.note(f"left out: {error}")
            return None
        labels = [label_text(text) for text in texts]
        return [None if label.casefold() == UNKNOWN else label for label in labels] or None

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
        is_coded = "elements" in attributes or attributes.get("neurodata_type") in ENUM_DATA
        if column.kind not in "iu" or not is_coded:
            return None
        target = target_of(column.data, attributes.get("elements"))
        if isinstance(target, h5py.Dataset) and target.ndim == 1:
            elements: Column | None = Column(f"{column.name}.elements", target)
        else:
            elements = self.column(f"{name}_elements", ragged=True)
        texts = None if elements is None or elements.holes() else as_texts(elements.read())
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


def read_text(file: h5py.File, name: str) -> str:
    """Return one text of the file; empty if it is not there or cannot be read."""
    try:
        column = open_column(file, name)
        if column is None or len(column) != 1 or column.kind not in "OSU" or column.holes():
            return ""
        return (as_texts(column.read()) or [""])[0]
    except UnreadableError:
        return ""


def first_labels(table: Table, names: Sequence[str]) -> Labels:
    """Return the first of these columns that has any label."""
    return next(_labelled(table, names), no_labels(table.n_rows))


def no_labels(n_rows: int) -> Labels:
    """Return labels of which none is known."""
    return Labels([None] * n_rows, "")


def fullest_labels(table: Table, names: Sequence[str]) -> Labels:
    """Return the column with the fewest unknown labels, completed from the others.

    Of several the first counts. Only columns that agree with it wherever both have a label complete
    it, so that two levels of an atlas, such as regions and layers, are not mixed.
    """
    found = list(_labelled(table, names)) or [no_labels(table.n_rows)]
    labels, source = min(found, key=lambda column: column.labels.count(None))
    for others, other_source in found:
        pairs = list(zip(labels, others, strict=True))
        if all(a == b for a, b in pairs if a and b) and any(b and not a for a, b in pairs):
            labels = [a or b or ("" if "" in {a, b} else None) for a, b in pairs]
            source = f"{source}, {other_source}"
    return Labels(labels, source)


def _labelled(table: Table, names: Sequence[str]) -> Iterator[Labels]:
    for name in names:
        labels = table.labels(name)
        if labels and any(labels):
            yield Labels(labels, f"{table.name}/{name}")


def _check_filters(where: str, data: h5py.Dataset) -> None:
    """Refuse data that need a filter that is not installed.

    Raises
    ------
    UnreadableError
        With the name of the filter.
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
