"""A scene: facts, and where everything stands and how it moves. Values only, no picture.

The random layout is drawn from the seed alone and then fitted to the facts, so that two scenes of
one seed whose facts differ in one feature look the same but for that feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulation.scenes.facts import (
    KINDS,
    LIGHTS,
    MAX_COUNT,
    Distance,
    Facts,
    Light,
    Thing,
    headings_of,
)
from simulation.scenes.shapes import SIZES

HEIGHT, WIDTH = 304, 608
"""Of a frame, as the movies of the Allen Brain Observatory."""

FRAME_HZ = 30
SCENE_FRAMES = 60
"""Frames for which a scene can run with all its things on the screen: two seconds."""

FAR_SCALE = 0.6
NEAR_FEET, FAR_FEET = 294.0, 208.0
"""Line of the feet, pixels from the top: near things stand lower."""

NEAR_SKY, FAR_SKY = 118.0, 88.0
"""The same for a bird: its lower edge."""

MARGIN = 8.0
"""Pixels kept free at the left and right edge."""

GAP = 1.08
"""Between the middles of two of a kind, in widths."""

APPROACH = 0.22
"""Share by which a thing grows or shrinks in a scene as it comes or goes."""

MIN_VISIBLE = 0.6
"""Share of a thing that nothing else may cover."""

SUBJECT_WEIGHTS = (0.18, 0.18, 0.18, 0.18, 0.10, 0.06, 0.06, 0.06)
SECOND_KINDS = ("bird", "lamp", "tree", "building")
SECOND_SHARE = 0.6
"""Together they put each kind into about a fifth of all scenes."""

LIGHT_WEIGHTS = (0.4, 0.3, 0.3)


@dataclass(frozen=True, slots=True)
class Actor:
    """One thing on the screen."""

    kind: str
    heading: str
    x: float  # middle at the first frame, pixels from the left
    feet: float  # lower edge at the first frame, pixels from the top
    height: float  # at the first frame, pixels
    speed: float  # pixels to the right in each frame, the camera's pan included
    growth: float  # share of its height by which it grows in `SCENE_FRAMES` frames
    phase: float  # of its gait at the first frame, cycles
    tone: float  # 0 to 1: how far its own grey lies from the usual one

    def width(self) -> float:
        """Return its width at the first frame, pixels."""
        size = SIZES[self.kind]
        is_side = self.heading in {"left", "right", ""}
        return self.height / size.height * (size.side_width if is_side else size.front_width)


@dataclass(frozen=True, slots=True)
class Scene:
    """Two seconds of street."""

    seed: int
    facts: Facts
    actors: tuple[Actor, ...]  # from back to front
    pan: float  # pixels by which the street moves to the right in each frame
    shadow: tuple[float, float]  # left edge and slant, shares of the width; used in shadow light


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is drawn from the seed, whatever the facts are; shares from 0 to 1."""

    places: tuple[float, float]
    paces: tuple[float, float]
    phases: tuple[float, ...]
    tones: tuple[float, float]
    pan: float
    shadow: tuple[float, float]


def random_scene(seed: int) -> Scene:
    """Draw facts and a layout; the same seed gives the same scene."""
    rng = np.random.default_rng([seed, 1])
    while True:
        scene = scene_of(random_facts(rng), seed)
        if all_visible(scene):
            return scene


def scene_of(facts: Facts, seed: int) -> Scene:
    """Lay out these facts, with everything else from the seed; things may hide each other."""
    layout = _draw_layout(seed)
    pan = 0.0 if layout.pan < 0.5 else (layout.pan - 0.75) * 3.2
    groups: list[list[Actor]] = []
    for number, thing in enumerate(facts.things):
        options = [
            _group(thing, number, (layout.places[number] + shift / 9) % 1.0, layout, pan)
            for shift in range(9 if number else 1)
        ]
        groups.append(max(options, key=lambda each: _least_visible([*groups, each])))
    actors = sorted(
        (actor for group in groups for actor in group),
        key=lambda actor: (actor.kind == "bird", actor.feet, -KINDS.index(actor.kind)),
    )
    return Scene(seed, facts, tuple(actors), pan, layout.shadow)


def all_visible(scene: Scene) -> bool:
    """Whether every thing can be seen well in every frame."""
    return _least_visible([list(scene.actors)]) >= MIN_VISIBLE


