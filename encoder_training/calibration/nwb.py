"""``calibration.nwb``: the units as the online sorter sends them, and what was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import sync
from contracts.clock import NS_PER_S
from contracts.population import Population
from encoder_training.calibration.presentations_file import ShownFrames, ShownMovies
from stream_sources.recordings.nwb_writing import (
    add_electrodes,
    add_units,
    intervals,
    write_file,
)
from stream_sources.rigs.voltages import ProbeLayout

UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)
"""The format demands a start; most recordings state none, or one without a time zone."""

ELECTRODE_COLUMNS = {
    "channel_name": "id of the channel in the recording",
    "channel_number": "place of the channel among those of the recording",
}
UNIT_COLUMNS = {
    "peak_channel_id": "id of the electrode with the largest waveform",
    "depth_um": "micrometers from the tip along the shank, of that electrode",
    "quality": "good: the unit passed the rules of the calibration",
    "firing_rate": "spikes per second in these minutes",
    "snr": "largest deflection of the mean waveform, in standard deviations of the noise",
    "agreement": "matched spikes of the online and the offline sorting, over all different ones",
}
INTERVAL_COLUMNS = {
    "start_time": "seconds",
    "stop_time": "seconds",
    "stimulus_name": "name of the stimulus",
    "frame": "frame of the movie, -1 for a blank",
    "caption": "what the frame shows, in words",
}


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedUnits:
    """What is known of the units, in the order of `population`; arrays of shape (n_units,).

    `trains_ns` holds each unit's spike times in order, session nanoseconds; `agreement` is None
    where there is one sorting alone.
    """

    population: Population
    trains_ns: Sequence[NDArray[np.int64]]
    snr: NDArray[np.float64]
    agreement: NDArray[np.float64] | None
    duration_s: float


def write_calibration_nwb(
    path: Path,
    units: CalibratedUnits,
    layout: ProbeLayout,
    areas: Sequence[str],
    shown: ShownMovies | None,
    *,
    description: str,
    identifier: str,
) -> None:
    """Write the file, whole or not at all; session time zero is the recording's first sample."""
    from pynwb import NWBFile

    file = NWBFile(
        session_description=description,
        identifier=identifier,
        session_start_time=UNKNOWN_START,
    )
    probe = units.population.units[0].probe
    add_electrodes(
        file, _electrodes(layout, areas, probe), ELECTRODE_COLUMNS, device="probe of the recording"
    )
    n_spikes = [len(train) for train in units.trains_ns]
    add_units(
        file,
        [int(unit.unit_id) for unit in units.population.units],
        _unit_columns(units, layout),
        np.concatenate(units.trains_ns) / NS_PER_S,
        np.cumsum(n_spikes),
        UNIT_COLUMNS,
    )
    for movie, frames in shown.movies.items() if shown is not None else ():
        columns = _interval_columns(movie, frames)
        file.add_time_intervals(intervals(f"{movie}_presentations", columns, INTERVAL_COLUMNS))
    partial = path.with_name(f".{path.stem}.partial.nwb")  # pynwb wants the ending
    try:
        write_file(partial, file)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _electrodes(layout: ProbeLayout, areas: Sequence[str], probe: str) -> list[dict[str, Any]]:
    channels = zip(layout.channel_ids, layout.positions_um.tolist(), areas, strict=True)
    return [
        {
            "id": number,
            "probe": probe,
            "location": area or "unknown",
            "rel_x": x_um,
            "rel_y": y_um,
            "channel_name": name,
            "channel_number": number,
        }
        for number, (name, (x_um, y_um), area) in enumerate(channels)
    ]


def _unit_columns(units: CalibratedUnits, layout: ProbeLayout) -> dict[str, Any]:
    channels = np.array([unit.channel for unit in units.population.units], dtype=np.int64)
    return {
        "peak_channel_id": channels,
        "depth_um": layout.positions_um[channels, 1],
        "quality": ["good"] * len(units.population),
        "firing_rate": np.array([len(train) for train in units.trains_ns]) / units.duration_s,
        "snr": units.snr,
        **({} if units.agreement is None else {"agreement": units.agreement}),
    }


def _interval_columns(movie: str, shown: ShownFrames) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "start_time": shown.start_s,
        "stop_time": shown.stop_s,
        "stimulus_name": [movie] * len(shown.frame),
        "frame": shown.frame,
    }
    return {**columns, "caption": list(shown.captions)} if shown.captions else columns
