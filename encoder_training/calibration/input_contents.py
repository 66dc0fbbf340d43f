"""What is in the small inputs of a calibration: a file may change and keep its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from encoder_training.calibration.folder import Option
from encoder_training.calibration.options import CalibrationOptions
from stream_sources.recordings.sorting import read_sorting

MISSING = "missing"


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
