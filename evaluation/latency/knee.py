"""The knee: the fastest rate that the daemon sustains, by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_SHARE = 0.99  # Least share of the windows that must be narrated
MAX_GROWTH = 2.0  # Largest ratio of the 95th percentile of the latency to that at the lowest rate

RULE = (
    f"the largest rate at which, and at every lower rate, at least {MIN_SHARE:.0%} of the windows "
    f"are narrated and the 95th percentile of the whole latency is at most {MAX_GROWTH:g} times "
    "that at the lowest rate"
)


@dataclass(frozen=True, slots=True)
class Point:
    """The result at one rate that the rule looks at."""

    rate: float  # Windows per second
    share: float  # Of the windows that were narrated, from 0 to 1
    p95_ms: float  # Of the total latency


@dataclass(frozen=True, slots=True)
class Knee:
    """The fastest rate that is sustained, and the next one."""

    rate: float | None  # Windows per second; None if even the lowest rate is not sustained
    beyond: float | None  # The next rate that was tried; None if all were sustained
    why: str  # Which part of the rule fails there; empty if none does

    def sentence(self) -> str:
        """Return the knee in one sentence."""
        if self.rate is None:
            return f"No knee: already at {self.beyond:g} windows/s {self.why}."
        if self.beyond is None:
            return f"No knee up to {self.rate:g} windows/s, the fastest rate that was tried."
        return f"Knee: {self.rate:g} windows/s. At {self.beyond:g}, {self.why}."

    def to_json(self) -> dict[str, Any]:
        """Return the knee with its rule."""
        return {**asdict(self), "rule": RULE, "sentence": self.sentence()}


def find_knee(points: Sequence[Point]) -> Knee:
    """Apply the rule to one point or more, in any order.

    >>> find_knee([Point(1, 1.0, 50), Point(10, 1.0, 90), Point(20, 0.8, 200)]).rate
    10
    """
    ordered = sorted(points, key=lambda point: point.rate)
    limit_ms = MAX_GROWTH * ordered[0].p95_ms
    sustained: float | None = None
    for point in ordered:
        if why := _problem(point, limit_ms):
            return Knee(sustained, point.rate, why)
        sustained = point.rate
    return Knee(sustained, None, "")


def _problem(point: Point, limit_ms: float) -> str:
    if point.share < MIN_SHARE:
        return f"only {point.share:.1%} of the windows are narrated"
    if point.p95_ms > limit_ms:
        return f"the 95th percentile is {point.p95_ms:.0f} ms, more than {limit_ms:.0f} ms"
    return ""
