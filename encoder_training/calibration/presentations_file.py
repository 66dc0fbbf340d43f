"""What was on the screen during a recording, from a CSV file of the stimulus program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, listed
from encoder_training.calibration.csv_table import number, read_table

NAME_COLUMNS = ("movie", "stimulus")
BLANK = -1
UNNAMABLE = "/:"
"""Letters that NWB's library takes in no name."""

NEEDED = ("start_time", "stop_time", "frame")


@dataclass(frozen=True, slots=True, eq=False)
class ShownFrames:
    """The presentations of one movie, in order of their start.

    `start_s` and `stop_s`, float64 of shape (n_rows,), are seconds of the recording; `frame`,
    float64 of the same shape, is -1 for a blank; `captions` are empty where the file has none.
    """

    start_s: NDArray[np.float64]
    stop_s: NDArray[np.float64]
    frame: NDArray[np.float64]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ShownMovies:
    """All presentations within the calibrated minutes, by movie."""

    movies: Mapping[str, ShownFrames]
    n_later: int  # Presentations that end after these minutes, which are left out

    @property
    def n_rows(self) -> int:
        """Presentations of all movies."""
        return sum(len(shown.start_s) for shown in self.movies.values())


def read_shown(path: Path, *, recorded_s: float, calibrated_s: float) -> ShownMovies:
    """Read presentations; those that end after the calibrated minutes are left out and counted.

    Parameters
    ----------
    recorded_s, calibrated_s : float
        Length of the recording, and of its first part that is calibrated on.

    Raises
    ------
    RecordingError
        With every problem: a column that is missing, a time that is none or outside of the
        recording, a frame that is no whole number; or if no presentation is left.
    """
    rows = read_table(path, NEEDED)
    name = next((column for column in NAME_COLUMNS if column in rows[0]), None)
    if name is None:
        raise RecordingError(
            str(path),
            f"it needs a column {' or '.join(NAME_COLUMNS)}; there are {listed(list(rows[0]))}",
        )
    problems = _problems(rows, name, recorded_s)
    if problems:
        raise RecordingError(str(path), *problems)
    kept = [row for row in rows if number(row, "stop_time") <= calibrated_s]
    if not kept:
        raise RecordingError(
            str(path),
            f"no presentation ends within the {calibrated_s:g} s that are calibrated on; the first "
            f"starts at {min(number(row, 'start_time') for row in rows):g} s. Calibrate on more "
            "minutes, so that there is something to train on.",
        )
    names = dict.fromkeys(row[name] for row in kept)
    movies = {movie: _frames([row for row in kept if row[name] == movie]) for movie in names}
    return ShownMovies(movies, len(rows) - len(kept))


def _problems(rows: Sequence[Mapping[str, str]], name: str, recorded_s: float) -> list[str]:
    faults: dict[str, list[str]] = {}
    for line, row in enumerate(rows, 2):
        for fault in _faults(row, name, recorded_s):
            faults.setdefault(fault, []).append(str(line))
    return [f"{fault}: line {listed(lines)}" for fault, lines in faults.items()]


def _faults(row: Mapping[str, str], name: str, recorded_s: float) -> list[str]:
    start, stop, frame = (number(row, column) for column in NEEDED)
    faults = []
    if math.isnan(start) or math.isnan(stop):
        faults.append("start_time and stop_time must be seconds of the recording")
    elif not start < stop:
        faults.append("start_time must be before stop_time")
    elif start < 0 or stop > recorded_s:
        faults.append(
            f"presentations must lie within the recording, which lasts {recorded_s:g} s (times "
            "are seconds from its first sample)"
        )
    if math.isnan(frame) or frame != round(frame) or frame < BLANK:
        faults.append(f"frame must be a whole number, {BLANK} for a blank")
    if not row[name] or set(UNNAMABLE) & set(row[name]):
        faults.append(f"{name} must be a name, without a slash or a colon")
    return faults


def _frames(rows: Sequence[Mapping[str, str]]) -> ShownFrames:
    ordered = sorted(rows, key=lambda row: number(row, "start_time"))
    start_s, stop_s, frame = (np.array([number(row, name) for row in ordered]) for name in NEEDED)
    captions = tuple(row.get("caption", "") for row in ordered)
    return ShownFrames(start_s, stop_s, frame, captions if any(captions) else ())
