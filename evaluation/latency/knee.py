"""The knee of the curve: the fastest rate that the daemon keeps up with, by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_SHARE = 0.99
"""Of the windows that must be narrated."""

MAX_GROWTH = 2.0
"""Of the 95th percentile of the latency, against that at the lowest rate."""

RULE = (
    f"the largest rate at which, and at every lower rate, at least {MIN_SHARE:.0%} of the windows "
    f"are narrated and the 95th percentile of the whole latency is at most {MAX_GROWTH:g} times "
    "that at the lowest rate"
)


@dataclass(frozen=True, slots=True)
class Point:
    """What the rule needs of one rate.

    Attributes
    ----------
    rate : float
        Windows per second.
    share : float
        Of its windows that were narrated.
    p95_ms : float
        Of the whole latency.
    """

    rate: float
    share: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Knee:
    """Where the curve bends.

    Attributes
    ----------
    rate : float or None
        Windows per second; None if even the lowest rate is too fast.
    beyond : float or None
        The next rate that was tried; None if all of them were kept up with.
    why : str
        What breaks the rule there; empty if nothing does.
    """

    rate: float | None
    beyond: float | None
    why: str

    def sentence(self) -> str:
        """Say it."""
        if self.rate is None:
            return f"No knee: already at {self.beyond:g} windows/s {self.why}."
        if self.beyond is None:
            return f"No knee up to {self.rate:g} windows/s, the fastest rate that was tried."
        return f"Knee: {self.rate:g} windows/s. At {self.beyond:g}, {self.why}."

    def to_json(self) -> dict[str, Any]:
        """Return the knee with its rule."""
        return {**asdict(self), "rule": RULE, "sentence": self.sentence()}


def find_knee(points: Sequence[Point]) -> Knee:
    """Apply the rule.

    Parameters
    ----------
    points : sequence of Point
        One or more, in any order.

    Returns
    -------
    Knee

    Examples
    --------
    >>> find_knee([Point(1, 1.0, 50), Point(10, 1.0, 90), Point(20, 0.8, 200)]).rate
    10
    """
    ordered = sorted(points, key=lambda point: point.rate)
    most_ms = MAX_GROWTH * ordered[0].p95_ms
    kept: float | None = None
    for point in ordered:
        if why := _problem(point, most_ms):
            return Knee(kept, point.rate, why)
        kept = point.rate
    return Knee(kept, None, "")


def _problem(point: Point, most_ms: float) -> str:
    if point.share < MIN_SHARE:
        return f"only {point.share:.1%} of the windows are narrated"
    if point.p95_ms > most_ms:
        return f"the 95th percentile is {point.p95_ms:.0f} ms, more than {most_ms:.0f} ms"
    return ""
