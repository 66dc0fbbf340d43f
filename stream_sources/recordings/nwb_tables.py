"""The units table of an NWB 2 file: ids, labels and quality metrics.

Files differ in where they keep a unit's area and probe. Those that the units table lacks come from
the electrodes table (`nwb_electrodes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.population import Unit
from stream_sources.recordings.labels import known_numbers
from stream_sources.recordings.nwb_columns import (
    Labels,
    Table,
    as_texts,
    first_labels,
    fullest_labels,
    open_column,
)
from stream_sources.recordings.nwb_electrodes import (
    AREA_COLUMNS,
    Electrodes,
    probes_of,
    read_electrodes,
)
from stream_sources.recordings.nwb_links import UnreadableError
from stream_sources.recordings.unit_filter import UnitTable

CELL_TYPE_COLUMNS = ("cell_type", "putative_cell_type", "genetic_type")
QUALITY_COLUMNS = ("quality", "unit_quality", "KSLabel", "ks_label", "kilosort2_label")
"""NWB does not name these columns; these are the names in use. The first one present counts."""
CHANNEL_COLUMNS = ("probe_channel_number", "local_index", "channel_number")
X_COLUMNS = ("rel_x", "probe_horizontal_position")
Y_COLUMNS = ("rel_y", "probe_vertical_position")
"""Columns of the electrodes: NWB's own, in micrometers like AllenSDK's. The number of a channel has
no name in NWB; an electrode's id is not it."""
DEPTH_COLUMNS = ("depth_um", "distance_from_probe_tip_um", "depth")
"""Columns of the units. ``depth`` counts where its description or unit says micrometers."""
MICROMETERS = re.compile(r"\b(um|[\u00b5\u03bc]m|microns?|micromet(er|re)s?)\b", re.IGNORECASE)
METRIC_COLUMNS = ("amplitude_cutoff", "presence_ratio", "isi_violations")
"""AllenSDK's names."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownUnits:
    """The units, and where their areas and probes were found; empty if nowhere.

    `positions_from` says the same of their channel, depth and position, as far as they are known.
    """

    table: UnitTable
    areas_from: str
    probes_from: str
    positions_from: Mapping[str, str]


def read_unit_ids(units: h5py.Group, n_units: int) -> list[str]:
    """Return the units' ids as text; their row numbers if the file has no ids.

    Raises
    ------
    UnreadableError
        If they cannot be used as ids.
    """
    ids = open_column(units, "id")
    if ids is None:
        return [str(row) for row in range(n_units)]
    found = ids.holes()
    if found:
        raise UnreadableError(f"{ids.name} {found[0].reason}")
    texts = [text.strip() for text in as_texts(ids.read()) or [""]]
    if {"", "nan"} & {*texts}:
        raise UnreadableError(
            f"{ids.name} must hold a whole number or a name for each unit; some of its "
            f"{ids.data.dtype} values are none"
        )
    return texts


def read_units(file: h5py.File, group: h5py.Group, ids: list[str], notes: list[str]) -> KnownUnits:
    """Read the labels and metrics of each unit.

    A note is added to `notes` for each column that is there and cannot be used.
    """
    units = Table(group, len(ids), notes)
    own_areas = fullest_labels(units, AREA_COLUMNS)
    own_probes = probes_of(units)
    electrodes = read_electrodes(file, units, own_probes.labels)
    probes = electrodes.probes() if electrodes and not own_probes.source else own_probes
    areas = _completed(own_areas, electrodes)
    cell_types = first_labels(units, CELL_TYPE_COLUMNS)
    qualities = first_labels(units, QUALITY_COLUMNS)
    columns = [
        [label or "" for label in column.labels]
        for column in (probes, areas, cell_types, qualities)
    ]
    numbers = _numbers(units, electrodes)
    known = [known_numbers(name, values) for name, (values, _) in numbers.items()]
    rows = zip(ids, *columns, *known, strict=True)
    return KnownUnits(
        UnitTable(tuple(Unit(*row) for row in rows), _metrics(units, electrodes)),
        areas_from=areas.source,
        probes_from=probes.source,
        positions_from={name: source for name, (_, source) in numbers.items() if source},
    )


def _numbers(
    units: Table, electrodes: Electrodes | None
) -> dict[str, tuple[NDArray[np.float64], str]]:
    """Return channel, depth and position of each unit, NaN where unknown, and their sources."""
    unknown = np.full(units.n_rows, np.nan), ""

    def at_peak(names: Sequence[str]) -> tuple[NDArray[np.float64], str]:
        return electrodes.positions(names) if electrodes else unknown

    return {
        "channel": at_peak(CHANNEL_COLUMNS),
        "depth_um": _depth(units) or unknown,
        "x_um": at_peak(X_COLUMNS),
        "y_um": at_peak(Y_COLUMNS),
    }


def _depth(units: Table) -> tuple[NDArray[np.float64], str] | None:
    for name in DEPTH_COLUMNS:
        values = units.numbers(name)
        if values is None or not np.isfinite(values).any():
            continue
        attributes = units.group[name].attrs
        stated = f"{attributes.get('unit', '')} {attributes.get('description', '')}"
        if name.endswith("_um") or MICROMETERS.search(stated):
            return values, f"units/{name}"
    return None


def _completed(own: Labels, electrodes: Electrodes | None) -> Labels:
    """Return the areas of the units table, unknown ones from the electrodes."""
    if electrodes is None or None not in own.labels:
        return own
    there = electrodes.areas()
    labels = [a if a is not None else b for a, b in zip(own.labels, there.labels, strict=True)]
    return Labels(labels, ", ".join(filter(None, (own.source, there.source))))


def _metrics(units: Table, electrodes: Electrodes | None) -> Mapping[str, NDArray[np.float64]]:
    found = {name: units.numbers(name) for name in METRIC_COLUMNS}
    if electrodes is not None and (electrodes.rows >= 0).any():
        valid = electrodes.table.numbers("valid_data")
        if valid is not None:
            found["valid_data"] = electrodes.at_peak(valid, 0.0)
    return {name: values for name, values in found.items() if values is not None}
