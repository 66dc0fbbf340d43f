"""Units, spikes and electrodes of a journal, for its NWB file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subscribers.recorder.nwb_rows import JournalRows, SpikeTable

NOT_IN_NAMES = str.maketrans({"/": "_", ":": "_"})

WIRE_RESOLUTION_S = 1e-9
"""Of spike times: the wire format has nanoseconds; the sampling of a probe is not on it."""

UNIT_COLUMNS = {
    "source_unit_id": "the data set's own label of the unit",
    "stream": "the stream that sent it",
    "probe": "name of the probe",
    "location": "brain area",
    "cell_type": "cell type",
    "quality": "label of the data set",
}
PLACE_COLUMNS = {
    "depth_um": "depth as the recording states it, micrometers",
    "x_um": "position of the peak channel across the probe, micrometers",
    "y_um": "position of the peak channel along the probe, micrometers",
}


def add_units(file: Any, rows: JournalRows, spikes: SpikeTable) -> None:
    """Add the table of units, with spike times and, where channels are known, electrodes."""
    from hdmf.common import VectorData, VectorIndex
    from pynwb.misc import Units

    if not rows.units:
        return
    units = [unit for _, unit in rows.units]
    texts = {
        "source_unit_id": [unit.unit_id for unit in units],
        "stream": [stream for stream, _ in rows.units],
        "probe": [unit.probe for unit in units],
        "location": [unit.area or "unknown" for unit in units],
        "cell_type": [unit.cell_type for unit in units],
        "quality": [unit.quality for unit in units],
    }
    columns = [column(name, UNIT_COLUMNS, values) for name, values in texts.items()]
    for name in PLACE_COLUMNS:
        values = [getattr(unit, name) for unit in units]
        if any(value is not None for value in values):
            columns.append(column(name, PLACE_COLUMNS, floats(values)))
    electrodes = _electrodes(file, rows)
    if electrodes:
        columns += _electrode_columns(file, electrodes)
    times = VectorData(name="spike_times", description="session seconds", data=spikes.times_s)
    index = VectorIndex(name="spike_times_index", data=spikes.stops.astype(np.uint64), target=times)
    file.units = Units(
        name="units",
        description="units of the streams as their sources announced them",
        columns=[*columns, index, times],
        id=list(range(len(units))),
        resolution=WIRE_RESOLUTION_S,
    )


def _electrodes(file: Any, rows: JournalRows) -> list[list[int]]:
    """Add the peak channels that are known; return the electrodes of each unit."""
    keys = [(table_name(unit.probe or stream), unit.channel) for stream, unit in rows.units]
    if all(channel is None for _, channel in keys):
        return []
    file.add_electrode_column("channel", "number of the channel on its probe")
    places = {
        place: name
        for place, name in (("rel_x", "x_um"), ("rel_y", "y_um"))
        if any(getattr(unit, name) is not None for _, unit in rows.units)
    }
    groups: dict[str, Any] = {}
    row_of: dict[tuple[str, int | None], int] = {}
    for key, (_, unit) in zip(keys, rows.units, strict=True):
        if key[1] is None or key in row_of:
            continue
        if key[0] not in groups:
            device = file.create_device(name=key[0], description="probe of a source's stream")
            groups[key[0]] = file.create_electrode_group(
                name=key[0], description="peak channels of units", location="brain", device=device
            )
        row_of[key] = len(row_of)
        file.add_electrode(
            group=groups[key[0]],
            location=unit.area or "unknown",
            channel=key[1],
            **{
                place: math.nan if getattr(unit, name) is None else getattr(unit, name)
                for place, name in places.items()
            },
        )
    return [[row_of[key]] if key in row_of else [] for key in keys]


def _electrode_columns(file: Any, electrodes: list[list[int]]) -> list[Any]:
    from hdmf.common import DynamicTableRegion, VectorIndex

    flat = [row for rows in electrodes for row in rows]
    column = DynamicTableRegion(
        name="electrodes", description="peak channel", data=flat, table=file.electrodes
    )
    stops = np.cumsum([len(rows) for rows in electrodes]).astype(np.uint64)
    return [VectorIndex(name="electrodes_index", data=stops, target=column), column]


def table_name(text: str) -> str:
    """Return a text without the letters that HDF5 keeps for paths."""
    return text.translate(NOT_IN_NAMES)


def column(name: str, descriptions: Mapping[str, str], data: Any) -> Any:
    """Return a column of a table."""
    from hdmf.common import VectorData

    return VectorData(name=name, description=descriptions[name], data=data)


def floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return numbers as an array, NaN where one is not known."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
