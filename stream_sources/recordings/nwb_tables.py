"""The tables of an NWB 2 file, read with h5py: units, electrodes, presentations.

Only the columns that are needed are read. Files differ in where they keep a unit's area and
probe, so each is looked for in the places listed here, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.clock import MAX_SESSION_NS, NS_PER_S, seconds_to_ns
from contracts.population import Unit
from contracts.wire_header import MAX_TEXT
from stream_sources.recordings.presentations import Presentations
from stream_sources.recordings.unit_filter import UnitTable

T = TypeVar("T")

logger = logging.getLogger(__name__)

AREA_COLUMNS = (
    "location", "area", "brain_area", "ecephys_structure_acronym", "structure_acronym",
    "brain_region", "region", "allen_region", "cosmos_location",
)  # fmt: skip
PROBE_COLUMNS = ("probe", "probe_name", "probe_id", "group_name", "device_name")
CELL_TYPE_COLUMNS = ("cell_type", "putative_cell_type", "genetic_type")
QUALITY_COLUMNS = ("quality", "unit_quality", "KSLabel", "ks_label", "kilosort2_label")
"""NWB names none of these columns, so laboratories do; the first name that a file has counts."""
METRIC_COLUMNS = ("amplitude_cutoff", "presence_ratio", "isi_violations")
"""As AllenSDK calls them."""

NULL_LABELS = frozenset({"", "None", "nan", "NaN", "null", "n/a"})
"""Texts that stand for no label. AllenSDK takes '' and 'None' for a channel outside the brain;
'nan' is what pandas writes. 'grey' is a label: in the brain, in no finer structure."""

ELECTRODES = "general/extracellular_ephys/electrodes"
PRESENTATIONS = "_presentations"
INVALID_TIMES = "invalid_times"
"""NWB's own name for intervals that are not to be analysed."""


def read_unit_ids(units: h5py.Group, n_units: int) -> list[str]:
    """Return the units' ids as text; their row numbers if the file has no ids."""
    ids = units.get("id")
    return _as_texts(ids[:]) if isinstance(ids, h5py.Dataset) else _as_texts(np.arange(n_units))


def read_unit_table(file: h5py.File, unit_ids: Sequence[str]) -> UnitTable:
    """Read what the file says of each unit."""
    units, n_units = file["units"], len(unit_ids)
    electrodes = file.get(ELECTRODES)
    peak = _peak_electrodes(units, electrodes, n_units)
    blank = [""] * n_units

    def through_electrode(column: str) -> list[str] | None:
        return _through(electrodes, column, peak)

    areas = _first_labels(units, AREA_COLUMNS, n_units) or through_electrode("location")
    probes = (
        _first_labels(units, PROBE_COLUMNS, n_units)
        or _group_names(units, n_units)
        or through_electrode("group_name")
    )
    columns = (
        probes or blank,
        areas or blank,
        _first_labels(units, CELL_TYPE_COLUMNS, n_units) or blank,
        _first_labels(units, QUALITY_COLUMNS, n_units) or blank,
    )
    rows = zip(unit_ids, *columns, strict=True)
    return UnitTable(tuple(Unit(*row) for row in rows), _metrics(units, electrodes, peak, n_units))


def read_presentations(file: h5py.File, also: Sequence[str] = ()) -> Presentations:
    """Read every table ``intervals/*_presentations``, five or six columns of each.

    Rows without a start or a stop are left out and counted in the log.

    All tables are returned as one, in order of start. `also` names more tables of ``intervals``;
    one that is not there is passed over.
    """
    intervals = file.get("intervals")
    if not isinstance(intervals, h5py.Group):
        return Presentations.none()
    group_of = {
        name.removesuffix(PRESENTATIONS): name
        for name in sorted(intervals)
        if name.endswith(PRESENTATIONS) or name in also
    }
    tables = [_presentation_table(name, intervals[group]) for name, group in group_of.items()]
    return Presentations.merge([table for table in tables if len(table.start_ns)])


