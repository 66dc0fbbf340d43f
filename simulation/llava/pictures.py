"""Training pictures of the tiny LLaVA: frames as its processor resizes them, and their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contracts.errors import MisuseError
from contracts.progress import ProgressBar
from simulation.llava.sizes import PATCHES, SIDE
from simulation.scenes.facts import DISTANCES, KINDS, LIGHTS, Facts
from simulation.scenes.render import render
from simulation.scenes.scene import HEIGHT, SCENE_FRAMES, WIDTH, Scene, actor_box, random_scene
from simulation.seeds import scene_seed

HEADINGS = ("", "left", "right", "towards", "away")
STREET = len(KINDS)
"""Label of a patch on which nothing stands."""

IGNORED = -100
"""Label that no loss is taken of."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Frames of random scenes and their labels.

    Attributes
    ----------
    pixels : array, shape (n, SIDE, SIDE), uint8
        Grey, resized as the processor does.
    patch_kind, patch_heading, patch_distance : array, shape (n, 64), int64
        What stands on each patch: index into `KINDS`, or `STREET`; index into `HEADINGS` and into
        `DISTANCES`, or `IGNORED`.
    """

    pixels: NDArray[np.uint8]
    facts: tuple[Facts, ...]
    patch_kind: NDArray[np.int64]
    patch_heading: NDArray[np.int64]
    patch_distance: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.facts)


@dataclass(frozen=True, slots=True, eq=False)
class FactLabels:
    """Facts as numbers, one row for each picture."""

    kinds: NDArray[np.float32]  # shape (n, 8), 1 where the kind is in the picture
    subject: NDArray[np.int64]  # shape (n,), indices from 0, as are the others
    count: NDArray[np.int64]
    heading: NDArray[np.int64]
    distance: NDArray[np.int64]
    light: NDArray[np.int64]


def draw_pictures(movie_seed: int, n_scenes: int, *, frames_per_scene: int = 1) -> Pictures:
    """Draw random scenes and take some frames of each, at random.

    Raises
    ------
    MisuseError
        If there are no scenes.
    """
    if n_scenes < 1:
        raise MisuseError(f"pictures need one scene or more, got {n_scenes}")
    n = n_scenes * frames_per_scene
    pixels = np.empty((n, SIDE, SIDE), np.uint8)
    labels = np.empty((3, n, PATCHES**2), np.int64)
    facts: list[Facts] = []
    rng = np.random.default_rng([movie_seed, 6])
    for number in ProgressBar(range(n_scenes), desc="pictures", unit="scene"):
        scene = random_scene(scene_seed(movie_seed, number))
        for frame in rng.integers(SCENE_FRAMES, size=frames_per_scene).tolist():
            row = len(facts)
            pixels[row] = squash(render(scene, frame, frame + 1)[0])
            labels[:, row] = patch_labels(scene, frame)
            facts.append(scene.facts)
    return Pictures(pixels, tuple(facts), *labels)


def squash(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a frame to the square that the vision tower takes, as the processor does."""
    picture = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.array(picture)


def patch_labels(scene: Scene, frame: int) -> NDArray[np.int64]:
    """Return what stands on each patch: the front-most thing whose box covers its middle.

    Shape (3, 64), int64: kind, heading and distance, as in `Pictures`.
    """
    labels = np.full((3, PATCHES, PATCHES), IGNORED)
    labels[0] = STREET
    things = {thing.kind: thing for thing in scene.facts.things}
    rows = (np.arange(PATCHES) + 0.5) * HEIGHT / PATCHES
    cols = (np.arange(PATCHES) + 0.5) * WIDTH / PATCHES
    for actor in scene.actors:
        left, top, right, bottom = actor_box(actor, frame)
        # A thing narrower than a patch stands on the patch of its own middle.
        nearest_row = np.abs(rows - (top + bottom) / 2).argmin()
        nearest_col = np.abs(cols - (left + right) / 2).argmin()
        down = (rows >= top) & (rows < bottom)
        across = (cols >= left) & (cols < right)
        down[nearest_row] = across[nearest_col] = True
        distance = DISTANCES.index(things[actor.kind].distance)
        values = (KINDS.index(actor.kind), HEADINGS.index(actor.heading), distance)
        for plane, value in enumerate(values):
            labels[plane][np.ix_(down, across)] = value
    return labels.reshape(3, -1)


def fact_labels(facts: tuple[Facts, ...]) -> FactLabels:
    """Return facts as numbers."""
    subjects = [shown.subject for shown in facts]
    return FactLabels(
        kinds=np.array([[kind in shown.kinds for kind in KINDS] for shown in facts], np.float32),
        subject=np.array([KINDS.index(subject.kind) for subject in subjects]),
        count=np.array([subject.count - 1 for subject in subjects]),
        heading=np.array([HEADINGS.index(subject.heading) for subject in subjects]),
        distance=np.array([DISTANCES.index(subject.distance) for subject in subjects]),
        light=np.array([LIGHTS.index(shown.light) for shown in facts]),
    )
