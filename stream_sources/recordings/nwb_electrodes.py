"""The area and the probe of each unit, from the electrodes table.

Files name a unit's peak electrode in several ways, which can contradict each other. The most
specific one that agrees with the unit's own ``electrodes`` is used. A unit that lists electrodes of
several areas and has no peak has no area; the first electrode of the list is never assumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import PurePosixPath

import h5py
import numpy as np
from numpy.typing import NDArray

from stream_sources.recordings.nwb_columns import (
    Column,
    Label,
    Labels,
    Table,
    first_labels,
    fullest_labels,
    no_labels,
    open_column,
    open_dataset,
)
from stream_sources.recordings.nwb_links import UnreadableError, follow, reading, target_of
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
"""NWB does not name these columns; these are the names in use. `PEAK_COLUMNS` may hold ids, rows of
the electrodes table or places among the unit's electrodes."""

ELECTRODES = "general/extracellular_ephys/electrodes"

MAX_WAVEFORM_BYTES = 256 << 20
"""Mean waveforms up to this size are read to find a peak."""

Rows = NDArray[np.int64]
"""Row of the electrodes table of each unit, -1 for none; shape (n_units,)."""


class Electrodes:
    """The electrodes of the units.

    Attributes
    ----------
    rows : array, shape (n_units,), int64
        Row of each unit's peak in the electrodes table, -1 where there is none or sources disagree.
    is_area_only : bool
        Whether the stated peaks can be read as different electrodes of the same areas.
    """

    def __init__(self, table: Table, units: Table, unit_probes: Sequence[Label]) -> None:
        self.table, self.units = table, units
        self._regions = _regions(units, table.n_rows)
        self._probes = list(unit_probes)
        self._areas, self._area_source = fullest_labels(table, AREA_COLUMNS)
        self._ways: list[str] = []
        self.is_area_only = False
        self._find_peaks()

    def areas(self) -> Labels:
        """Return the area at each unit's electrode."""
        undecided = [
            unit for unit in np.flatnonzero(self.rows < 0).tolist() if self._n_areas(unit) > 1
        ]
        if undecided and any(self._areas):
            self.units.note(
                f"{len(undecided)} units list electrodes of several areas and no peak that fits "
                "them, so they have no area"
            )
        return self._at_units(self._areas, self._area_source)

    def probes(self) -> Labels:
        """Return the group of each unit's electrode."""
        return self._at_units(*first_labels(self.table, ["group_name"]))

    def at_peak(self, values: NDArray[np.float64], otherwise: float) -> NDArray[np.float64]:
        """Return a number of the electrodes table at each unit's peak."""
        return np.where(self.rows >= 0, values[self.rows], otherwise)

    def positions(self, names: Sequence[str]) -> tuple[NDArray[np.float64], str]:
        """Return the first of these columns that has a number at the units' peaks, and its source.

        Of shape (n_units,), NaN where unknown; everywhere, and no source, if no column has any.
        """
        for name in () if self.is_area_only else names:
            values = self.table.numbers(name)
            if values is None:
                continue
            there = self.at_peak(values, np.nan)
            if np.isfinite(there).any():
                return there, f"{self.table.name}/{name} at {', '.join(self._ways)}"
        return np.full(len(self.rows), np.nan), ""

    def _at_units(self, labels: Sequence[Label], source: str) -> Labels:
        of_units = [
            labels[row] if row >= 0 else self._common(labels, unit)
            for unit, row in enumerate(self.rows.tolist())
        ]
        if not any(of_units):
            return no_labels(len(of_units))
        return Labels(of_units, f"{source} at {', '.join(self._ways)}")

    def _common(self, labels: Sequence[Label], unit: int) -> Label:
        """Return the label that all electrodes of a unit share."""
        shared = {labels[row] for row in self._regions[unit]}
        return shared.pop() if len(shared) == 1 else ""

    def _n_areas(self, unit: int) -> int:
        return len({self._areas[row] for row in self._regions[unit]})

    def _find_peaks(self) -> None:
        self.rows = self._stated_peaks()
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

    def _stated_peaks(self) -> Rows:
        """Return the peaks of the first column that names some electrode."""
        for name in (*PEAK_ID_COLUMNS, *PEAK_COLUMNS):
            values = self.units.numbers(name)
            if values is None:
                continue
            find = self._by_id if name in PEAK_ID_COLUMNS else self._by_any
            rows = find(values, f"units/{name}")
            if (rows >= 0).any():
                self._ways.append(f"units/{name}")
                return rows
        return np.full(self.units.n_rows, -1, dtype=np.int64)

    @cached_property
    def _rows_of_id(self) -> Mapping[float, list[int]]:
        """The rows of each electrode id: ids are unique at least within a probe."""
        ids = self.table.numbers("id")
        rows_of = defaultdict(list)
        for row, electrode_id in enumerate([] if ids is None else ids.tolist()):
            rows_of[electrode_id].append(row)
        return rows_of

    def _by_id(self, values: NDArray[np.float64], name: str) -> Rows:
        """Find peaks by the ids of the electrodes, and note those that are not found."""
        rows = self._with_ids(values)
        n_of_id = np.array([len(self._rows_of_id.get(value, ())) for value in values.tolist()])
        is_stated, is_lost = np.isfinite(values), rows < 0
        for lost, text in (
            ((n_of_id == 0) & is_stated, "is no electrode's id"),
            ((n_of_id > 1) & is_lost, "is the id of several electrodes"),
            ((n_of_id == 1) & is_lost, "is not among the unit's electrodes"),
        ):
            if lost.any() and self._rows_of_id:
                self.units.note(f"{name} {text} in {lost.sum()} of {is_stated.sum()} units")
        return rows

    def _with_ids(self, values: NDArray[np.float64]) -> Rows:
        candidates = [self._rows_of_id.get(value, ()) for value in values.tolist()]
        rows = [self._narrowed(unit, of_id) for unit, of_id in enumerate(candidates)]
        return np.array(rows, dtype=np.int64)

    def _narrowed(self, unit: int, rows: Sequence[int]) -> int:
        """Return the one row that fits the unit's own electrodes and probe, -1 for none."""
        region = self._regions[unit]
        inside = [row for row in rows if not len(region) or row in region]
        if len(inside) > 1 and self._probes[unit]:
            inside = [
                row
                for row in inside
                if any(labels[row] == self._probes[unit] for labels in self._probe_columns)
            ]
        return inside[0] if len(inside) == 1 else -1

    @cached_property
    def _probe_columns(self) -> list[list[Label]]:
        columns = [self.table.labels(name) for name in PROBE_COLUMNS]
        return [labels for labels in columns if labels]

    def _by_any(self, values: NDArray[np.float64], name: str) -> Rows:
        """Find peaks by numbers that may be ids, rows, or places among the unit's electrodes.

        Only interpretations that fit every unit count. Where two give different areas, the mean
        waveforms decide; without them none is used.
        """
        table_rows = np.where(_whole_in(values, self.table.n_rows), values, -1).astype(np.int64)
        placed = [
            int(region[int(value)]) if _whole_in(value, len(region)) else -1
            for region, value in zip(self._regions, values, strict=True)
        ]
        readings = [self._with_ids(values), table_rows]
        if max(map(len, self._regions)) > 1:
            readings.append(np.array(placed, dtype=np.int64))
        fitting = [rows for rows in readings if self._fits(rows, values)]
        if len({tuple(self._areas[row] for row in rows) for rows in fitting}) > 1:
            peaks = self._waveform_peaks(range(self.units.n_rows))
            fitting = [
                rows
                for rows in fitting
                if peaks and all(self._areas[rows[u]] == self._areas[p] for u, p in peaks.items())
            ]
        if not fitting:
            self.units.note(f"{name} fits the electrodes in no way or in several; not used")
            return np.full(self.units.n_rows, -1, dtype=np.int64)
        self.is_area_only = len({tuple(rows.tolist()) for rows in fitting}) > 1
        return fitting[0]

    def _fits(self, rows: Rows, values: NDArray[np.float64]) -> bool:
        return all(
            row >= 0 and (not len(region) or row in region)
            for row, region, value in zip(rows.tolist(), self._regions, values, strict=True)
            if np.isfinite(value)
        ) and bool(np.isfinite(values).any())

    def _waveform_peaks(self, units: Sequence[int]) -> dict[int, int]:
        """Return the electrode with the largest mean waveform of each of these units."""
        peaks: dict[int, int] = {}
        try:
            of_unit = self._waveform_reader()
            if of_unit is None:
                return {}
            for unit in units:
                with reading("units/waveform_mean"):
                    waveforms = of_unit(unit).astype(np.float64)
                size = np.ptp(np.nan_to_num(waveforms), axis=0)
                channels = self._channels(unit, len(size))
                largest = np.flatnonzero(size == size.max())
                if len(channels) and len({self._areas[channels[place]] for place in largest}) == 1:
                    peaks[unit] = int(channels[largest[0]])
        except UnreadableError as error:
            self.units.note(f"left out: {error}")
            return {}
        return peaks

    def _waveform_reader(self) -> Callable[[int], NDArray[np.generic]] | None:
        """Return what reads the waveforms of one unit: shape (n_samples, n_channels).

        Raises
        ------
        UnreadableError
            If there are waveforms and they cannot be used.
        """
        data = open_dataset(self.units.group, "waveform_mean")
        if data is None or data.dtype.kind not in "fiu" or not data.size or holes(data):
            return None
        if data.nbytes > MAX_WAVEFORM_BYTES:
            raise UnreadableError(
                f"units/waveform_mean is too large to look for peaks: {data.nbytes} B"
            )
        if data.ndim == 3 and len(data) == self.units.n_rows:
            return lambda unit: data[unit]
        stops = self.units.numbers("waveform_mean_index") if data.ndim == 2 else None
        edges = None if stops is None else _edges(stops, len(data))
        if edges is None or not (np.diff(edges) > 0).all():
            return None
        return lambda unit: data[edges[unit] : edges[unit + 1]].T

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
    """Return the electrodes of the units; None if the file has no table of them."""
    try:
        group = _electrodes_group(file, units.group)
        table = None if group is None else Table(group, _n_rows(group), units.notes)
    except UnreadableError as error:
        units.note(f"left out: {error}")
        return None
    return None if table is None else Electrodes(table, units, unit_probes)