def random_facts(rng: np.random.Generator) -> Facts:
    """Draw a light, a subject and perhaps a second thing."""
    kinds = {str(rng.choice(KINDS, p=SUBJECT_WEIGHTS))}
    if rng.random() < SECOND_SHARE:
        kinds.add(str(rng.choice(SECOND_KINDS)))
    things = [_random_thing(rng, kind) for kind in sorted(kinds, key=KINDS.index)]
    light: Light = LIGHTS[rng.choice(len(LIGHTS), p=LIGHT_WEIGHTS)]
    return Facts(light, (things[0], *(Thing(t.kind, 1, t.heading, t.distance) for t in things[1:])))


def _random_thing(rng: np.random.Generator, kind: str) -> Thing:
    distance: Distance = "near" if rng.random() < 0.5 else "far"
    headings = headings_of(kind)
    return Thing(
        kind, int(rng.integers(1, MAX_COUNT + 1)), headings[rng.integers(len(headings))], distance
    )


def _draw_layout(seed: int) -> _Layout:
    rng = np.random.default_rng([seed, 2])
    shares = rng.random(12).tolist()
    return _Layout(
        places=(shares[0], shares[1]),
        paces=(shares[2], shares[3]),
        phases=tuple(shares[4:7]),
        tones=(shares[7], shares[8]),
        pan=shares[9],
        shadow=(shares[10], shares[11]),
    )


def _group(thing: Thing, number: int, place: float, layout: _Layout, pan: float) -> list[Actor]:
    """Put one kind of thing on the screen so that it stays there."""
    height = SIZES[thing.kind].height * (1.0 if thing.distance == "near" else FAR_SCALE)
    growth = {"towards": APPROACH, "away": -APPROACH}.get(thing.heading, 0.0)
    probe = Actor(thing.kind, thing.heading, 0, 0, height, 0, growth, 0, 0)
    width = probe.width() * (1 + max(growth, 0.0))
    span = width * (1 + GAP * (thing.count - 1))
    fit = min(1.0, (WIDTH - 2 * MARGIN) / span)
    height, width, span = height * fit, width * fit, span * fit
    room = WIDTH - 2 * MARGIN - span
    speed = _speed(thing, layout.paces[number]) + pan
    travel = float(np.clip(speed * SCENE_FRAMES, -room, room))
    first = MARGIN + width / 2 + max(-travel, 0.0) + place * (room - abs(travel))
    return [
        Actor(
            kind=thing.kind,
            heading=thing.heading,
            x=first + GAP * width * index,
            feet=_feet(thing),
            height=height,
            speed=travel / SCENE_FRAMES,
            growth=growth,
            phase=layout.phases[index],
            tone=layout.tones[number],
        )
        for index in range(thing.count)
    ]


def _speed(thing: Thing, pace: float) -> float:
    """Return pixels in a frame, to the right."""
    sign = {"right": 1.0, "left": -1.0}.get(thing.heading, 0.0)
    return sign * (1.2 + 1.8 * pace) * (1.0 if thing.distance == "near" else 0.7)


def _feet(thing: Thing) -> float:
    is_near = thing.distance == "near"
    if thing.kind == "bird":
        return NEAR_SKY if is_near else FAR_SKY
    return NEAR_FEET if is_near else FAR_FEET


def _least_visible(groups: list[list[Actor]]) -> float:
    """Return the share of the worst covered actor that is free, at the first and last frame."""
    actors = [actor for group in groups for actor in group]
    least = 1.0
    for frame in (0, SCENE_FRAMES - 1):
        boxes = [actor_box(actor, frame) for actor in actors]
        for one, box in enumerate(boxes):
            covered = sum(
                _overlap(box, other)
                for two, other in enumerate(boxes)
                if two != one and actors[two].kind != actors[one].kind
            )
            least = min(least, 1.0 - covered / ((box[2] - box[0]) * (box[3] - box[1])))
    return least


def actor_box(actor: Actor, frame: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of an actor in a frame, pixels."""
    scale = 1 + actor.growth * frame / SCENE_FRAMES
    x, half = actor.x + actor.speed * frame, actor.width() * scale / 2
    return (x - half, actor.feet - actor.height * scale, x + half, actor.feet)


def _overlap(
    one: tuple[float, float, float, float], two: tuple[float, float, float, float]
) -> float:
    across = min(one[2], two[2]) - max(one[0], two[0])
    down = min(one[3], two[3]) - max(one[1], two[1])
    return max(across, 0.0) * max(down, 0.0)
