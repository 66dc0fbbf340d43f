"""The sessions of the simulated animal: which movies it watches on a day."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import UserError
from simulation.cortex.nwb import SessionTruth, write_session
from simulation.cortex.schedule import FRAME_S, MOVIE_ONE, allen_schedule
from simulation.cortex.units import DEFAULT_UNITS, draw_units
from simulation.scenes.movie import random_movie
from simulation.scenes.scene import SCENE_FRAMES
from simulation.seeds import (
    ANIMAL,
    DAY_REPEATED,
    FIRST_DAY,
    SESSION_LONG,
    SESSION_REPEATED,
    day_of,
)

TRAINING_SCENE_FRAMES = 30
"""Of a scene in the training session, one second: more scenes in the same time."""

REPEATED_SCENES = 30
"""Of the short movie in the training session."""

ALLEN_FRAMES = 900
"""Length of the Allen movie ``natural_movie_one``, about 30 s."""

LONG_MOVIE = "natural_movie_long"


def write_day(
    path: Path,
    *,
    n_units: int,
    minutes: float,
    repeats: int,
    scene_frames: int,
    with_frames: bool,
    seed: int,
    animal: int = ANIMAL,
) -> SessionTruth:
    """Write a session of an animal: the short movie, a long one, the short one again.

    Two animals with the same seed see the same movies on days of their own: timing, noise and
    spikes of one tell nothing of the other's.

    Parameters
    ----------
    minutes : float
        That movies run, about; what the repeats leave is the long movie's.
    repeats : int
        Of the short movie, in each of two blocks.

    Raises
    ------
    UserError
        If the repeats alone are longer than that.
    """
    short = random_movie(MOVIE_ONE, seed=DAY_REPEATED, n_scenes=ALLEN_FRAMES // SCENE_FRAMES)
    left_s = 60 * minutes - 2 * repeats * short.n_frames * FRAME_S
    n_scenes = round(left_s / (scene_frames * FRAME_S))
    if n_scenes < 1:
        raise UserError(
            f"showings of a movie of 30 s, {repeats} before the long movie and as many after it, "
            f"leave no time for the long movie in {minutes:g} minutes. Ask for more --minutes or "
            "fewer --repeats."
        )
    long = random_movie(
        LONG_MOVIE, seed=FIRST_DAY + seed, n_scenes=n_scenes, frames_per_scene=scene_frames
    )
    day = seed if animal == ANIMAL else day_of(animal, seed)
    return write_session(
        path,
        units=draw_units(animal, n_units),
        schedule=allen_schedule(short, [long], repeats=repeats, seed=day),
        session_seed=day,
        with_frames=with_frames,
        progress=True,
    )


def write_training_day(path: Path, *, n_scenes: int, repeats: int, seed: int) -> SessionTruth:
    """Write the session that the animal's encoder learns from, with the frames of its movies.

    Parameters
    ----------
    repeats : int
        Of the short movie in both blocks together.
    """
    short, long = (
        random_movie(name, seed=movie_seed, n_scenes=n, frames_per_scene=TRAINING_SCENE_FRAMES)
        for name, movie_seed, n in (
            (MOVIE_ONE, SESSION_REPEATED, REPEATED_SCENES),
            (LONG_MOVIE, SESSION_LONG, n_scenes),
        )
    )
    half = max(1, repeats // 2)
    return write_session(
        path,
        units=draw_units(ANIMAL, DEFAULT_UNITS),
        schedule=allen_schedule(short, [long], repeats=half, pulses_each=0, seed=seed),
        session_seed=seed,
        progress=True,
    )
