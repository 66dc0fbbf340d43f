"""A session in memory: an animal, a schedule and a day give spikes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulation.cortex.drive import Eye, FrameSource, grey_rates, movie_rates, open_eye
from simulation.cortex.schedule import Schedule
from simulation.cortex.spikes import SimulatedTrains, draw_trains
from simulation.cortex.units import CortexUnits

OnFrames = Callable[[FrameSource, int, NDArray[np.uint8]], None]
"""Called with a movie, the number of a frame, and the frames from there on as they are drawn."""


def session_trains(
    units: CortexUnits,
    schedule: Schedule,
    session_seed: int,
    *,
    eye: Eye | None = None,
    on_frames: OnFrames | None = None,
) -> SimulatedTrains:
    """Simulate a session.

    Each movie is drawn once, however often it is shown.

    Parameters
    ----------
    units : CortexUnits
        The animal.
    schedule : Schedule
        What it is shown.
    session_seed : int
        Of noise and spikes: the day.
    eye : Eye, optional
        The animal's, if it is open already; opening it takes seconds.
    on_frames : callable, optional
        Told of the frames, for whoever wants to keep them.

    Returns
    -------
    SimulatedTrains
    """
    eye = open_eye(units) if eye is None else eye
    tables = [grey_rates(eye)[None]]
    first_row: dict[str, int] = {}
    for movie in schedule.movies:
        first_row[movie.name] = sum(len(table) for table in tables)
        tables.append(movie_rates(eye, movie, on_frames))
    starts_s = np.concatenate([block.start_s for block in schedule.blocks])
    rows = np.concatenate(
        [
            block.frame + first_row[block.movie.name] if block.movie else np.zeros(1, np.int64)
            for block in schedule.blocks
        ]
    )
    return draw_trains(units, schedule, np.concatenate(tables), starts_s, rows, session_seed)
