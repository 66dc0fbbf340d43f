"""Outlines of the things, as simple parts in a box of height 1. No picture here.

x runs to the right from the middle of the box, y upwards from the feet. What has a side is drawn
facing right. Each heading shows in a single frame: head lights or tail lights, a face or a
rucksack, the side that the snout is on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["body", "dark", "light", "glow"]
"""``body`` stands out from the street by day and by night; ``light`` is its bright detail, ``dark``
its dark one; ``glow`` shines by night."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Part:
    """One filled outline."""

    points: tuple[Point, ...]  # corners of a polygon, or of an oval's box when there are two
    tone: Tone


@dataclass(frozen=True, slots=True)
class ShapeSize:
    """Of a near thing on the screen, in pixels of a 304-line frame."""

    height: float
    side_width: float
    front_width: float


SIZES = {
    "car": ShapeSize(118, 238, 140),
    "pedestrian": ShapeSize(196, 82, 82),
    "cyclist": ShapeSize(186, 176, 82),
    "dog": ShapeSize(108, 168, 84),
    "bird": ShapeSize(92, 168, 168),
    "lamp": ShapeSize(250, 64, 64),
    "tree": ShapeSize(246, 156, 156),
    "building": ShapeSize(256, 186, 186),
}


def parts_of(kind: str, heading: str, phase: float) -> Sequence[Part]:
    """Return the parts of a thing from back to front, at a phase of its gait in cycles."""
    if heading == "left":
        return [Part(tuple((-x, y) for x, y in p.points), p.tone) for p in _SIDE[kind](phase)]
    if heading == "towards":
        return _FRONT[kind](phase)
    if heading == "away":
        return _BACK[kind](phase)
    return _SIDE[kind](phase)


def _poly(tone: Tone, *points: Point) -> Part:
    return Part(points, tone)


def _box(tone: Tone, left: float, bottom: float, right: float, top: float) -> Part:
    return Part(((left, bottom), (right, bottom), (right, top), (left, top)), tone)


def _oval(tone: Tone, x: float, y: float, rx: float, ry: float) -> Part:
    return Part(((x - rx, y - ry), (x + rx, y + ry)), tone)


def _bar(tone: Tone, start: Point, stop: Point, width: float) -> Part:
    """Return a straight limb."""
    along = (stop[0] - start[0], stop[1] - start[1])
    length = math.hypot(*along) or 1.0
    nx, ny = -along[1] / length * width / 2, along[0] / length * width / 2
    return _poly(
        tone,
        (start[0] + nx, start[1] + ny),
        (stop[0] + nx, stop[1] + ny),
        (stop[0] - nx, stop[1] - ny),
        (start[0] - nx, start[1] - ny),
    )


def _swing(phase: float) -> float:
    return math.sin(2 * math.pi * phase)


def _car_side(phase: float) -> list[Part]:
    parts = [
        _poly(
            "body",
            *((-1.0, 0.16), (1.0, 0.16), (1.0, 0.5), (0.56, 0.56), (0.3, 1.0)),
            *((-0.55, 1.0), (-0.82, 0.58), (-1.0, 0.52)),
        ),
        _poly("light", (0.42, 0.58), (0.24, 0.9), (-0.08, 0.9), (-0.08, 0.58)),
        _poly("light", (-0.18, 0.58), (-0.18, 0.9), (-0.5, 0.9), (-0.66, 0.58)),
        _oval("glow", 0.93, 0.4, 0.08, 0.1),
        _box("light", -1.0, 0.36, -0.92, 0.5),
    ]
    for x in (-0.58, 0.6):
        parts += [_oval("dark", x, 0.17, 0.2, 0.2), _oval("light", x, 0.17, 0.09, 0.09)]
        spoke = (0.17 * math.cos(-6.3 * phase), 0.17 * math.sin(-6.3 * phase))
        parts.append(_bar("dark", (x, 0.17), (x + spoke[0], 0.17 + spoke[1]), 0.05))
    return parts


