"""A short day of a small simulated animal, in a file with the layout of the Allen sessions."""

from __future__ import annotations

from pathlib import Path

from simulation.cortex.nwb import SessionTruth, write_session
from simulation.cortex.schedule import allen_schedule
from simulation.cortex.units import draw_units
from simulation.scenes.movie import random_movie


def write_short_day(
    path: Path, *, one: tuple[int, int], three: tuple[int, int], pulses_each: int = 0
) -> SessionTruth:
    """Show ``natural_movie_one`` four times and ``natural_movie_three`` once.

    `one` and `three` are scenes of each, and frames of a scene; `pulses_each` pulses of light for
    each cell type follow.
    """
    movies = [
        random_movie(name, seed=seed, n_scenes=n_scenes, frames_per_scene=n_frames)
        for name, seed, (n_scenes, n_frames) in (
            ("natural_movie_one", 61, one),
            ("natural_movie_three", 62, three),
        )
    ]
    return write_session(
        path,
        units=draw_units(3, 60),
        schedule=allen_schedule(
            movies[0],
            movies[1:],
            repeats=2,
            spontaneous_s=1.0,
            between_s=2.0,
            pulses_each=pulses_each,
        ),
        session_seed=1,
    )
