"""Whether the sorter keeps up: how long blocks take, and how far it is behind the probe."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, Clock
from contracts.errors import UserError

WHEN_BEHIND = ("wait", "nearest", "drop")
"""What to do when the sorter is behind: sort everything, late; take the cheapest method until it
has caught up; or skip blocks until then, and state the gaps."""

BEHIND_S = 0.5
"""So far behind counts as falling behind. Below the second after which a daemon looks for it."""

N_RECENT = 600
"""Blocks in the percentiles: a minute of blocks of 100 ms."""


def check_when_behind(policy: str, method: str, speed: float | None) -> None:
    """Refuse a policy that there is not, or that would do nothing.

    Raises
    ------
    UserError
        With those that there are.
    """
    if policy not in WHEN_BEHIND:
        raise UserError(f"--when-behind must be one of {', '.join(WHEN_BEHIND)}, got {policy!r}.")
    if policy == "nearest" and method == "nearest":
        raise UserError("--when-behind nearest needs another --method: nearest is the cheapest.")
    if policy != "wait" and speed is None:
        raise UserError(
            f"--when-behind {policy} needs a pace, and at --speed max nothing falls behind. Use "
            "--when-behind wait."
        )


class LoadFigures(NamedTuple):
    """Of recent blocks.

    Attributes
    ----------
    real_time_factor_p50, real_time_factor_p99 : float
        Processing time of a block over its duration. Above 1 the sorter cannot keep up.
    behind_s : float
        Recorded seconds that have come and are not sorted.
    """

    real_time_factor_p50: float
    real_time_factor_p99: float
    behind_s: float


@dataclass(slots=True)
class _Reference:
    """A moment at which nothing waited to be sorted."""

    host_ns: int
    session_s: float


class SorterLoad:
    """Follows one source.

    A source yields None when nothing more has come. That moment is the reference: since then the
    probe has gone on at its pace, and what is not yet taken is what the sorter is behind. The two
    clocks need not agree for longer than that.

    Parameters
    ----------
    pace : float or None
        Recorded seconds per second; None for a source that waits, so that nothing is ever behind.
    """

    def __init__(self, clock: Clock, pace: float | None) -> None:
        self._clock = clock
        self._pace = pace
        self._factors: deque[float] = deque(maxlen=N_RECENT)
        self._reference: _Reference | None = None
        self._session_s = 0.0
        self.busy_s = 0.0
        self.sorted_s = 0.0
        self.max_behind_s = 0.0

    @property
    def behind_s(self) -> float:
        """How much of what the probe has recorded is not taken, recorded seconds."""
        if self._reference is None or self._pace is None:
            return 0.0
        passed_s = (self._clock.now_ns() - self._reference.host_ns) / NS_PER_S
        return max(0.0, passed_s * self._pace - (self._session_s - self._reference.session_s))

    @property
    def recent(self) -> NDArray[np.float64]:
        """Real-time factors of the last `N_RECENT` blocks, shape (n_blocks,), float64."""
        return np.array(tuple(self._factors), dtype=np.float64)

    @property
    def figures(self) -> LoadFigures:
        """Return what is now; factors are 0 before the first block."""
        factors = self.recent if self._factors else np.zeros(1)
        p50, p99 = np.percentile(factors, [50, 99]).tolist()
        return LoadFigures(p50, p99, self.behind_s)

    def restart(self) -> None:
        """Forget the reference: session time begins anew."""
        self._reference = None

    def has_caught_up(self) -> None:
        """Note that nothing waits."""
        self._reference = _Reference(self._clock.now_ns(), self._session_s)

    def take(self, session_s: float) -> None:
        """Note that the samples up to a time were taken from the source."""
        self._session_s = session_s
        if self._reference is None:
            self.has_caught_up()
        self.max_behind_s = max(self.max_behind_s, self.behind_s)

    def add_block(self, took_s: float, duration_s: float) -> None:
        """Note how long a block was in work."""
        self._factors.append(took_s / duration_s)
        self.busy_s += took_s
        self.sorted_s += duration_s