def _car_hull() -> list[Part]:
    return [
        _box("dark", -0.52, 0.0, -0.32, 0.3),
        _box("dark", 0.32, 0.0, 0.52, 0.3),
        _poly(
            "body",
            *((-0.58, 0.12), (0.58, 0.12), (0.58, 0.55), (0.42, 0.6), (0.32, 1.0)),
            *((-0.32, 1.0), (-0.42, 0.6), (-0.58, 0.55)),
        ),
    ]


def _car_front(_: float) -> list[Part]:
    return [
        *_car_hull(),
        _poly("light", (-0.34, 0.62), (0.34, 0.62), (0.26, 0.93), (-0.26, 0.93)),
        _oval("glow", -0.4, 0.4, 0.15, 0.13),
        _oval("glow", 0.4, 0.4, 0.15, 0.13),
    ]


def _car_back(_: float) -> list[Part]:
    return [
        *_car_hull(),
        _poly("dark", (-0.3, 0.68), (0.3, 0.68), (0.24, 0.92), (-0.24, 0.92)),
        _box("light", -0.56, 0.42, -0.46, 0.56),
        _box("light", 0.46, 0.42, 0.56, 0.56),
        _box("light", -0.2, 0.2, 0.2, 0.36),
    ]


def _pedestrian_side(phase: float) -> list[Part]:
    swing = 0.15 * _swing(phase)
    return [
        _bar("dark", (0.0, 0.48), (-swing, 0.0), 0.085),
        _bar("body", (0.0, 0.48), (swing, 0.0), 0.085),
        _poly("body", (-0.1, 0.45), (0.1, 0.45), (0.09, 0.82), (-0.09, 0.82)),
        _bar("light", (0.0, 0.76), (0.16 - swing, 0.52), 0.055),
        _oval("body", 0.02, 0.91, 0.085, 0.09),
        _poly("body", (0.08, 0.95), (0.21, 0.9), (0.08, 0.87)),
        _box("light", -0.07, 0.95, 0.13, 1.0),
    ]


def _pedestrian_legs(phase: float) -> list[Part]:
    lift = 0.05 * _swing(phase)
    return [
        _box("body", -0.11, max(0.0, lift), -0.02, 0.5),
        _box("body", 0.02, max(0.0, -lift), 0.11, 0.5),
        _poly("body", (-0.17, 0.45), (0.17, 0.45), (0.17, 0.8), (-0.17, 0.8)),
    ]


def _pedestrian_front(phase: float) -> list[Part]:
    return [
        *_pedestrian_legs(phase),
        _poly("light", (-0.07, 0.8), (0.07, 0.8), (0.0, 0.5)),
        _oval("body", 0.0, 0.91, 0.1, 0.1),
        _oval("light", 0.0, 0.895, 0.08, 0.08),
        _oval("dark", -0.035, 0.91, 0.018, 0.018),
        _oval("dark", 0.035, 0.91, 0.018, 0.018),
    ]


def _pedestrian_back(phase: float) -> list[Part]:
    return [
        *_pedestrian_legs(phase),
        _box("light", -0.13, 0.5, 0.13, 0.77),
        _box("dark", -0.08, 0.54, 0.08, 0.62),
        _oval("body", 0.0, 0.91, 0.1, 0.1),
    ]


def _wheel(x: float, y: float, radius: float, phase: float) -> list[Part]:
    parts = [
        _oval("body", x, y, radius, radius),
        _oval("light", x, y, 0.74 * radius, 0.74 * radius),
    ]
    for turn in (0.0, 0.25):
        angle = 2 * math.pi * (turn - phase)
        dx, dy = radius * math.cos(angle), radius * math.sin(angle)
        parts.append(_bar("body", (x - dx, y - dy), (x + dx, y + dy), 0.025))
    return parts


