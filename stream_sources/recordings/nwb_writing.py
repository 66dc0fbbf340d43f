"""Write an NWB file a whole column at a time: electrodes, units, intervals.

A row at a time takes pynwb minutes for a long session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def add_electrodes(
    file: Any,
    rows: Iterable[Mapping[str, Any]],
    descriptions: Mapping[str, str],
    *,
    device: str,
) -> None:
    """Add probes and their channels.

    Parameters
    ----------
    rows : iterable of mapping
        With ``id``, ``probe``, ``location`` and whatever columns pynwb has of its own or
        `descriptions` names; the channels of a probe follow each other.
    descriptions : mapping
        Of the columns that are not pynwb's.
    device : str
        Description of the probes.
    """
    for name, description in descriptions.items():
        file.add_electrode_column(name, description)
    groups: dict[str, Any] = {}
    for row in rows:
        columns = dict(row)
        probe = columns.pop("probe")
        if probe not in groups:
            made = file.create_device(name=probe, description=device)
            groups[probe] = file.create_electrode_group(
                name=probe, description=probe, location="brain", device=made
            )
        file.add_electrode(group=groups[probe], **columns)


def add_units(
    file: Any,
    unit_ids: Sequence[int],
    columns: Mapping[str, Any],
    spike_times: NDArray[np.float64],
    bounds: NDArray[np.int64],
    descriptions: Mapping[str, str],
) -> None:
    """Add the table of units.

    Parameters
    ----------
    columns : mapping
        A value for each unit; `descriptions` has a text for each column.
    spike_times : array, shape (n_spikes,), float64, seconds
        Unit after unit.
    bounds : array, shape (n_units,), int64
        Where the spikes of each unit stop.
    """
    from hdmf.common import VectorData, VectorIndex
    from pynwb.misc import Units

    data = [VectorData(name=n, description=descriptions[n], data=v) for n, v in columns.items()]
    times = VectorData(name="spike_times", description="seconds", data=spike_times)
    index = VectorIndex(name="spike_times_index", data=bounds.astype(np.uint64), target=times)
    file.units = Units(
        name="units",
        description=file.session_description,
        columns=[*data, index, times],
        id=list(unit_ids),
    )


def intervals(name: str, columns: Mapping[str, Any], descriptions: Mapping[str, str]) -> Any:
    """Return a table of intervals, such as presentations; times are in seconds."""
    from hdmf.common import VectorData
    from pynwb.epoch import TimeIntervals

    return TimeIntervals(
        name=name,
        description=f"presentations of {name.removesuffix('_presentations')}",
        columns=[
            VectorData(name=column, description=descriptions[column], data=values)
            for column, values in columns.items()
        ],
        id=list(range(len(columns["start_time"]))),
    )


def write_file(path: Path, file: Any) -> None:
    """Write a file with contiguous columns, which our reader can map."""
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(path, "w") as io:
        io.write(file, expandable=())
