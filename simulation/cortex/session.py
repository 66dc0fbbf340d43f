"""A session in memory: an animal, a schedule and a day give spikes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulation.cortex.drive import (
    FrameSource,
    ResponseModel,
    build_response_model,
    grey_rates,
    movie_rates,
)
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
    response: ResponseModel | None = None,
    on_frames: OnFrames | None = None,
) -> SimulatedTrains:
    """Simulate a session; each movie is drawn once, however often it is shown.

    Parameters
    ----------
    session_seed : int
        Of noise and spikes: another seed is another day.
    """
    response = build_response_model(units) if response is None else response
    tables = [grey_rates(response)[None]]
    first_row: dict[str, int] = {}
    for movie in schedule.movies:
        first_row[movie.name] = sum(len(table) for table in tables)
        tables.append(movie_rates(response, movie, on_frames))
    starts_s = np.concatenate([block.start_s for block in schedule.blocks])
    rows = np.concatenate(
        [
            block.frame + first_row[block.movie.name] if block.movie else np.zeros(1, np.int64)
            for block in schedule.blocks
        ]
    )
    return draw_trains(units, schedule, np.concatenate(tables), starts_s, rows, session_seed)
