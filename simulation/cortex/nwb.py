"""Writes a simulated session as an NWB file with the layout of the public Allen sessions.

Nothing is left behind that looks finished and is not: everything is written under another name
and renamed at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from simulation.cortex.drive import FrameSource, ResponseModel
from simulation.cortex.movie_files import FrameFiles, write_facts
from simulation.cortex.nwb_columns import (
    CORTEX_OF_PROBE,
    FRAME_COLUMNS,
    PULSE_COLUMNS,
    electrode_rows,
    mean_waveforms,
    peak_channels,
    presentation_columns,
    pulse_columns,
    unit_columns,
)
from simulation.cortex.schedule import Schedule
from simulation.cortex.session import session_trains
from simulation.cortex.spikes import SimulatedTrains
from simulation.cortex.units import CortexUnits

FIRST_SESSION_ID = 700_000_000
"""Of nine digits, as in the public sessions."""

DESCRIPTION = "a simulated animal that watches rendered movies; not a recording of an animal"
UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True, eq=False)
class SessionTruth:
    """What was written, and what is true of it.

    Attributes
    ----------
    path : Path
        The recording.
    movies : Path
        Folder with the facts of each movie, and its frames if they were asked for.
    units : CortexUnits
    trains : SimulatedTrains
        The spikes, and the schedule.
    """

    path: Path
    movies: Path
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
    progress : bool
        Whether to show a bar while frames are drawn, if standard error is a terminal.
    response : ResponseModel, optional
        Of the same units, if it is built already.

    Raises
    ------
    UserError
        If something is in the way, or the disk refuses.
    """
    folder = movies_folder(path)
    in_the_way = [str(each) for each in (path, folder) if each.exists()]
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
    from tqdm import tqdm

    files = FrameFiles(folder) if folder is not None else None
    n_frames = sum(movie.n_frames for movie in schedule.movies)
    # disable=None: shown on a terminal alone.
    with tqdm(
        total=n_frames, unit="frame", desc="movies", disable=None if progress else True
    ) as bar:

        def keep(movie: FrameSource, first: int, frames: NDArray[np.uint8]) -> None:
            if files is not None:
                files.keep(movie, first, frames)
            bar.update(len(frames))

        return session_trains(units, schedule, session_seed, response=response, on_frames=keep)


def _write_nwb(path: Path, units: CortexUnits, trains: SimulatedTrains, session_seed: int) -> None:
    from pynwb import NWBHDF5IO

    file = _new_file(units, session_seed)
    electrodes = electrode_rows()
    _add_electrodes(file, electrodes)
    _add_units(file, units, trains, peak_channels(units, electrodes))
    for stimulus, columns in presentation_columns(trains.schedule).items():
        table = _intervals(f"{stimulus}_presentations", columns, FRAME_COLUMNS)
        file.add_time_intervals(table)
    if len(trains.schedule.pulses.start_s):
        _add_pulses(file, trains.schedule)
    with NWBHDF5IO(path, "w") as io:
        io.write(file, expandable=())  # contiguous columns, which our reader can map


def _new_file(units: CortexUnits, session_seed: int) -> Any:
    from pynwb import NWBFile
    from pynwb.file import Subject

    session_id = str(FIRST_SESSION_ID + session_seed)
    return NWBFile(
        session_description=DESCRIPTION,
        identifier=session_id,
        session_start_time=datetime(2026, 1, 1, tzinfo=UTC),
        session_id=session_id,
        institution="simulated",
        stimulus_notes="brain_observatory_1.1",
        subject=Subject(
            subject_id=f"simulated-{units.seed}", species="Mus musculus", sex="U", age="P120D"
        ),
    )


def _add_electrodes(file: Any, rows: list[dict[str, Any]]) -> None:
    for name, description in (
        ("probe_id", "id of the probe"),
        ("valid_data", "whether the channel can be trusted"),
        ("probe_vertical_position", "micrometres from the tip"),
    ):
        file.add_electrode_column(name, description)
    groups = {}
    for probe in CORTEX_OF_PROBE:
        device = file.create_device(name=probe, description="simulated Neuropixels 1.0")
        groups[probe] = file.create_electrode_group(
            name=probe, description=probe, location="brain", device=device
        )
    for row in rows:
        plain = {name: value for name, value in row.items() if name not in {"probe", "layer"}}
        file.add_electrode(group=groups[row["probe"]], **plain)


def _add_units(
    file: Any, units: CortexUnits, trains: SimulatedTrains, channels: NDArray[np.int64]
) -> None:
    from hdmf.common import VectorData, VectorIndex
    from pynwb.misc import Units

    plain = unit_columns(units, trains, channels)
    columns = [VectorData(name=name, description=d, data=v) for name, (d, v) in plain.items()]
    times = VectorData(name="spike_times", description="seconds", data=trains.spike_times)
    index = VectorIndex(
        name="spike_times_index", data=trains.bounds[1:].astype(np.uint64), target=times
    )
    waveforms = mean_waveforms(plain["waveform_duration"][1])
    columns += [
        index,
        times,
        VectorData(name="waveform_mean", description="on the peak channel", data=waveforms),
    ]
    file.units = Units(
        name="units", description=DESCRIPTION, columns=columns, id=units.unit_id.tolist()
    )


def _intervals(name: str, columns: Mapping[str, Any], descriptions: Mapping[str, str]) -> Any:
    from hdmf.common import VectorData
    from pynwb.epoch import TimeIntervals

    described = {"start_time": "seconds", "stop_time": "seconds", **descriptions}
    return TimeIntervals(
        name=name,
        description=f"presentations of {name.removesuffix('_presentations')}",
        columns=[
            VectorData(name=column, description=described[column], data=values)
            for column, values in columns.items()
        ],
        id=list(range(len(columns["start_time"]))),
    )


def _add_pulses(file: Any, schedule: Schedule) -> None:
    from pynwb import TimeSeries

    pulses = schedule.pulses
    module = file.create_processing_module("optotagging", "light that drives tagged cells")
    module.add(
        TimeSeries(
            name="optotagging", data=pulses.duration_s, timestamps=pulses.start_s, unit="seconds"
        )
    )
    module.add(_intervals("optogenetic_stimulation", pulse_columns(pulses), PULSE_COLUMNS))
