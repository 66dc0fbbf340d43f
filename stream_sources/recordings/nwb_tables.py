"""The units table of an NWB 2 file: ids, and what is known of each unit.

Only the columns that are needed are read. Files differ in where they keep a unit's area and
probe; `nwb_electrodes` looks for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.population import Unit
from stream_sources.recordings.nwb_columns import (
    Label,
    Table,
    as_texts,
    first_labels,
    fullest_labels,
    open_column,
)
from stream_sources.recordings.nwb_electrodes import (
    AREA_COLUMNS,
    Electrodes,
    Place,
    probes_of,
    read_electrodes,
)
from stream_sources.recordings.nwb_links import UnreadableError
from stream_sources.recordings.unit_filter import UnitTable

CELL_TYPE_COLUMNS = ("cell_type", "putative_cell_type", "genetic_type")
QUALITY_COLUMNS = ("quality", "unit_quality", "KSLabel", "ks_label", "kilosort2_label")
"""NWB names none of these columns, so laboratories do; the first name that a file has counts."""
METRIC_COLUMNS = ("amplitude_cutoff", "presence_ratio", "isi_violations")
"""As AllenSDK calls them."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownUnits:
    """The units, and where their areas and probes were found; empty if nowhere."""

    table: UnitTable
    areas_from: str
    probes_from: str


def read_unit_ids(units: h5py.Group, n_units: int) -> list[str]:
    """Return the units' ids as text; their row numbers if the file has no ids.

    Raises
    ------
    UnreadableError
        If the ids are no ids.
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
    """Read what the file says of each unit.

    `notes` gets a sentence for each column that is there and cannot be used.
    """
    units = Table(group, len(ids), notes)
    own_areas = fullest_labels(units, AREA_COLUMNS)
    own_probes = probes_of(units)
    blank: list[Label] = [""] * len(ids)
    electrodes = read_electrodes(file, units, own_probes[0] if own_probes else blank)
    areas = _areas(own_areas, electrodes)
    probes = _stated(own_probes) if own_probes else electrodes.probes() if electrodes else None
    columns = (
        probes.labels if probes else [""] * len(ids),
        areas.labels if areas else [""] * len(ids),
        _first(units, CELL_TYPE_COLUMNS),
        _first(units, QUALITY_COLUMNS),
    )
    rows = zip(ids, *columns, strict=True)
    return KnownUnits(
        UnitTable(tuple(Unit(*row) for row in rows), _metrics(units, electrodes)),
        areas_from=areas.source if areas else "",
        probes_from=probes.source if probes else "",
    )


def _areas(own: tuple[list[Label], str] | None, electrodes: Electrodes | None) -> Place | None:
    """Return the areas of the units table; unknown ones come through the electrodes."""
    if own is None:
        return electrodes.areas() if electrodes else None
    there = electrodes.areas() if electrodes and None in own[0] else None
    if there is None:
        return _stated(own)
    labels = [a if a is not None else b for a, b in zip(own[0], there.labels, strict=True)]
    return Place(labels, f"{own[1]}, {there.source}")


def _stated(found: tuple[list[Label], str]) -> Place:
    return Place([label or "" for label in found[0]], found[1])


def _first(units: Table, names: tuple[str, ...]) -> list[str]:
    found = first_labels(units, names)
    return _stated(found).labels if found else [""] * units.n_rows


def _metrics(units: Table, electrodes: Electrodes | None) -> Mapping[str, NDArray[np.float64]]:
    found = {name: units.numbers(name) for name in METRIC_COLUMNS}
    if electrodes is not None and (electrodes.rows >= 0).any():
        valid = electrodes.table.numbers("valid_data")
        if valid is not None:
            found["valid_data"] = electrodes.at_peak(valid, 0.0)
    return {name: values for name, values in found.items() if values is not None}
