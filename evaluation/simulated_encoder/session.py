"""What the encoder of the simulated animal learns from: spikes, and the patches of its movies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.clock import second_to_ns, seconds_to_ns
from contracts.embedding import PatchGrid
from contracts.errors import UserError
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from simulation.seeds import ANIMAL, DAY_REPEATED, FIRST_DAY, SESSION_LONG, SESSION_REPEATED
from stream_sources.recordings.unit_filter import (
    ALLEN_MAX_AMPLITUDE_CUTOFF,
    ALLEN_MAX_ISI_VIOLATIONS,
    ALLEN_MIN_PRESENCE_RATIO,
)

if TYPE_CHECKING:
    from encoder_training.data_set.training_set import TrainingSet
    from encoder_training.frames.tower import VisionTower
    from simulation.cortex.drive import FrameSource
    from simulation.cortex.nwb import SessionTruth
    from simulation.cortex.schedule import Schedule
    from simulation.cortex.units import CortexUnits
    from simulation.scenes.movie import SceneMovie

WINDOW = WindowSpec(rate=BinRate(120), n_bins=20, stride_bins=8, lag_ns=100_000_000)
"""The paper's 20 bins of 1/120 s, fifteen windows a second. Latencies are 40 to 70 ms and the
window looks 167 ms back, so its middle is 140 ms behind a frame that the cortex answers; 100 ms
keeps the narration young and the frame within every window."""

TARGET_EVERY = 2
"""Frames between two that the encoder learns from: neighbours look alike."""

SCENE_FRAMES = 30
"""Of a scene in the training session, one second: more scenes in the same time."""

REPEATED_SCENES = 30
ALLEN_FRAMES = 900
"""Length of the Allen movie ``natural_movie_one``, about 30 s."""

N_REFERENCES = 400
"""Captioned frames that go into the bundle as evidence, about."""


@dataclass(frozen=True, slots=True)
class BundleRecipe:
    """All that the encoder depends on.

    Attributes
    ----------
    scenes : int
        Seconds of the long movie: a scene in each.
    repeats : int
        Times that the short movie of 30 s is shown, half of them before the long one.
    epochs : int
        Passes over the training windows.
    seed : int
        Of the day, the weights and the order.
    """

    scenes: int = 2_400
    repeats: int = 4
    epochs: int = 9
    seed: int = 0


def simulated_population(units: CortexUnits) -> tuple[Population, NDArray[np.intp]]:
    """Return the units that a session's default quality filter lets through, and their rows.

    Returns
    -------
    population : Population
    rows : array, shape (len(population),), intp
        Of `units`.
    """
    passes = (
        (units.quality == "good")
        & (units.area != "")
        & (units.amplitude_cutoff <= ALLEN_MAX_AMPLITUDE_CUTOFF)
        & (units.presence_ratio >= ALLEN_MIN_PRESENCE_RATIO)
        & (units.isi_violations <= ALLEN_MAX_ISI_VIOLATIONS)
    )
    rows = np.flatnonzero(passes)
    return Population(
        [
            Unit(
                unit_id=str(units.unit_id[row]),
                probe=str(units.probe[row]),
                area=str(units.area[row]),
                cell_type=str(units.cell_type[row]),
                quality="good",
            )
            for row in rows.tolist()
        ]
    ), rows


class PatchCollector:
    """Keeps the patches of the movies' frames while they are drawn for the cortex.

    Parameters
    ----------
    tower : VisionTower
        Which looks at them.
    """

    def __init__(self, tower: VisionTower) -> None:
        self._tower = tower
        self._movies: dict[str, list[NDArray[np.float16]]] = {}

    def add(self, movie: FrameSource, first: int, frames: NDArray[np.uint8]) -> None:
        """Take frames, as `session_trains` hands them out."""
        skip = -first % TARGET_EVERY
        kept = self._movies.setdefault(movie.name, [])
        kept.append(self._tower.patches(frames[skip::TARGET_EVERY]))

    def of(self, movie: str) -> NDArray[np.float16]:
        """Return the patches of every `TARGET_EVERY`-th frame of a movie."""
        return np.concatenate(self._movies[movie])


def simulate_training_set(model: Path, recipe: BundleRecipe) -> tuple[TrainingSet, PatchGrid]:
    """Show the animal its movies and pair its windows with what the LLaVA saw of them.

    Parameters
    ----------
    model : Path
        Folder of the LLaVA.
    recipe : BundleRecipe
        Length and seed of the session.

    Returns
    -------
    data : TrainingSet
        Grouped by scene: validation holds whole scenes out.
    grid : PatchGrid
        Of the targets.
    """
    from encoder_training.data_set.alignment import align
    from encoder_training.data_set.counting import count_bins
    from encoder_training.data_set.training_set import TrainingSet
    from encoder_training.frames.tower import VisionTower
    from simulation.cortex.session import session_trains
    from simulation.cortex.units import draw_units

    units = draw_units(ANIMAL)
    population, rows = simulated_population(units)
    schedule = training_schedule(recipe)
    tower = VisionTower(str(model.resolve()))
    targets = PatchCollector(tower)
    trains = session_trains(units, schedule, recipe.seed, on_frames=targets.add)
    index_of = np.full(len(units), -1)
    index_of[rows] = np.arange(len(rows))
    unit_index = index_of[trains.unit_index]
    is_heard = unit_index >= 0
    n_bins = WINDOW.rate.bin_of(second_to_ns(schedule.duration_s))
    counts = count_bins(
        trains.spike_time_ns[is_heard],
        unit_index[is_heard],
        n_units=len(rows),
        rate=WINDOW.rate,
        n_bins=n_bins,
    )
    start_ns, stop_ns, frame, scene = _shown(schedule)
    chosen = np.flatnonzero(frame >= 0)
    first_bin, row = align(start_ns, stop_ns, WINDOW, recorded_bins=(0, n_bins), chosen=chosen)
    data = TrainingSet(
        population=population,
        window=WINDOW,
        counts=counts,
        first_bin=first_bin,
        frame=frame[row],
        targets=np.concatenate([targets.of(movie.name) for movie in schedule.movies]),
        group=scene[row],
    )
    return data, tower.grid


def write_day(
    path: Path,
    *,
    n_units: int,
    minutes: float,
    repeats: int,
    scene_frames: int,
    with_frames: bool,
    seed: int,
) -> SessionTruth:
    """Write a session of the animal: the short movie, a long one, the short one again.

    Parameters
    ----------
    path : Path
        NWB file to write.
    n_units : int
        Of the animal.
    minutes : float
        That movies run, about; what the repeats leave is the long movie's.
    repeats : int
        Of the short movie, in each of two blocks.
    scene_frames : int
        Of each scene of the long movie.
    with_frames : bool
        Whether the frames are kept.
    seed : int
        Of the day and its long movie.

    Returns
    -------
    SessionTruth

    Raises
    ------
    UserError
        If the repeats alone are longer than that.
    """
    from simulation.cortex.nwb import write_session
    from simulation.cortex.schedule import FRAME_S, MOVIE_ONE, allen_schedule
    from simulation.cortex.units import draw_units
    from simulation.scenes.movie import random_movie
    from simulation.scenes.scene import SCENE_FRAMES as WHOLE_SCENE

    short = random_movie(MOVIE_ONE, seed=DAY_REPEATED, n_scenes=ALLEN_FRAMES // WHOLE_SCENE)
    left_s = 60 * minutes - 2 * repeats * short.n_frames * FRAME_S
    n_scenes = round(left_s / (scene_frames * FRAME_S))
    if n_scenes < 1:
        raise UserError(
            f"{2 * repeats} repeats of a movie of 30 s leave no time for the long movie in "
            f"{minutes:g} minutes. Ask for more --minutes or fewer --repeats."
        )
    long = random_movie(
        "natural_movie_long",
        seed=FIRST_DAY + seed,
        n_scenes=n_scenes,
        frames_per_scene=scene_frames,
    )
    return write_session(
        path,
        units=draw_units(ANIMAL, n_units),
        schedule=allen_schedule(short, [long], repeats=repeats, seed=seed),
        session_seed=seed,
        with_frames=with_frames,
        progress=True,
    )


def references_of(
    data: TrainingSet, recipe: BundleRecipe, held_out: NDArray[np.int64]
) -> tuple[NDArray[np.float32], list[dict[str, str]]]:
    """Choose frames of the session that narrations are shown beside.

    Parameters
    ----------
    data : TrainingSet
        As `simulate_training_set` made it.
    recipe : BundleRecipe
        Of the same session.
    held_out : array, shape (n,), int64
        Scenes that may not be among them.

    Returns
    -------
    mean_patches : array, shape (n, dim), float32
    lines : list of dict
        ``frame`` and ``caption`` of each.
    """
    from simulation.captions import caption

    scenes = [scene for movie in session_movies(recipe) for scene in movie.scenes]
    seen = np.flatnonzero(~np.isin(data.group, held_out))
    _, first = np.unique(data.group[seen], return_index=True)
    middle = seen[first] + SCENE_FRAMES // (2 * TARGET_EVERY)
    middle = middle[middle < data.n_windows]
    middle = middle[~np.isin(data.group[middle], held_out)]
    chosen = middle[:: max(1, len(middle) // N_REFERENCES)]
    patches = data.targets_of(chosen).mean(axis=1)
    lines = [
        {"frame": f"scene {group}", "caption": caption(scenes[group].facts, group)}
        for group in data.group[chosen].tolist()
    ]
    return patches, lines


def training_schedule(recipe: BundleRecipe) -> Schedule:
    """Lay the session out: the short movie, the long one, the short one again."""
    from simulation.cortex.schedule import allen_schedule

    repeated, long = session_movies(recipe)
    half = max(1, recipe.repeats // 2)
    return allen_schedule(repeated, [long], repeats=half, pulses_each=0, seed=recipe.seed)


def session_movies(recipe: BundleRecipe) -> tuple[SceneMovie, SceneMovie]:
    """Return the short movie that is repeated, and the long one."""
    from simulation.scenes.movie import random_movie

    repeated = random_movie(
        "natural_movie_one",
        seed=SESSION_REPEATED,
        n_scenes=REPEATED_SCENES,
        frames_per_scene=SCENE_FRAMES,
    )
    long = random_movie(
        "natural_movie_long",
        seed=SESSION_LONG,
        n_scenes=recipe.scenes,
        frames_per_scene=SCENE_FRAMES,
    )
    return repeated, long


def _shown(
    schedule: Schedule,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return start, stop, row of the targets (-1: none) and scene of every movie frame shown."""
    first_target: dict[str, int] = {}
    first_scene: dict[str, int] = {}
    n_targets = n_scenes = 0
    for movie in schedule.movies:
        first_target[movie.name], first_scene[movie.name] = n_targets, n_scenes
        n_targets += -(-movie.n_frames // TARGET_EVERY)
        n_scenes += -(-movie.n_frames // SCENE_FRAMES)
    columns: list[list[NDArray[np.int64]]] = [[], [], [], []]
    for block in schedule.blocks:
        if block.movie is None:
            continue
        target = first_target[block.movie.name] + block.frame // TARGET_EVERY
        values = (
            seconds_to_ns(block.start_s),
            seconds_to_ns(block.stop_s),
            np.where(block.frame % TARGET_EVERY == 0, target, -1),
            first_scene[block.movie.name] + block.frame // SCENE_FRAMES,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    start_ns, stop_ns, target, scene = (np.concatenate(column) for column in columns)
    return start_ns, stop_ns, target, scene
