"""Draws scenes: grey frames of 304 x 608, 30 a second, as the Allen movies are.

Drawn with Pillow at twice the size and averaged down, so that edges are soft and motion is finer
than a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from contracts.errors import MisuseError
from simulation.scenes.scene import FRAME_HZ, HEIGHT, SCENE_FRAMES, WIDTH, Actor, Scene
from simulation.scenes.shapes import parts_of

OVERSAMPLING = 2
HORIZON = 158
"""Line where the sky meets the ground, pixels from the top."""

ROAD_TOP = 222
PAN_ROOM = 60
"""Pixels of street drawn beyond each edge, for the camera to pan over."""

SHADOW = 0.4
"""Brightness that is left where the shadow falls."""

STEPS_HZ = 1.6
"""Strides, turns of a wheel and, doubled, wing beats in a second."""

TONES = {
    "day": {"sky": 214, "ground": 164, "road": 132, "mark": 196, "hill": 186},
    "night": {"sky": 22, "ground": 34, "road": 26, "mark": 50, "hill": 28},
}
THING_TONES = {
    "day": {"body": 46, "dark": 14, "light": 236, "glow": 252},
    "night": {"body": 104, "dark": 8, "light": 158, "glow": 255},
}
TONE_SPREAD = 34
"""Greys between the darkest and the brightest body of one light."""

HALO = 0.35
"""Brightness of the halo around what shines by night, as a share of its own."""


def render(scene: Scene, first: int = 0, stop: int = SCENE_FRAMES) -> NDArray[np.uint8]:
    """Draw frames of a scene, half open: shape (n_frames, 304, 608), uint8.

    Raises
    ------
    MisuseError
        If the scene has no such frames.
    """
    if not 0 <= first <= stop <= SCENE_FRAMES:
        raise MisuseError(f"a scene has frames 0 to {SCENE_FRAMES}, asked for {first} to {stop}")
    street = _street(scene)
    shadow = _shadow(scene) if scene.facts.light == "shadow" else None
    frames = np.empty((stop - first, HEIGHT, WIDTH), dtype=np.uint8)
    for row, frame in enumerate(range(first, stop)):
        frames[row] = _draw(scene, street, shadow, frame)
    return frames


def _draw(
    scene: Scene, street: Image.Image, shadow: NDArray[np.float32] | None, frame: int
) -> NDArray[np.uint8]:
    scale = OVERSAMPLING
    left = round((PAN_ROOM - scene.pan * frame) * scale)
    picture = street.crop((left, 0, left + WIDTH * scale, HEIGHT * scale))
    is_night = scene.facts.light == "night"
    glow = Image.new("L", (WIDTH // 4, HEIGHT // 4)) if is_night else None
    pen = ImageDraw.Draw(picture)
    halo = ImageDraw.Draw(glow) if glow is not None else None
    for actor in scene.actors:
        _draw_actor(pen, halo, actor, frame, is_night=is_night)
    grey: NDArray[np.uint8] = np.asarray(picture.reduce(scale))
    if glow is not None:
        soft = glow.filter(ImageFilter.GaussianBlur(5)).resize((WIDTH, HEIGHT))
        shine: NDArray[np.uint8] = (np.asarray(soft) * HALO).astype(np.uint8)
        return np.maximum(grey, shine)
    if shadow is not None:
        grey = (grey * shadow).astype(np.uint8)
    return grey


def _draw_actor(
    pen: ImageDraw.ImageDraw,
    halo: ImageDraw.ImageDraw | None,
    actor: Actor,
    frame: int,
    *,
    is_night: bool,
) -> None:
    height = actor.height * (1 + actor.growth * frame / SCENE_FRAMES)
    x = actor.x + actor.speed * frame
    tones = dict(THING_TONES["night" if is_night else "day"])
    tones["body"] += round((actor.tone - 0.5) * TONE_SPREAD)
    beats = 2.0 if actor.kind == "bird" else 1.0
    phase = actor.phase + beats * STEPS_HZ * frame / FRAME_HZ
    for part in parts_of(actor.kind, actor.heading, phase):
        points = [(x + px * height, actor.feet - py * height) for px, py in part.points]
        _fill(pen, points, tones[part.tone], OVERSAMPLING)
        if halo is not None and part.tone == "glow":
            _fill(halo, points, 255, 0.25)


def _fill(
    pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], grey: int, scale: float
) -> None:
    scaled = [(px * scale, py * scale) for px, py in points]
    if len(scaled) > 2:
        pen.polygon(scaled, fill=grey)
        return
    (left, bottom), (right, top) = scaled
    pen.ellipse((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), fill=grey)


def _street(scene: Scene) -> Image.Image:
    """Draw the empty street, with room to pan at both sides."""
    scale = OVERSAMPLING
    tones = TONES["night" if scene.facts.light == "night" else "day"]
    rng = np.random.default_rng([scene.seed, 3])
    width = WIDTH + 2 * PAN_ROOM
    picture = Image.new("L", (width * scale, HEIGHT * scale), tones["ground"])
    pen = ImageDraw.Draw(picture)
    _fill(pen, _rectangle(0, 0, width, HORIZON), tones["sky"], scale)
    steps = np.arange(0, width + 40, 40)
    ridge = HORIZON - 6 - 10 * rng.random(len(steps))
    _fill(
        pen,
        [(0, HORIZON), *zip(steps.tolist(), ridge.tolist(), strict=True), (width + 40, HORIZON)],
        tones["hill"],
        scale,
    )
    _fill(pen, _rectangle(0, ROAD_TOP, width, HEIGHT), tones["road"], scale)
    _fill(pen, _rectangle(0, ROAD_TOP, width, ROAD_TOP + 4), tones["mark"], scale)
    offset = float(rng.random()) * 120
    for dash in range(-1, 8):
        left = offset + 120 * dash
        _fill(pen, _rectangle(left, 254, left + 56, 260), tones["mark"], scale)
    return picture


def _rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _shadow(scene: Scene) -> NDArray[np.float32]:
    """Return the factor on each pixel's grey: a slanting band over half of the street."""
    place, slant = scene.shadow
    left = WIDTH * (0.05 + 0.4 * place)
    lean = WIDTH * 0.3 * (slant - 0.5)
    mask = Image.new("L", (WIDTH * 2, HEIGHT * 2), 255)
    corners = [(left + lean, 0), (left + lean + WIDTH * 0.55, 0)]
    corners += [(left - lean + WIDTH * 0.55, HEIGHT), (left - lean, HEIGHT)]
    _fill(ImageDraw.Draw(mask), corners, round(255 * SHADOW), 2)
    return np.asarray(mask.reduce(2), dtype=np.float32) / np.float32(255)