def _cyclist_side(phase: float) -> list[Part]:
    swing = 0.07 * _swing(phase)
    return [
        *_wheel(-0.27, 0.21, 0.205, phase),
        *_wheel(0.27, 0.21, 0.205, phase),
        _bar("body", (-0.27, 0.21), (-0.1, 0.46), 0.035),
        _bar("body", (-0.1, 0.44), (0.22, 0.47), 0.035),
        _bar("body", (0.27, 0.21), (0.2, 0.54), 0.035),
        _bar("dark", (-0.11, 0.5), (0.02 + swing, 0.2), 0.06),
        _bar("body", (-0.11, 0.5), (0.02 - swing, 0.2), 0.06),
        _poly("body", (-0.2, 0.48), (-0.04, 0.46), (0.13, 0.78), (0.02, 0.83)),
        _bar("light", (0.08, 0.76), (0.23, 0.54), 0.05),
        _oval("body", 0.15, 0.9, 0.085, 0.09),
        _poly("light", (0.03, 0.93), (0.25, 0.93), (0.17, 1.0), (0.08, 1.0)),
        _oval("glow", 0.25, 0.53, 0.035, 0.035),
    ]


def _cyclist_hull(phase: float) -> list[Part]:
    lift = 0.05 * _swing(phase)
    return [
        _oval("dark", 0.0, 0.2, 0.055, 0.2),
        _bar("body", (-0.09, 0.52), (-0.1, 0.2 + lift), 0.06),
        _bar("body", (0.09, 0.52), (0.1, 0.2 - lift), 0.06),
        _bar("body", (-0.22, 0.53), (0.22, 0.53), 0.04),
        _poly("body", (-0.12, 0.46), (0.12, 0.46), (0.16, 0.8), (-0.16, 0.8)),
        _bar("body", (-0.15, 0.78), (-0.21, 0.53), 0.05),
        _bar("body", (0.15, 0.78), (0.21, 0.53), 0.05),
        _oval("body", 0.0, 0.9, 0.095, 0.1),
    ]


def _cyclist_front(phase: float) -> list[Part]:
    return [
        *_cyclist_hull(phase),
        _oval("light", 0.0, 0.87, 0.07, 0.06),
        _poly("light", (-0.1, 0.93), (0.1, 0.93), (0.05, 1.0), (-0.05, 1.0)),
        _oval("glow", 0.0, 0.48, 0.075, 0.065),
    ]


def _cyclist_back(phase: float) -> list[Part]:
    return [
        *_cyclist_hull(phase),
        _box("light", -0.1, 0.56, 0.1, 0.76),
        _box("dark", -0.06, 0.6, 0.06, 0.66),
        _box("light", -0.04, 0.38, 0.04, 0.43),
    ]


def _dog_side(phase: float) -> list[Part]:
    swing = 0.1 * _swing(phase)
    return [
        _bar("dark", (-0.42, 0.4), (-0.42 - swing, 0.0), 0.1),
        _bar("dark", (0.3, 0.4), (0.3 + swing, 0.0), 0.1),
        _bar("body", (-0.36, 0.4), (-0.36 + swing, 0.0), 0.1),
        _bar("body", (0.24, 0.4), (0.24 - swing, 0.0), 0.1),
        _oval("body", -0.05, 0.5, 0.5, 0.19),
        _bar("body", (-0.5, 0.55), (-0.7, 0.92), 0.07),
        _bar("body", (0.3, 0.55), (0.44, 0.8), 0.2),
        _oval("body", 0.47, 0.82, 0.17, 0.15),
        _poly("body", (0.55, 0.9), (0.78, 0.78), (0.76, 0.68), (0.52, 0.7)),
        _poly("dark", (0.34, 0.94), (0.44, 0.92), (0.34, 0.66)),
        _box("light", 0.28, 0.6, 0.42, 0.67),
        _oval("light", 0.53, 0.86, 0.025, 0.03),
    ]


def _dog_front(phase: float) -> list[Part]:
    lift = 0.06 * _swing(phase)
    return [
        _box("body", -0.2, max(0.0, lift), -0.06, 0.45),
        _box("body", 0.06, max(0.0, -lift), 0.2, 0.45),
        _oval("body", 0.0, 0.45, 0.25, 0.22),
        _poly("dark", (-0.3, 0.98), (-0.12, 0.95), (-0.26, 0.62)),
        _poly("dark", (0.3, 0.98), (0.12, 0.95), (0.26, 0.62)),
        _oval("body", 0.0, 0.78, 0.23, 0.22),
        _oval("light", 0.0, 0.68, 0.13, 0.11),
        _oval("dark", 0.0, 0.73, 0.05, 0.04),
        _oval("light", -0.1, 0.85, 0.04, 0.04),
        _oval("light", 0.1, 0.85, 0.04, 0.04),
    ]


