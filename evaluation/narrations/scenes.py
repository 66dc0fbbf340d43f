"""The scenes of a score: shown to the simulated animal, written as a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.clock import seconds_to_ns
from contracts.errors import UserError, listed
from simulation.cortex.days import TRAINING_SCENE_FRAMES as SCENE_FRAMES

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.window import WindowSpec
    from simulation.cortex.drive import ResponseModel
    from simulation.cortex.units import CortexUnits
    from simulation.scenes.facts import Facts
    from simulation.scenes.movie import SceneMovie
    from simulation.scenes.scene import Scene


@dataclass(frozen=True, slots=True, eq=False)
class ScoreWorld:
    """Scenes, and the recording of an animal that watched them."""

    recording: Path  # NWB file
    movie: SceneMovie
    # (n_scenes,), session nanoseconds: when each scene was on the screen
    start_ns: NDArray[np.int64]
    stop_ns: NDArray[np.int64]
    frame_start_ns: NDArray[np.int64]  # (n_frames,): the same of every frame of the movie

    @property
    def facts(self) -> tuple[Facts, ...]:
        """Facts of every scene."""
        return tuple(scene.facts for scene in self.movie.scenes)

    def frame_at(self, session_ns: int) -> NDArray[np.uint8]:
        """Return the frame on the screen at a time, shape (304, 608), uint8."""
        number = int(np.searchsorted(self.frame_start_ns, session_ns, side="right")) - 1
        frame: NDArray[np.uint8] = self.movie.frames(number, number + 1)[0]
        return frame

    def window_spec(self, spec: WindowSpec) -> WindowSpec:
        """Return the bundle's window with the longest stride that misses no scene."""
        from evaluation.narrations.windows import with_stride

        return with_stride(spec, int((self.stop_ns - self.start_ns).min()))


def make_world(
    recording: Path,
    scenes: Sequence[Scene],
    *,
    units: CortexUnits,
    response: ResponseModel,
    session_seed: int,
) -> ScoreWorld:
    """Show scenes to a simulated animal and record its spikes.

    Scenes are shown once, in their order. `session_seed` is of noise, spikes, and the frames that
    the display drops.
    """
    from simulation.cortex.nwb import write_session
    from simulation.cortex.schedule import movie_schedule
    from simulation.scenes.movie import SceneMovie

    movie = SceneMovie("natural_movie_unseen", tuple(scenes), SCENE_FRAMES)
    schedule = movie_schedule(movie, seed=session_seed)
    write_session(
        recording,
        units=units,
        schedule=schedule,
        session_seed=session_seed,
        with_frames=False,
        progress=True,
        response=response,
    )
    (shown,) = (block for block in schedule.blocks if block.movie is not None)
    frame_start_ns, frame_stop_ns = seconds_to_ns(shown.start_s), seconds_to_ns(shown.stop_s)
    return ScoreWorld(
        recording=recording,
        movie=movie,
        start_ns=frame_start_ns[::SCENE_FRAMES],
        stop_ns=frame_stop_ns[SCENE_FRAMES - 1 :: SCENE_FRAMES],
        frame_start_ns=frame_start_ns,
    )


def check_animal(manifest: Manifest, units: CortexUnits) -> None:
    """Refuse a bundle of other units than an animal's before the long work.

    Raises
    ------
    UserError
        With those units.
    """
    keys = set(zip(units.probe.tolist(), map(str, units.unit_id), strict=True))
    others = [unit.label for unit in manifest.population.units if unit.key not in keys]
    if others:
        raise UserError(
            f"only a bundle of the simulated animal can be scored, and {len(others)} units of "
            f"{manifest.folder} are not its units: unit_id {listed(others)}. Make one "
            "with 'neurrate bundle simulated'."
        )
