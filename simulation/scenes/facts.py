"""What is true of a frame: the ground truth that narrations are scored against."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

from contracts.errors import MisuseError

Light = Literal["day", "shadow", "night"]
Distance = Literal["near", "far"]
Heading = Literal["left", "right", "towards", "away", ""]

LIGHTS: tuple[Light, ...] = get_args(Light)
DISTANCES: tuple[Distance, ...] = get_args(Distance)

MOVERS = ("car", "pedestrian", "cyclist", "dog", "bird")
STILLS = ("lamp", "tree", "building")
KINDS = MOVERS + STILLS
"""In the order in which a scene's things are named: what moves on the ground comes first."""

MAX_COUNT = 3


@dataclass(frozen=True, slots=True)
class Thing:
    """One kind of thing in a frame."""

    kind: str
    count: int
    heading: Heading  # which way they face and go; empty for what stands still
    distance: Distance

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not 1 <= self.count <= MAX_COUNT:
            raise MisuseError(f"a thing is 1 to {MAX_COUNT} of {', '.join(KINDS)}, got {self}")
        if self.heading not in headings_of(self.kind) or self.distance not in DISTANCES:
            raise MisuseError(f"a {self.kind} cannot have this heading or distance: {self}")


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a frame shows and a caption may mention."""

    light: Light
    things: tuple[Thing, ...]  # one or two kinds in the order of `KINDS`; the first is the subject

    def __post_init__(self) -> None:
        order = [KINDS.index(thing.kind) for thing in self.things]
        if self.light not in LIGHTS or not 1 <= len(order) <= 2 or order != sorted(set(order)):
            raise MisuseError(f"facts hold a light and one or two kinds in order, got {self}")

    @property
    def subject(self) -> Thing:
        """What the sentence is about."""
        return self.things[0]

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of things there are."""
        return frozenset(thing.kind for thing in self.things)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as `from_json` reads them."""
        return {"light": self.light, "things": [asdict(thing) for thing in self.things]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        """Read what `to_json` wrote."""
        return cls(values["light"], tuple(Thing(**thing) for thing in values["things"]))


def headings_of(kind: str) -> tuple[Heading, ...]:
    """Return the headings that are visible in a single frame.

    A bird is seen from the side alone: small and in the sky, its front and back look the same.
    """
    if kind in STILLS:
        return ("",)
    if kind == "bird":
        return ("left", "right")
    return cast("tuple[Heading, ...]", ("left", "right", "towards", "away"))