def _dog_back(phase: float) -> list[Part]:
    lift = 0.06 * _swing(phase)
    return [
        _box("body", -0.24, max(0.0, lift), -0.08, 0.4),
        _box("body", 0.08, max(0.0, -lift), 0.24, 0.4),
        _oval("body", 0.0, 0.46, 0.3, 0.28),
        _bar("body", (0.0, 0.6), (0.06 + 0.1 * _swing(phase), 1.0), 0.08),
        _oval("light", 0.0, 0.36, 0.09, 0.12),
    ]


def _bird_side(phase: float) -> list[Part]:
    beat = 0.5 + 0.5 * _swing(phase)
    tip = 0.12 + 0.85 * beat
    return [
        _poly("dark", (-0.1, 0.45), (0.3, 0.48), (0.02, tip)),
        _oval("body", 0.0, 0.42, 0.5, 0.15),
        _poly("body", (-0.4, 0.42), (-0.9, 0.6), (-0.85, 0.36)),
        _oval("body", 0.5, 0.52, 0.17, 0.15),
        _poly("light", (0.63, 0.58), (0.9, 0.5), (0.63, 0.44)),
        _poly("body", (-0.25, 0.42), (0.25, 0.42), (-0.3, tip + 0.03)),
        _poly("light", (-0.12, 0.46), (0.1, 0.46), (-0.22, 0.46 + 0.6 * (tip - 0.43))),
    ]


def _lamp(_: float) -> list[Part]:
    return [
        _box("body", -0.06, 0.0, 0.06, 0.04),
        _box("body", -0.022, 0.0, 0.022, 0.84),
        _poly("body", (-0.07, 0.82), (0.07, 0.82), (0.11, 0.95), (-0.11, 0.95)),
        _oval("glow", 0.0, 0.885, 0.085, 0.055),
        _poly("body", (-0.12, 0.95), (0.12, 0.95), (0.0, 1.0)),
    ]


def _tree(phase: float) -> list[Part]:
    sway = 0.006 * _swing(phase)
    crown = [
        ("body", -0.17, 0.6, 0.15, 0.14),
        ("body", 0.17, 0.6, 0.15, 0.14),
        ("body", 0.0, 0.82, 0.19, 0.18),
        ("body", 0.0, 0.62, 0.2, 0.2),
        ("dark", -0.1, 0.56, 0.06, 0.05),
        ("dark", 0.12, 0.66, 0.06, 0.05),
        ("dark", -0.04, 0.84, 0.06, 0.05),
    ]
    ovals = [_oval(tone, x + sway, y, rx, ry) for tone, x, y, rx, ry in crown]  # type: ignore[arg-type]
    return [_poly("dark", (-0.06, 0.0), (0.06, 0.0), (0.035, 0.5), (-0.035, 0.5)), *ovals]


def _building(_: float) -> list[Part]:
    panes = [
        _box("glow" if (row + col) % 3 else "dark", x - 0.065, y, x + 0.065, y + 0.11)
        for row, y in enumerate((0.26, 0.45, 0.64, 0.8))
        for col, x in enumerate((-0.24, 0.0, 0.24))
    ]
    return [
        _box("body", -0.36, 0.0, 0.36, 0.95),
        _box("dark", -0.38, 0.95, 0.38, 1.0),
        _box("dark", -0.08, 0.0, 0.08, 0.18),
        *panes,
    ]


_SIDE: dict[str, Callable[[float], list[Part]]] = {
    "car": _car_side,
    "pedestrian": _pedestrian_side,
    "cyclist": _cyclist_side,
    "dog": _dog_side,
    "bird": _bird_side,
    "lamp": _lamp,
    "tree": _tree,
    "building": _building,
}
_FRONT = {
    "car": _car_front,
    "pedestrian": _pedestrian_front,
    "cyclist": _cyclist_front,
    "dog": _dog_front,
}
_BACK = {
    "car": _car_back,
    "pedestrian": _pedestrian_back,
    "cyclist": _cyclist_back,
    "dog": _dog_back,
}
