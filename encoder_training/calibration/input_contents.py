"""What is in the inputs of a calibration: a file may change and keep its name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from encoder_training.calibration.folder import Option
from encoder_training.calibration.options import CalibrationOptions
from stream_sources.recordings.sorting import read_sorting

MISSING = "missing"

N_PIECES, PIECE_SAMPLES = 20, 100
"""Of a recording, from its first sample to its last."""


def input_contents(options: CalibrationOptions) -> dict[str, Option]:
    """Return a sha256 of each input but the recording, None for one that is not given.

    Of a sorting it is that of its units, spikes and rate, whatever the files are.

    Raises
    ------
    RecordingError
        If the sorting cannot be read.
    """
    files = {
        "--areas": options.areas,
        "--presentations": options.presentations,
        "--geometry": options.geometry,
    }
    contents: dict[str, Option] = {
        f"sha256 of {name}": None if path is None else _of_file(path)
        for name, path in files.items()
    }
    sorting = options.sorting
    contents["sha256 of --sorting"] = None if sorting is None else _of_sorting(sorting)
    return contents


def voltage_contents(recording: Any) -> str:
    """Return a sha256 of some pieces of a recording, of its rate and its channels.

    Parameters
    ----------
    recording : spikeinterface.BaseRecording
    """
    n_samples, rate_hz = recording.get_num_samples(), recording.get_sampling_frequency()
    names = [str(name) for name in recording.channel_ids]
    digest = hashlib.sha256(repr((n_samples, float(rate_hz), names)).encode())
    for first in np.linspace(0, max(0, n_samples - PIECE_SAMPLES), N_PIECES).astype(int).tolist():
        last = min(first + PIECE_SAMPLES, n_samples)
        piece = recording.get_traces(start_frame=first, end_frame=last)
        digest.update(np.ascontiguousarray(piece).tobytes())
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else MISSING


def _of_sorting(folder: Path) -> str:
    if not folder.exists():
        return MISSING
    found = read_sorting(folder)
    digest = hashlib.sha256(repr((found.rate_hz, [u.unit_id for u in found.units])).encode())
    for numbers in (found.sample, found.row):
        digest.update(np.asarray(numbers, dtype=np.int64).tobytes())
    return digest.hexdigest()