def read_invalid_times(file: h5py.File) -> NDArray[np.int64]:
    """Read the intervals that a file calls invalid: ``intervals/invalid_times``.

    Returns start and stop of each in session nanoseconds, shape (n_invalid, 2), in order of start.
    An interval without a stop never ends.
    """
    group = file.get(f"intervals/{INVALID_TIMES}")
    start_s = _numbers(group, "start_time", None) if isinstance(group, h5py.Group) else None
    if start_s is None:
        return np.empty((0, 2), dtype=np.int64)
    stop_s = _numbers(group, "stop_time", len(start_s))
    far_s = MAX_SESSION_NS / NS_PER_S
    stop_s = np.full(len(start_s), far_s) if stop_s is None else stop_s
    start_s = np.clip(np.nan_to_num(start_s, nan=-far_s), -far_s, far_s)
    stop_s = np.clip(np.nan_to_num(stop_s, nan=far_s), -far_s, far_s)
    order = np.argsort(start_s, kind="stable")
    return seconds_to_ns(np.stack([start_s, stop_s], axis=1)[order])


def read_text(file: h5py.File, name: str) -> str:
    """Return one text of the file; empty if it is not there."""
    value = file.get(name)
    if not isinstance(value, h5py.Dataset) or value.shape != ():
        return ""
    return _as_texts(np.array([value[()]], dtype=object))[0]


def _presentation_table(name: str, group: h5py.Group) -> Presentations:
    start_s = _numbers(group, "start_time", None)
    n_rows = 0 if start_s is None else len(start_s)
    stop_s = _numbers(group, "stop_time", n_rows)
    if start_s is None or stop_s is None or not n_rows:
        return Presentations.none()
    frame = _numbers(group, "frame", n_rows)
    block = _numbers(group, "stimulus_block", n_rows)
    caption = _texts(group, "caption", n_rows)
    row_id = group["id"][:n_rows] if "id" in group else np.arange(n_rows)
    shown = _plausible(start_s) & _plausible(stop_s) & (stop_s >= start_s)
    if not shown.all():
        logger.warning(
            "presentations left out",
            extra={"stimulus": name, "reason": "no_times", "n": int((~shown).sum())},
        )
    rows = np.flatnonzero(shown)
    return Presentations(
        start_ns=seconds_to_ns(start_s[rows]),
        stop_ns=seconds_to_ns(stop_s[rows]),
        row_id=row_id[rows].astype(np.int64),
        frame=np.full(len(rows), np.nan) if frame is None else _whole(frame[rows]),
        stimulus=np.zeros(len(rows), dtype=np.int64),
        block=np.full(len(rows), np.nan) if block is None else block[rows],
        caption=[caption[row][:MAX_TEXT] for row in rows.tolist()] if caption else (),
        names=(name,),
    )


