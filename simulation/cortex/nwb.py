"""Writes a simulated session as an NWB file with the layout of the public Allen sessions.

Nothing is left behind that looks finished and is not: everything is written under another name
and renamed at the end.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.progress import ProgressBar
from simulation.cortex.drive import FrameSource, ResponseModel
from simulation.cortex.movie_files import FrameFiles, write_facts
from simulation.cortex.nwb_columns import (
    CORTEX_COLUMNS,
    PULSE_COLUMNS,
    electrode_rows,
    peak_channels,
    presentation_columns,
    pulse_columns,
    unit_columns,
)
from simulation.cortex.schedule import Schedule
from simulation.cortex.session import session_trains
from simulation.cortex.spikes import SimulatedTrains
from simulation.cortex.units import CortexUnits
from simulation.nwb_file import DEVICE, ELECTRODE_COLUMNS, INTERVAL_COLUMNS, new_file
from stream_sources.recordings.nwb_writing import (
    add_electrodes,
    add_units,
    intervals,
    write_file,
)

DESCRIPTION = "a simulated animal that watches rendered movies; not a recording of an animal"
UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True, eq=False)
class SessionTruth:
    """What was written, and what is true of it."""

    path: Path
    movies: Path  # folder with the facts of each movie, and its frames if they were asked for
    units: CortexUnits
    trains: SimulatedTrains


def movies_folder(path: Path) -> Path:
    """Return where the movies of a recording lie: ``SESSION_movies`` beside ``SESSION.nwb``."""
    return path.with_name(f"{path.stem}_movies")


def write_session(
    path: Path,
    *,
    units: CortexUnits,
    schedule: Schedule,
    session_seed: int,
    with_frames: bool = True,
    progress: bool = False,
    response: ResponseModel | None = None,
) -> SessionTruth:
    """Simulate a session and write it.

    The same arguments give the same numbers; only the random object names that the format
    demands differ.

    Parameters
    ----------
    path : Path
        File to write. Neither it nor its folder of movies may exist.
    session_seed : int
        Of noise and spikes: another seed is another day.
    with_frames : bool
        Whether the frames are kept, about 20 kB each.

    Raises
    ------
    UserError
        If something is in the way, or the disk refuses.
    """
    folder = movies_folder(path)
    in_the_way = [str(taken) for taken in (path, folder) if taken.exists()]
    if in_the_way:
        raise UserError(
            f"{' and '.join(in_the_way)} exist already; nothing is overwritten. Remove them or "
            "choose another name."
        )
    part = path.with_name(f"{path.stem}{UNFINISHED}.nwb")
    part_folder = folder.with_name(folder.name + UNFINISHED)
    try:
        shutil.rmtree(part_folder, ignore_errors=True)
        part_folder.mkdir(parents=True)
        trains = _simulate(
            units, schedule, session_seed, response, part_folder if with_frames else None, progress
        )
        for movie in schedule.movies:
            write_facts(movie, part_folder)
        _write_nwb(part, units, trains, session_seed)
        part_folder.rename(folder)
        part.rename(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error}. Is there room on the disk, and may you write "
            "there?"
        ) from error
    finally:
        part.unlink(missing_ok=True)
        shutil.rmtree(part_folder, ignore_errors=True)
    return SessionTruth(path, folder, units, trains)


def _simulate(
    units: CortexUnits,
    schedule: Schedule,
    session_seed: int,
    response: ResponseModel | None,
    folder: Path | None,
    progress: bool,
) -> SimulatedTrains:
    files = FrameFiles(folder) if folder is not None else None
    n_frames = sum(movie.n_frames for movie in schedule.movies)
    with ProgressBar(total=n_frames, unit="frame", desc="movies", is_silent=not progress) as bar:

        def keep(movie: FrameSource, first: int, frames: NDArray[np.uint8]) -> None:
            if files is not None:
                files.keep(movie, first, frames)
            bar.update(len(frames))

        return session_trains(units, schedule, session_seed, response=response, on_frames=keep)


def _write_nwb(path: Path, units: CortexUnits, trains: SimulatedTrains, session_seed: int) -> None:
    from pynwb.file import Subject

    subject = Subject(
        subject_id=f"simulated-{units.seed}", species="Mus musculus", sex="U", age="P120D"
    )
    file = new_file(DESCRIPTION, session_seed, institution="simulated", subject=subject)
    electrodes = electrode_rows()
    add_electrodes(
        file,
        ({name: v for name, v in row.items() if name != "layer"} for row in electrodes),
        ELECTRODE_COLUMNS,
        device=DEVICE,
    )
    add_units(
        file,
        units.unit_id.tolist(),
        unit_columns(units, trains, peak_channels(units, electrodes)),
        trains.spike_times,
        trains.bounds[1:],
        CORTEX_COLUMNS,
    )
    for stimulus, columns in presentation_columns(trains.schedule).items():
        table = intervals(f"{stimulus}_presentations", columns, INTERVAL_COLUMNS)
        file.add_time_intervals(table)
    if len(trains.schedule.pulses.start_s):
        _add_pulses(file, trains.schedule)
    write_file(path, file)


def _add_pulses(file: Any, schedule: Schedule) -> None:
    from pynwb import TimeSeries

    pulses = schedule.pulses
    module = file.create_processing_module("optotagging", "light that drives tagged cells")
    module.add(
        TimeSeries(
            name="optotagging", data=pulses.duration_s, timestamps=pulses.start_s, unit="seconds"
        )
    )
    module.add(intervals("optogenetic_stimulation", pulse_columns(pulses), PULSE_COLUMNS))
