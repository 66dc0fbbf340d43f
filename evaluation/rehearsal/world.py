"""An animal with one probe: its spikes as the truth, its voltages as a rig would record them."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, seconds_to_ns

if TYPE_CHECKING:
    from evaluation.narrations.scenes import ScoreWorld
    from simulation.cortex.schedule import Block, Schedule
    from simulation.cortex.units import CortexUnits
    from simulation.scenes.facts import Facts
    from simulation.scenes.movie import SceneMovie
    from simulation.voltages import PlantedUnits

AREAS_UP = ("LGd", "CA1", "VISp")
"""Along the shank from its tip, as for the probe of the simulated animal that goes through all."""

BLIND_SHARE = 0.1
"""Of the units that are in CA1, which does not see."""

LGD_SHARE = 0.3

GREY_S = 2.0
"""Before, between and after the movies; the recording is cut in the middle of the grey between."""

TRAIN_MOVIE, TEST_MOVIE = "natural_movie_long", "natural_movie_unseen"
N_JOBS = 2
"""Threads that write voltages: most of the time is noise, which is drawn beside each other."""

TEST_SCENE_FRAMES = 30
"""A second, as in `neurrate simulate score`."""


@dataclass(frozen=True, slots=True)
class RehearsalSizes:
    """How large a rehearsal is."""

    n_units: int
    n_channels: int
    train_scenes: int
    train_scene_frames: int  # Thirty a second: shorter scenes are more to learn from
    test_scenes: int
    training_epochs: int
    encoder_size: Literal["small", "tiny"]
    # Offline sorter; None takes the planted spikes in its place, as its compilation alone takes a
    # minute, and narrates from no offline sorting
    sorter: str | None


FULL = RehearsalSizes(
    n_units=48,
    n_channels=64,
    train_scenes=480,
    train_scene_frames=15,
    test_scenes=120,
    training_epochs=8,
    encoder_size="small",
    sorter="lupin",
)
QUICK = RehearsalSizes(
    n_units=10,
    n_channels=16,
    train_scenes=40,
    train_scene_frames=15,
    test_scenes=6,
    training_epochs=1,
    encoder_size="tiny",
    sorter=None,
)


@dataclass(frozen=True, slots=True, eq=False)
class RehearsalWorld:
    """What was made, and what is true of it.

    Attributes
    ----------
    session : Path
        NWB file with every true spike and the presentations of both movies.
    movies : Path
        Folder of the movies' frames.
    voltages, calibration, rest : Any
        Recordings of SpikeInterface: all, the minutes before the cut, and those after it.
    cut_s : float
        Session second at which the second begins.
    trains : list of array
        Samples of each unit, from the tip of the probe up.
    """

    session: Path
    movies: Path
    areas: Path
    presentations: Path
    voltages: Any
    calibration: Any
    rest: Any
    cut_s: float
    shown: ScoreWorld  # the test movie, and when its scenes were shown
    trains: list[NDArray[np.int64]]

    @property
    def facts(self) -> tuple[Facts, ...]:
        """What each test scene shows."""
        return self.shown.facts

    @property
    def rest_s(self) -> float:
        """Seconds after the cut."""
        return float(self.rest.get_total_duration())

    @property
    def scene_ns_after_cut(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and stop of the test scenes on the clock of the second recording."""
        cut_ns = round(self.cut_s * NS_PER_S)
        return self.shown.start_ns - cut_ns, self.shown.stop_ns - cut_ns


def make_rehearsal_world(folder: Path, sizes: RehearsalSizes, *, seed: int) -> RehearsalWorld:
    """Simulate the animal, write its session and its voltages."""
    from simulation.cortex.nwb import write_session
    from simulation.cortex.schedule import build_schedule
    from simulation.cortex.units import draw_units
    from simulation.nwb_file import SAMPLING_HZ
    from simulation.seeds import ANIMAL
    from simulation.voltages import plant_units

    planted = plant_units(sizes.n_units, sizes.n_channels, seed=seed)
    units = choose_units(draw_units(ANIMAL), sizes.n_units, seed=seed)
    train, test = _movies(sizes)
    grey = (GREY_S, None, 0)
    schedule = build_schedule([grey, (0.0, train, 1), grey, (0.0, test, 1), grey], seed=seed)
    truth = write_session(
        folder / "session.nwb",
        units=units,
        schedule=schedule,
        session_seed=seed,
        with_frames=True,
        progress=True,
    )
    bounds = truth.trains.bounds
    trains = np.split(truth.trains.samples, bounds[1:-1])
    n_samples = int(schedule.duration_s * SAMPLING_HZ)
    voltages = _voltages(folder, planted, trains, n_samples, seed)
    shown = _block(schedule, TEST_MOVIE)
    cut = round((float(shown.start_s[0]) - GREY_S / 2) * SAMPLING_HZ)
    return RehearsalWorld(
        session=truth.path,
        movies=truth.movies,
        areas=_write_areas(folder / "areas.csv", units, planted),
        presentations=_write_presentations(folder / "presentations.csv", schedule, train),
        voltages=voltages,
        calibration=voltages.frame_slice(0, cut),
        rest=voltages.frame_slice(cut, n_samples),
        cut_s=cut / SAMPLING_HZ,
        shown=_score_world(truth.path, test, shown),
        trains=trains,
    )