def _plausible(seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which times are numbers that the session clock can hold; False for NaN."""
    return np.abs(seconds) < MAX_SESSION_NS / NS_PER_S


def _whole(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round frames to whole numbers; what is no frame becomes NaN."""
    return np.where(np.abs(frame) < 2**31, np.rint(frame), np.nan)


def _metrics(
    units: h5py.Group, electrodes: object, peak: NDArray[np.int64] | None, n_units: int
) -> Mapping[str, NDArray[np.float64]]:
    found = {name: _numbers(units, name, n_units) for name in METRIC_COLUMNS}
    if isinstance(electrodes, h5py.Group) and peak is not None:
        valid = _numbers(electrodes, "valid_data", None)
        if valid is not None:
            found["valid_data"] = np.array(_pick(valid.tolist(), peak, 0.0))
    return {name: values for name, values in found.items() if values is not None}


def _peak_electrodes(
    units: h5py.Group, electrodes: object, n_units: int
) -> NDArray[np.int64] | None:
    """Return each unit's row in the electrodes table: -1 for none, None if the file has no link."""
    if not isinstance(electrodes, h5py.Group) or "id" not in electrodes:
        return None
    peak = _numbers(units, "peak_channel_id", n_units)
    if peak is not None:
        row_of = {channel: row for row, channel in enumerate(electrodes["id"][:].tolist())}
        return np.array([row_of.get(channel, -1) for channel in peak.tolist()], dtype=np.int64)
    return _first_region_row(units, n_units)


def _first_region_row(units: h5py.Group, n_units: int) -> NDArray[np.int64] | None:
    """Return the first electrode row of each unit from the ragged ``electrodes`` column."""
    region = _numbers(units, "electrodes", None)
    if region is None:
        return None
    index = _numbers(units, "electrodes_index", n_units)
    if index is None:
        return region.astype(np.int64) if len(region) == n_units else None
    stop = index.astype(np.int64)
    start = np.concatenate([[0], stop[:-1]])
    inside = (start < stop) & (stop <= len(region)) & (start >= 0)
    rows = np.full(n_units, -1, dtype=np.int64)
    rows[inside] = region[start[inside]]
    return rows


def _through(electrodes: object, column: str, peak: NDArray[np.int64] | None) -> list[str] | None:
    """Return a column of the electrodes table at each unit's electrode."""
    if not isinstance(electrodes, h5py.Group) or peak is None:
        return None
    values = _texts(electrodes, column, None)
    return None if values is None else _pick([_label(value) for value in values], peak, "")


def _pick(values: Sequence[T], rows: NDArray[np.int64], otherwise: T) -> list[T]:
    return [values[row] if 0 <= row < len(values) else otherwise for row in rows.tolist()]


def _group_names(units: h5py.Group, n_units: int) -> list[str] | None:
    """Return the names of the electrode groups that the units refer to."""
    groups = units.get("electrode_group")
    if not isinstance(groups, h5py.Dataset) or groups.shape != (n_units,):
        return None
    if h5py.check_ref_dtype(groups.dtype) is not h5py.Reference:
        return None
    name_of: dict[bytes, str] = {}
    return [_target_name(units, reference, name_of) for reference in groups[:]]


def _target_name(units: h5py.Group, reference: h5py.Reference, name_of: dict[bytes, str]) -> str:
    if not reference:
        return ""
    key = bytes(np.array(reference, dtype=h5py.ref_dtype).tobytes())
    if key not in name_of:
        name_of[key] = PurePosixPath(str(units.file[reference].name)).name
    return name_of[key]


def _first_labels(group: h5py.Group, names: Sequence[str], n_rows: int) -> list[str] | None:
    """Return the first of these columns that says anything of any row."""
    for name in names:
        texts = _texts(group, name, n_rows)
        labels = [_label(text) for text in texts or ()]
        if any(labels):
            return labels
    return None


def _label(text: str) -> str:
    return "" if text in NULL_LABELS else text[:MAX_TEXT]


def _texts(group: h5py.Group, name: str, n_rows: int | None) -> list[str] | None:
    """Read a column of text; whole numbers count as text, a ragged column as none."""
    column = _column(group, name, n_rows)
    if column is None or column.dtype.kind not in "OSUiu":
        return None
    if h5py.check_ref_dtype(column.dtype) is not None:
        return None
    return _as_texts(column[:])


def _numbers(group: h5py.Group, name: str, n_rows: int | None) -> NDArray[np.float64] | None:
    column = _column(group, name, n_rows)
    if column is None or column.dtype.kind not in "fiub":
        return None
    return np.asarray(column[:], dtype=np.float64)


def _column(group: h5py.Group, name: str, n_rows: int | None) -> h5py.Dataset | None:
    column = group.get(name)
    if not isinstance(column, h5py.Dataset) or column.ndim != 1:
        return None
    return column if n_rows is None or column.shape == (n_rows,) else None


def _as_texts(values: NDArray[np.generic] | NDArray[np.object_]) -> list[str]:
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values.tolist()
    ]
