"""Which electrode a unit is at, and what the electrodes table says there.

Files name a unit's peak electrode in several ways, and the ways can contradict each other. The most
specific one that fits the unit's own ``electrodes`` is used; a unit that lists electrodes of
several areas and has no peak has no area. Nothing is ever taken from the first of a list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import h5py
import numpy as np
from numpy.typing import NDArray

from stream_sources.recordings.nwb_columns import (
    Column,
    Label,
    Table,
    first_labels,
    fullest_labels,
    open_column,
)
from stream_sources.recordings.nwb_links import UnreadableError, follow, target_of
from stream_sources.recordings.nwb_storage import holes

AREA_COLUMNS = (
    "location", "area", "brain_area", "ecephys_structure_acronym", "structure_acronym",
    "brain_region", "region", "allen_region", "cosmos_location",
)  # fmt: skip
PROBE_COLUMNS = ("probe", "probe_name", "probe_id", "group_name", "device_name")
PEAK_ID_COLUMNS = ("peak_channel_id", "peak_electrode_id", "max_channel_id", "max_electrode_id")
PEAK_COLUMNS = (
    "peak_channel", "max_channel", "peak_electrode", "max_electrode", "extremum_channel",
    "maximum_amplitude_channel", "main_channel",
)  # fmt: skip
"""NWB names none of these columns, so laboratories do. The second group may hold ids or rows."""

ELECTRODES = "general/extracellular_ephys/electrodes"

MAX_WAVEFORM_BYTES = 256 << 20
"""Mean waveforms up to this size are read to find a peak."""

Rows = NDArray[np.int64]
"""Row of the electrodes table of each unit, -1 for none; shape (n_units,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What is known of where the units are: a label of each and where it was found."""

    labels: list[str]
    source: str


class Electrodes:
    """The electrodes table, seen from the units.

    Attributes
    ----------
    rows : array, shape (n_units,), int64
        Row of each unit's peak, -1 where there is none or it is in doubt.
    """

    def __init__(self, table: Table, units: Table, unit_probes: Sequence[Label]) -> None:
        self.table, self.units = table, units
        self._regions = _regions(units, table.n_rows)
        self._probes = list(unit_probes)
        areas = fullest_labels(table, AREA_COLUMNS)
        self._areas = areas[0] if areas else [""] * table.n_rows
        self._area_source = areas[1] if areas else ""
        self.rows: Rows = np.full(units.n_rows, -1, dtype=np.int64)
        self._ways: list[str] = []
        self._find_peaks()

    def areas(self) -> Place | None:
        """Return the area at each unit's electrode."""
        place = self._at_units(self._areas, self._area_source)
        undecided = [
            unit for unit in np.flatnonzero(self.rows < 0).tolist() if self._n_areas(unit) > 1
        ]
        if undecided and any(self._areas):
            self.units.note(
                f"{len(undecided)} units list electrodes of several areas and no peak that fits "
                "them, so they have no area"
            )
        return place

    def probes(self) -> Place | None:
        """Return the group of each unit's electrode."""
        labels = self.table.labels("group_name")
        return self._at_units(labels or [], "electrodes/group_name") if labels else None

    def at_peak(self, values: NDArray[np.float64], otherwise: float) -> NDArray[np.float64]:
        """Return a number of the electrodes table at each unit's peak."""
        return np.where(self.rows >= 0, values[self.rows], otherwise)

    def _at_units(self, labels: Sequence[Label], source: str) -> Place | None:
        of_units = [
            labels[row] if row >= 0 else self._common(labels, unit)
            for unit, row in enumerate(self.rows.tolist())
        ]
        if not any(of_units):
            return None
        return Place([label or "" for label in of_units], f"{source} at {', '.join(self._ways)}")

    def _common(self, labels: Sequence[Label], unit: int) -> Label:
        """Return the label that all electrodes of a unit share."""
        shared = {labels[row] for row in self._regions[unit]}
        return shared.pop() if len(shared) == 1 else ""

    def _n_areas(self, unit: int) -> int:
        return len({self._areas[row] for row in self._regions[unit]})

    def _find_peaks(self) -> None:
        stated = self._stated_peaks()
        if stated is not None:
            self.rows = stated
        several = [unit for unit in range(self.units.n_rows) if self._n_areas(unit) > 1]
        waveform = self._waveform_peaks(several) if several else {}
        in_doubt = decided = 0
        for unit, row in waveform.items():
            if self.rows[unit] < 0:
                self.rows[unit] = row
                decided += 1
            elif self._areas[self.rows[unit]] != self._areas[row]:
                self.rows[unit] = -1
                in_doubt += 1
        if in_doubt:
            self.units.note(
                f"the peak of {in_doubt} units and their mean waveform are of two areas"
            )
        if decided:
            self._ways.append("units/waveform_mean")
        shared = [
            unit for unit in np.flatnonzero(self.rows < 0).tolist() if self._n_areas(unit) == 1
        ]
        for unit in shared:
            if len(self._regions[unit]) == 1:
                self.rows[unit] = self._regions[unit][0]
        if shared:
            self._ways.append("units/electrodes")

    def _stated_peaks(self) -> Rows | None:
        """Return the peaks of the first column that names some electrode."""
        for name in (*PEAK_ID_COLUMNS, *PEAK_COLUMNS):
            values = self.units.numbers(name)
            if values is None:
                continue
            rows = self._by_id(values, name) if name in PEAK_ID_COLUMNS else None
            if name in PEAK_COLUMNS:
                rows = self._by_any(values, name)
            if rows is not None and (rows >= 0).any():
                self._ways.append(f"units/{name}")
                return rows
        return None

    def _by_id(self, values: NDArray[np.float64], name: str, *, quiet: bool = False) -> Rows | None:
        """Find electrodes by their ids, which are unique within a probe at least."""
        ids = self.table.numbers("id")
        if ids is None:
            return None
        rows_of = defaultdict(list)
        for row, electrode_id in enumerate(ids.tolist()):
            rows_of[electrode_id].append(row)
        candidates = [rows_of.get(value, []) for value in values.tolist()]
        rows = np.array([self._narrowed(unit, of) for unit, of in enumerate(candidates)])
        if not quiet:
            self._note_peaks(f"units/{name}", values, candidates, rows)
        return rows.astype(np.int64)

    def _narrowed(self, unit: int, rows: Sequence[int]) -> int:
        """Return the one row that fits the unit's own electrodes and probe, -1 for none."""
        region = self._regions[unit]
        inside = [row for row in rows if not len(region) or row in region]
        if len(inside) > 1 and self._probes[unit]:
            inside = [row for row in inside if self._probes[unit] in self._probe_names(row)]
        return inside[0] if len(inside) == 1 else -1

    @cached_property
    def _probe_columns(self) -> list[list[Label]]:
        columns = [self.table.labels(name) for name in PROBE_COLUMNS]
        return [labels for labels in columns if labels]

    def _probe_names(self, row: int) -> list[Label]:
        return [labels[row] for labels in self._probe_columns]

    def _note_peaks(
        self,
        name: str,
        values: NDArray[np.float64],
        candidates: Sequence[Sequence[int]],
        rows: NDArray[np.generic],
    ) -> None:
        stated = int(np.isfinite(values).sum())
        absent = sum(not of for of, value in zip(candidates, values, strict=True) if value == value)
        several = sum(len(of) > 1 and row < 0 for of, row in zip(candidates, rows, strict=True))
        outside = sum(len(of) == 1 and row < 0 for of, row in zip(candidates, rows, strict=True))
        for n, text in (
            (absent, "is no electrode's id"),
            (several, "is the id of several electrodes"),
            (outside, "is not among the unit's electrodes"),
        ):
            if n:
                self.units.note(f"{name} {text} in {n} of {stated} units")

    def _by_any(self, values: NDArray[np.float64], name: str) -> Rows | None:
        """Read numbers that may be ids, rows of the table or places among the unit's electrodes.

        Only readings that fit every unit count; two that lead to different areas are in doubt
        unless the mean waveforms decide.
        """
        table_rows = np.where(_whole_in(values, self.table.n_rows), values, -1).astype(np.int64)
        placed = [
            int(region[int(value)]) if 0 <= value < len(region) else -1
            for region, value in zip(self._regions, values.tolist(), strict=True)
        ]
        readings = [self._by_id(values, name, quiet=True), table_rows]
        if max(map(len, self._regions)) > 1:
            readings.append(np.array(placed, dtype=np.int64))
        fitting = [rows for rows in readings if rows is not None and self._fits(rows, values)]
        if len({tuple(self._areas[row] for row in rows) for rows in fitting}) > 1:
            peaks = self._waveform_peaks(range(self.units.n_rows))
            fitting = [
                rows
                for rows in fitting
                if peaks and all(self._areas[rows[u]] == self._areas[p] for u, p in peaks.items())
            ]
        if not fitting:
            self.units.note(f"units/{name} fits the electrodes in no way or in several; not used")
            return None
        return fitting[0]

    def _fits(self, rows: Rows, values: NDArray[np.float64]) -> bool:
        return all(
            row >= 0 and (not len(region) or row in region)
            for row, region, value in zip(rows.tolist(), self._regions, values, strict=True)
            if np.isfinite(value)
        ) and bool(np.isfinite(values).any())

    def _waveform_peaks(self, units: Sequence[int]) -> dict[int, int]:
        """Return the electrode with the largest mean waveform of each of these units."""
        try:
            data = follow(self.units.group, "waveform_mean")
            if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiu":
                return {}
            if not data.size or holes(data):
                return {}
        except UnreadableError as error:
            self.units.note(f"left out: {error}")
            return {}
        if data.nbytes > MAX_WAVEFORM_BYTES:
            self.units.note(f"units/waveform_mean is too large to look for peaks: {data.nbytes} B")
            return {}
        of_unit = self._waveform_reader(data)
        peaks: dict[int, int] = {}
        if of_unit is None:
            return peaks
        for unit in units:
            size = np.ptp(np.nan_to_num(of_unit(unit).astype(np.float64)), axis=0)
            channels = self._channels(unit, len(size))
            largest = np.flatnonzero(size == size.max())
            if len(channels) and len({self._areas[channels[place]] for place in largest}) == 1:
                peaks[unit] = int(channels[largest[0]])
        return peaks

    def _waveform_reader(self, data: h5py.Dataset) -> Callable[[int], NDArray[np.generic]] | None:
        """Return what reads the waveforms of one unit: shape (n_samples, n_channels)."""
        if data.ndim == 3 and len(data) == self.units.n_rows:
            return lambda unit: data[unit]
        stops = self.units.numbers("waveform_mean_index")
        if data.ndim == 2 and stops is not None and stops.max(initial=0) <= len(data):
            edges = np.concatenate([[0], stops]).astype(np.int64)
            if (np.diff(edges) > 0).all():
                return lambda unit: data[edges[unit] : edges[unit + 1]].T
        return None

    def _channels(self, unit: int, n_channels: int) -> Rows:
        """Return the rows of the electrodes that a waveform has, none if that is not known."""
        region = self._regions[unit]
        if len(region) == n_channels:
            return region
        if self.table.n_rows == n_channels:
            return np.arange(n_channels)
        return np.empty(0, dtype=np.int64)


def read_electrodes(
    file: h5py.File, units: Table, unit_probes: Sequence[Label]
) -> Electrodes | None:
    """Return the electrodes table that the units refer to; None if there is none."""
    try:
        group = _electrodes_group(file, units.group)
        n_electrodes = 0 if group is None else _n_rows(group)
    except UnreadableError as error:
        units.note(f"left out: {error}")
        return None
    return (
        Electrodes(Table(group, n_electrodes, units.notes), units, unit_probes) if group else None
    )


def _electrodes_group(file: h5py.File, units: h5py.Group) -> h5py.Group | None:
    """Find the electrodes table.

    Where the units' ``electrodes`` does not name its table, the table of the file that holds the
    units comes first.

    Raises
    ------
    UnreadableError
        If it is there and is no table.
    """
    region = follow(units, "electrodes")
    if isinstance(region, h5py.Dataset):
        named = target_of(region, region.attrs.get("table"))
        if isinstance(named, h5py.Group):
            return named
    group = follow(units.file, ELECTRODES) or follow(file, ELECTRODES)
    if group is not None and not isinstance(group, h5py.Group):
        raise UnreadableError(f"{ELECTRODES} must be a group of columns; it is a data set")
    return group


def _n_rows(table: h5py.Group) -> int:
    """Return the length of the ids, or of the first column where there are none."""
    columns = (open_column(table, name) for name in ("id", *AREA_COLUMNS, *PROBE_COLUMNS))
    return next((len(column) for column in columns if column is not None), 0)


def group_names(units: Table) -> list[Label] | None:
    """Return the names of the electrode groups that the units refer to."""
    try:
        column = units.column("electrode_group")
    except UnreadableError as error:
        units.note(f"left out: {error}")
        return None
    if column is None or column.kind != "r":
        return None
    names = [_target_name(column, reference) for reference in column.read().tolist()]
    lost = sum(name is None for name in names)
    if lost:
        units.note(f"{column.name} refers to groups that are not in the file in {lost} rows")
    return names if any(names) else None


def probes_of(units: Table) -> tuple[list[Label], str] | None:
    """Return the probes that the units table itself names, and where."""
    labels = first_labels(units, PROBE_COLUMNS)
    if labels is not None:
        return labels
    names = group_names(units)
    return None if names is None else (names, "units/electrode_group")


def _target_name(column: Column, reference: object) -> Label:
    if not reference:
        return ""
    target = target_of(column.data, reference)
    return None if target is None else PurePosixPath(str(target.name)).name


def _regions(units: Table, n_electrodes: int) -> list[Rows]:
    """Return the rows of the electrodes table that each unit lists, from the ragged column."""
    nothing: list[Rows] = [np.empty(0, dtype=np.int64)] * units.n_rows
    is_ragged = "electrodes_index" in units.group
    region = units.numbers("electrodes", ragged=is_ragged)
    stops = units.numbers("electrodes_index") if is_ragged else np.arange(units.n_rows) + 1.0
    if region is None or stops is None:
        return nothing
    n_each = np.diff(stops, prepend=0)
    if (n_each < 0).any() or stops.max(initial=0) > len(region):
        units.note("left out: units/electrodes, which its index does not fit")
        return nothing
    ends = stops.astype(np.int64).tolist()
    listed = [region[end - int(n) : end] for end, n in zip(ends, n_each, strict=True)]
    beyond = [not _whole_in(rows, n_electrodes).all() for rows in listed]
    if any(beyond):
        units.note(
            f"units/electrodes points past the end of the {n_electrodes} electrodes in "
            f"{sum(beyond)} units; they count as none"
        )
    return [
        nothing[0] if is_beyond else rows.astype(np.int64)
        for rows, is_beyond in zip(listed, beyond, strict=True)
    ]


def _whole_in(values: NDArray[np.float64], end: int) -> NDArray[np.bool_]:
    """Return which values are whole numbers from 0 to before `end`."""
    whole: NDArray[np.bool_] = (values >= 0) & (values < end) & (values == np.rint(values))
    return whole
