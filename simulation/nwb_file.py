"""The parts of an NWB file with the layout of the public Allen sessions, a whole column at a time.

A row at a time takes pynwb minutes for a long session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_SESSION_ID = 700_000_000
FIRST_UNIT_ID = 951_000_000
FIRST_CHANNEL_ID = 850_000_000
FIRST_PROBE_ID = 810_000_000
"""Of nine digits, as in the public sessions."""

SAMPLING_HZ = 30_000
"""Sampling rate of Neuropixels' action potential band; every spike time is a whole sample."""

UNIT_COLUMNS = {
    "peak_channel_id": "id of the electrode with the largest waveform",
    "quality": "good or noise",
    "amplitude_cutoff": "share of spikes below the threshold",
    "presence_ratio": "share of the session in which it fires",
    "isi_violations": "relative rate of refractory violations",
    "firing_rate": "spikes per second",
}
INTERVAL_COLUMNS = {
    "start_time": "seconds",
    "stop_time": "seconds",
    "stimulus_name": "name of the stimulus",
    "stimulus_block": "number of the block",
    "frame": "frame of the movie",
    "caption": "what the frame shows, in words",
}


def new_file(description: str, seed: int, **more: Any) -> Any:
    """Return a file without tables, whose session id follows from the seed."""
    from pynwb import NWBFile

    session_id = str(FIRST_SESSION_ID + seed)
    return NWBFile(
        session_description=description,
        identifier=session_id,
        session_start_time=datetime(2026, 1, 1, tzinfo=UTC),
        session_id=session_id,
        stimulus_notes="brain_observatory_1.1",
        **more,
    )


def add_electrodes(file: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add probes and their channels.

    Parameters
    ----------
    rows : iterable of mapping
        With ``id``, ``probe``, ``location``, ``valid_data``, ``probe_id`` and
        ``probe_vertical_position``; the channels of a probe follow each other.
    """
    for name, description in (
        ("probe_id", "id of the probe"),
        ("valid_data", "whether the channel can be trusted"),
        ("probe_vertical_position", "micrometres from the tip"),
    ):
        file.add_electrode_column(name, description)
    groups: dict[str, Any] = {}
    for row in rows:
        columns = dict(row)
        probe = columns.pop("probe")
        if probe not in groups:
            device = file.create_device(name=probe, description="simulated Neuropixels 1.0")
            groups[probe] = file.create_electrode_group(
                name=probe, description=probe, location="brain", device=device
            )
        file.add_electrode(group=groups[probe], **columns)


def add_units(
    file: Any,
    unit_ids: Sequence[int],
    columns: Mapping[str, Any],
    spike_times: NDArray[np.float64],
    bounds: NDArray[np.int64],
    descriptions: Mapping[str, str] = UNIT_COLUMNS,
) -> None:
    """Add the table of units.

    Parameters
    ----------
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


def intervals(
    name: str, columns: Mapping[str, Any], descriptions: Mapping[str, str] = INTERVAL_COLUMNS
) -> Any:
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