def _electrodes_group(file: h5py.File, units: h5py.Group) -> h5py.Group | None:
    """Find the electrodes table.

    It is the one that the ``electrodes`` of the units name, then the one of the file that holds
    the units, then the one of the file that was opened.

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


def probes_of(units: Table) -> Labels:
    """Return the probes that the units table names: in a column of labels, else by reference."""
    labels = first_labels(units, PROBE_COLUMNS)
    if labels.source:
        return labels
    try:
        column = units.column("electrode_group")
        if column is None or column.kind != "r":
            return labels
        references = column.read().tolist()
    except UnreadableError as error:
        units.note(f"left out: {error}")
        return labels
    names = [_target_name(column, reference) for reference in references]
    n_lost = names.count(None)
    if n_lost:
        units.note(f"{column.name} refers to groups that are not in the file in {n_lost} rows")
    return Labels(names, column.name) if any(names) else labels


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
    stops = units.numbers("electrodes_index") if is_ragged else np.arange(1.0, units.n_rows + 1)
    if region is None or stops is None:
        return nothing
    edges = _edges(stops, len(region))
    if edges is None:
        units.note("left out: units/electrodes, which its index does not fit")
        return nothing
    listed = [region[first:last] for first, last in pairwise(edges.tolist())]
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


def _edges(stops: NDArray[np.float64], end: int) -> NDArray[np.int64] | None:
    """Return where the rows of a ragged column begin and end; None if its index does not fit.

    Of shape (n_rows + 1,): row ``k`` has the values from ``edges[k]`` to before ``edges[k + 1]``.
    """
    edges = np.concatenate([np.zeros(1), stops])
    if not _whole_in(edges, end + 1).all() or (np.diff(edges) < 0).any():
        return None
    return edges.astype(np.int64)


def _whole_in(values: NDArray[np.float64], end: int) -> NDArray[np.bool_]:
    """Return which values are whole numbers from 0 to before `end`."""
    whole: NDArray[np.bool_] = (values >= 0) & (values < end) & (values == np.rint(values))
    return whole
