"""What the public Allen sessions have of their own: ids, columns, the description of the file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

FIRST_SESSION_ID = 700_000_000
FIRST_UNIT_ID = 951_000_000
FIRST_CHANNEL_ID = 850_000_000
FIRST_PROBE_ID = 810_000_000
"""Of nine digits, as in the public sessions."""

SAMPLING_HZ = 30_000
"""Sampling rate of Neuropixels' action potential band; every spike time is a whole sample."""

DEVICE = "simulated Neuropixels 1.0"
ELECTRODE_COLUMNS = {
    "probe_id": "id of the probe",
    "valid_data": "whether the channel can be trusted",
    "probe_vertical_position": "micrometres from the tip",
}
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
