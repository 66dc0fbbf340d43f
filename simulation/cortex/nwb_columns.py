"""The tables of a simulated recording, column by column, as the public Allen sessions have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.cortex.movie_files import frame_captions
from simulation.cortex.schedule import Block, Pulses, Schedule
from simulation.cortex.spikes import SimulatedTrains
from simulation.cortex.units import CORTEX, LGD, CortexUnits
from simulation.nwb_file import FIRST_CHANNEL_ID, FIRST_PROBE_ID, INTERVAL_COLUMNS, UNIT_COLUMNS

CHANNEL_UM = 40
"""Between two channels; a real probe has four times as many."""

CORTEX_OF_PROBE = {
    "probeA": "VISam",
    "probeB": "VISpm",
    "probeC": "VISp",
    "probeD": "VISl",
    "probeE": "VISal",
    "probeF": "VISrl",
}
LAYERS_UP = ("6", "5", "4", "2/3")
CHANNELS_DEEP, CHANNELS_CA1, CHANNELS_LAYER, CHANNELS_OUT = 24, 20, 10, 12
"""Channels of a probe from the tip up: thalamus, CA1, each layer of cortex, above the brain."""

BROKEN_EVERY = 16
"""Every sixteenth channel is not valid; no unit is on it."""

WAVEFORM_SAMPLES = 82
TYPE_DESCRIPTION = (
    "PV, SST or VIP, empty where unknown. Three tagged lines in one animal are possible only in a "
    "simulation; a public session has one."
)
CORTEX_COLUMNS = {
    **UNIT_COLUMNS,
    "cluster_id": "number of the cluster on its probe",
    "snr": "signal to noise ratio of the waveform",
    "waveform_duration": "from the lowest point to the peak, milliseconds",
    "waveform_mean": "on the peak channel",
    "layer": "layer of cortex; empty elsewhere",
    "cell_type": TYPE_DESCRIPTION,
}
PULSE_COLUMNS = {
    **INTERVAL_COLUMNS,
    "condition": "shape of the pulse",
    "level": "strength of the light",
    "stimulus_name": "name of the pulse",
    "duration": "seconds",
    "cell_type": "the line that the light drives; only a simulated animal has several",
}


def electrode_rows() -> list[dict[str, Any]]:
    """Lay out the channels of the six probes."""
    rows: list[dict[str, Any]] = []
    for number, (probe, cortex) in enumerate(CORTEX_OF_PROBE.items()):
        places = [(LGD if probe == "probeC" else "LP", "")] * CHANNELS_DEEP
        places += [("CA1", "")] * CHANNELS_CA1
        places += [(cortex, layer) for layer in LAYERS_UP for _ in range(CHANNELS_LAYER)]
        places += [("None", "")] * CHANNELS_OUT
        for depth, (location, layer) in enumerate(places):
            rows.append(
                {
                    "id": FIRST_CHANNEL_ID + len(rows),
                    "probe": probe,
                    "location": location,
                    "layer": layer,
                    "valid_data": depth % BROKEN_EVERY != BROKEN_EVERY - 1,
                    "probe_id": FIRST_PROBE_ID + number,
                    "probe_vertical_position": CHANNEL_UM * depth,
                }
            )
    return rows


def peak_channels(units: CortexUnits, electrodes: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    """Put each unit on a valid channel of its probe, area and layer; return the channels' ids."""
    rng = np.random.default_rng([units.seed, 13])
    places: dict[tuple[str, str, str], list[int]] = {}
    for row in electrodes:
        if row["valid_data"]:
            key = (row["probe"], row["location"], row["layer"])
            places.setdefault(key, []).append(row["id"])
    channels = []
    for probe, area, layer in zip(units.probe, units.area, units.layer, strict=True):
        at_layer = layer or ("5" if area in CORTEX else "")
        channels.append(int(rng.choice(places[str(probe), str(area) or "None", str(at_layer)])))
    return np.array(channels, dtype=np.int64)


def unit_columns(
    units: CortexUnits, trains: SimulatedTrains, channels: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the columns of the units table but for the spikes, which `CORTEX_COLUMNS` describe."""
    rng = np.random.default_rng([units.seed, 14])
    is_narrow = units.cell_type == "PV"
    duration_ms = np.where(is_narrow, 0.25, 0.6) + rng.normal(0, 0.05, len(units))
    return {
        "cluster_id": np.arange(len(units)),
        "peak_channel_id": channels,
        "quality": units.quality.tolist(),
        "amplitude_cutoff": units.amplitude_cutoff,
        "presence_ratio": units.presence_ratio,
        "isi_violations": units.isi_violations,
        "firing_rate": np.diff(trains.bounds) / trains.schedule.duration_s,
        "snr": rng.uniform(1.5, 6.0, len(units)),
        "waveform_duration": duration_ms,
        "waveform_mean": mean_waveforms(duration_ms),
        "layer": units.layer.tolist(),
        "cell_type": units.cell_type.tolist(),
    }


def mean_waveforms(duration_ms: NDArray[np.float64]) -> NDArray[np.float32]:
    """Draw a dip and a peak for each unit: shape (n_units, 82), float32, microvolts."""
    at_ms = (np.arange(WAVEFORM_SAMPLES) - 20) / 30.0
    dip = np.exp(-0.5 * (at_ms / 0.1) ** 2)
    peak = np.exp(-0.5 * ((at_ms - duration_ms[:, None]) / 0.2) ** 2)
    return np.asarray(-120 * dip + 45 * peak, dtype=np.float32)


def presentation_columns(schedule: Schedule) -> dict[str, dict[str, Any]]:
    """Return the columns of each stimulus, one row for each frame that was shown.

    Grey has no frame and no caption.
    """
    blocks: dict[str, list[tuple[int, Block]]] = {}
    for number, block in enumerate(schedule.blocks):
        blocks.setdefault(block.stimulus, []).append((number, block))
    return {stimulus: _columns(stimulus, shown) for stimulus, shown in blocks.items()}


def _columns(stimulus: str, blocks: Sequence[tuple[int, Block]]) -> dict[str, Any]:
    frame = np.concatenate([block.frame for _, block in blocks])
    columns: dict[str, Any] = {
        "start_time": np.concatenate([block.start_s for _, block in blocks]),
        "stop_time": np.concatenate([block.stop_s for _, block in blocks]),
        "stimulus_name": [stimulus] * len(frame),
        "stimulus_block": np.repeat(
            np.array([float(number) for number, _ in blocks]),
            [len(block.frame) for _, block in blocks],
        ),
    }
    movie = blocks[0][1].movie
    if movie is not None:
        captions = frame_captions(movie)
        columns["frame"] = frame.astype(np.float64)
        columns["caption"] = [captions[number] for number in frame.tolist()]
    return columns


def pulse_columns(pulses: Pulses) -> dict[str, Any]:
    """Return the columns of the optotagging table."""
    n = len(pulses.start_s)
    return {
        "start_time": pulses.start_s,
        "stop_time": pulses.start_s + pulses.duration_s,
        "condition": ["a single square pulse"] * n,
        "level": pulses.level,
        "stimulus_name": ["pulse"] * n,
        "duration": pulses.duration_s,
        "cell_type": list(pulses.cell_type),
    }
