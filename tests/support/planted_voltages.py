"""A few neurons planted in the voltages of a small probe, saved as SpikeInterface does."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.nwb_file import SAMPLING_HZ
from simulation.voltages import plant_units, save_voltages, voltage_recording

FRAME_S = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class PlantedRecording:
    """Where the recording is, its true sorting, and the trains in samples."""

    path: Path
    sorting: Path
    trains: list[NDArray[np.int64]]
    seconds: float

    def rows(self, *, n: int = 60, first_s: float = 1.0) -> list[dict[str, object]]:
        """Return presentations of a movie of 20 frames, one after the other."""
        return [
            {
                "start_time": round(first_s + FRAME_S * row, 3),
                "stop_time": round(first_s + FRAME_S * (row + 1), 3),
                "movie": "clip",
                "frame": row % 20,
            }
            for row in range(n)
        ]


def plant_recording(
    folder: Path, *, n_units: int = 6, n_channels: int = 16, seconds: float = 12.0, seed: int = 3
) -> PlantedRecording:
    """Write a recording and its true sorting; rates are 8 Hz and no unit fires twice in 3 ms."""
    rng = np.random.default_rng(seed)
    n_samples = round(seconds * SAMPLING_HZ)
    trains = [_train(rng, n_samples) for _ in range(n_units)]
    planted = plant_units(n_units, n_channels, seed=seed)
    save_voltages(voltage_recording(planted, trains, n_samples, seed=seed), folder / "recording")
    save_sorting(folder / "sorting", trains)
    return PlantedRecording(folder / "recording", folder / "sorting", trains, seconds)


def save_sorting(
    folder: Path, trains: list[NDArray[np.int64]], rate_hz: float = SAMPLING_HZ
) -> Path:
    """Save a sorting whose units are numbered from 10."""
    from spikeinterface.core import NumpySorting

    names = range(10, 10 + len(trains))
    sorting = NumpySorting.from_unit_dict(dict(zip(names, trains, strict=True)), rate_hz)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was made in memory
        sorting.save(folder=folder, format="numpy_folder")
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _train(rng: np.random.Generator, n_samples: int) -> NDArray[np.int64]:
    intervals = 90 + rng.exponential(SAMPLING_HZ / 8, 2 * n_samples // 3000).astype(np.int64)
    samples = 60 + np.cumsum(intervals)
    return samples[samples < n_samples - 120]
