"""Scenes one after another, as a movie with the facts of every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import MisuseError
from simulation.scenes.facts import Facts
from simulation.scenes.render import render
from simulation.scenes.scene import HEIGHT, SCENE_FRAMES, WIDTH, Scene, random_scene
from simulation.seeds import scene_seed


@dataclass(frozen=True, slots=True)
class SceneMovie:
    """Scenes of equal length, cut hard."""

    name: str
    scenes: tuple[Scene, ...]
    frames_per_scene: int = SCENE_FRAMES

    def __post_init__(self) -> None:
        if not self.scenes or not 1 <= self.frames_per_scene <= SCENE_FRAMES:
            raise MisuseError(
                f"a movie needs scenes of 1 to {SCENE_FRAMES} frames, got {len(self.scenes)} "
                f"scenes of {self.frames_per_scene}"
            )

    @property
    def n_frames(self) -> int:
        """Length, frames."""
        return len(self.scenes) * self.frames_per_scene

    def scene_of(self, frame: int) -> int:
        """Return the number of the scene that a frame belongs to."""
        return frame // self.frames_per_scene

    def facts(self, frame: int) -> Facts:
        """Return what is true of a frame."""
        return self.scenes[self.scene_of(frame)].facts

    def frames(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Draw frames, half open: shape (n_frames, 304, 608), uint8."""
        frames = np.empty((stop - first, HEIGHT, WIDTH), dtype=np.uint8)
        at = first
        while at < stop:
            number = self.scene_of(at)
            start = number * self.frames_per_scene
            end = min(stop, start + self.frames_per_scene)
            frames[at - first : end - first] = render(self.scenes[number], at - start, end - start)
            at = end
        return frames


def random_movie(
    name: str, *, seed: int, n_scenes: int, frames_per_scene: int = SCENE_FRAMES
) -> SceneMovie:
    """Draw a movie of random scenes; movies of different seeds share none."""
    scenes = tuple(random_scene(scene_seed(seed, number)) for number in range(n_scenes))
    return SceneMovie(name, scenes, frames_per_scene)