def choose_units(animal: CortexUnits, n_units: int, *, seed: int) -> CortexUnits:
    """Draw units of the areas that one probe goes through, from the tip up."""
    rng = np.random.default_rng([seed, 41])
    n_blind, n_lgd = (max(1, round(share * n_units)) for share in (BLIND_SHARE, LGD_SHARE))
    numbers = {"CA1": n_blind, "LGd": n_lgd, "VISp": n_units - n_blind - n_lgd}
    is_good = animal.quality == "good"
    rows = np.concatenate(
        [
            rng.choice(np.flatnonzero((animal.area == area) & is_good), numbers[area], False)
            for area in AREAS_UP
        ]
    )
    arrays = {
        field.name: getattr(animal, field.name)[rows]
        for field in fields(animal)
        if field.name != "seed"
    }
    return replace(animal, **arrays)


def _movies(sizes: RehearsalSizes) -> tuple[SceneMovie, SceneMovie]:
    from simulation.scenes.movie import random_movie
    from simulation.seeds import SESSION_LONG, UNSEEN_SCORE

    return (
        random_movie(
            TRAIN_MOVIE,
            seed=SESSION_LONG,
            n_scenes=sizes.train_scenes,
            frames_per_scene=sizes.train_scene_frames,
        ),
        random_movie(
            TEST_MOVIE,
            seed=UNSEEN_SCORE,
            n_scenes=sizes.test_scenes,
            frames_per_scene=TEST_SCENE_FRAMES,
        ),
    )


def _voltages(
    folder: Path,
    planted: PlantedUnits,
    trains: list[NDArray[np.int64]],
    n_samples: int,
    seed: int,
) -> Any:
    """Write the recording, and return it."""
    from simulation.voltages import save_voltages, voltage_recording

    lazy = voltage_recording(planted, trains, n_samples, seed=seed)
    return save_voltages(lazy, folder / "voltages", n_jobs=N_JOBS)


def _block(schedule: Schedule, movie: str) -> Block:
    return next(block for block in schedule.blocks if block.stimulus == movie)


def _score_world(session: Path, movie: SceneMovie, block: Block) -> ScoreWorld:
    from evaluation.narrations.scenes import ScoreWorld

    start_ns, stop_ns = seconds_to_ns(block.start_s), seconds_to_ns(block.stop_s)
    length = movie.frames_per_scene
    return ScoreWorld(session, movie, start_ns[::length], stop_ns[length - 1 :: length], start_ns)


def _write_areas(path: Path, units: CortexUnits, planted: PlantedUnits) -> Path:
    """Write a file of areas by depth, cut half way between units of two areas."""
    depths = planted.positions_um[:, 1]
    edges = [-1000.0]
    for below, above in pairwise(AREAS_UP):
        middle = (depths[units.area == below].max() + depths[units.area == above].min()) / 2
        edges.append(float(middle))
    edges.append(100_000.0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("depth_from", "depth_to", "area"))
        writer.writerows(zip(edges, edges[1:], AREAS_UP, strict=False))
    return path


def _write_presentations(path: Path, schedule: Schedule, movie: SceneMovie) -> Path:
    """Write what the stimulus program would: when each frame was shown, with its caption."""
    from simulation.cortex.movie_files import frame_captions

    block = _block(schedule, movie.name)
    captions = frame_captions(movie)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("start_time", "stop_time", "movie", "frame", "caption"))
        for start, stop, frame in zip(block.start_s, block.stop_s, block.frame, strict=True):
            row = (repr(float(start)), repr(float(stop)), movie.name, int(frame))
            writer.writerow((*row, captions[int(frame)]))
    return path
