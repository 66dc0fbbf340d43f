"""Two clocks joined by pulses that both have recorded. No socket and no clock here.

Theory of operation
-------------------
A sync line carries the same pulses to two probes. Each has their begins on its own clock, which
differs from the other by an offset and by some millionths in rate, both of which drift.

First the pulses are *matched*: of all offsets at which one train could lie on the other, those
count at which nearly every pulse of both has a partner. Strictly periodic pulses, as SpikeGLX makes
at 1 Hz, fit at every period. Such a train is matched only if the offset is known beforehand to be
smaller than half of the period (`within_ns`); else it is refused, and no offset is guessed.

Then a line is *fitted* to the pairs of the last minutes (Theil-Sen: the median of all slopes, so
that single pulses with wrong times do not move it), anew with each pulse, so that it follows drift.

Invariants (``tests/stream_sources/rigs/test_clock_sync.py``):

1. A match is the only one, or there is none: ``test_periodic_pulses_are_refused``
2. Wrong times of single pulses change nothing: ``test_pulses_with_wrong_times_do_not_move_the_fit``
3. A jump of either clock ends the fit: ``test_a_jump_is_noticed_after_two_pulses``
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_PULSES = 8
"""Pairs of a match or a fit."""

MIN_RIVAL_PULSES = 4
"""Pairs of another offset that make a match ambiguous: periodic trains that are shifted by a period
have a pair less, by two periods two less."""

MAX_PULSES = 120
"""Of each clock that are kept: two minutes at 1 Hz."""

MATCHED_PULSES, MATCHED_REFERENCE_PULSES = 24, 48
"""The newest of either clock, which are matched: the work grows with the square of their product.
The reference may be ahead by some seconds, as its source has less to do."""

TOLERANCE_NS = 5_000_000
"""Between a pulse and its partner, by the fit before."""

MAX_RATE_ERROR = 200e-6
"""Crystals of acquisition systems differ by less than 50 millionths."""

MIN_MATCHED = 0.8
"""Of the pulses of either train while both ran."""

MAX_RESIDUAL_NS = 2_000_000
"""The largest median of residuals with which times are translated."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows of our pulses, and of their partners."""

N_JUMPED = 2
"""So many newest pulses of both clocks without a partner tell that one has jumped."""


@dataclass(frozen=True, slots=True)
class ClockFit:
    """A line from one clock to the other.

    Attributes
    ----------
    ours_ns, reference_ns : int
        The same moment on both clocks.
    rate_error : float
        By how much the reference is faster: 50e-6 for 50 millionths.
    n_pulses : int
        Pairs that it is made of.
    residual_ns, max_residual_ns : float
        Median and largest distance of a pulse from the line.
    """

    ours_ns: int
    reference_ns: int
    rate_error: float
    n_pulses: int
    residual_ns: float
    max_residual_ns: float

    def translate(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return times of our clock on the reference's, rounded to nanoseconds; any shape."""
        since_ns = times_ns - self.ours_ns
        # The difference of the rates alone is a float: long sessions keep their nanoseconds.
        drift_ns = np.rint(since_ns * self.rate_error).astype(np.int64)
        translated: NDArray[np.int64] = self.reference_ns + since_ns + drift_ns
        return translated


@dataclass(frozen=True, slots=True, eq=False)
class PulseMatch:
    """Which pulses are the same.

    Attributes
    ----------
    ours, reference : array, shape (n_pairs,), int64
        Rows of the two trains; empty if there is no match, or more than one.
    problem : str
        Why there is none.
    """

    ours: NDArray[np.int64]
    reference: NDArray[np.int64]
    problem: str = ""


def fit_clock(ours_ns: NDArray[np.int64], reference_ns: NDArray[np.int64]) -> ClockFit:
    """Fit a line to pairs of times, int64 of shape (n_pairs,), two or more."""
    from scipy.stats import theilslopes

    middle = len(ours_ns) // 2
    since_ns = (ours_ns - ours_ns[middle]).astype(np.float64)
    offset_ns = (reference_ns - reference_ns[middle] - (ours_ns - ours_ns[middle])).astype(float)
    rate_error = float(theilslopes(offset_ns, since_ns)[0])
    level_ns = np.median(offset_ns - rate_error * since_ns)
    residuals_ns = np.abs(offset_ns - rate_error * since_ns - level_ns)
    return ClockFit(
        ours_ns=int(ours_ns[middle]),
        reference_ns=int(reference_ns[middle]) + round(float(level_ns)),
        rate_error=rate_error,
        n_pulses=len(ours_ns),
        residual_ns=float(np.median(residuals_ns)),
        max_residual_ns=float(residuals_ns.max()),
    )


def match_pulses(
    ours_ns: NDArray[np.int64],
    reference_ns: NDArray[np.int64],
    *,
    within_ns: int | None = None,
) -> PulseMatch:
    """Find the one offset at which two trains of pulses lie on each other.

    Parameters
    ----------
    ours_ns, reference_ns : array, shape (n_pulses,), int64, nanoseconds
        Begins of the pulses on each clock, rising; the first and the last need not be the same.
    within_ns : int, optional
        The offset is known to be smaller than this.
    """
    if min(len(ours_ns), len(reference_ns)) < MIN_PULSES:
        n = min(len(ours_ns), len(reference_ns))
        return _no_match(f"{n} pulses have come, and {MIN_PULSES} are needed")
    offsets_ns = np.unique(reference_ns[:, None] - ours_ns)
    if within_ns is not None:
        offsets_ns = offsets_ns[np.abs(offsets_ns) <= within_ns]
    fitting = [
        (offset_ns, pairs)
        for offset_ns in offsets_ns.tolist()
        if (pairs := _pairs_at(offset_ns, ours_ns, reference_ns)) is not None
    ]
    best = max((pairs for _, pairs in fitting), key=lambda pairs: len(pairs[0]), default=None)
    if best is None or len(best[0]) < MIN_PULSES:
        known = "" if within_ns is None else f" smaller than {within_ns / 1e9:g} s"
        return _no_match(f"the pulses of the two clocks fit at no offset{known}")
    other = [offset_ns for offset_ns, pairs in fitting if _differ(pairs, best)]
    if other:
        return _no_match(
            f"the pulses fit at several offsets, from {fitting[0][0] / 1e9:.3f} to "
            f"{fitting[-1][0] / 1e9:.3f} s, because they are too regular"
        )
    return PulseMatch(*best)


class ClockFollower:
    """Matches two trains of pulses as they come, and keeps the fit.

    Attributes
    ----------
    fit : ClockFit or None
        The newest; None while times cannot be translated.
    problem : str
        Why there is none.
    """

    def __init__(self, *, within_ns: int | None = None) -> None:
        self.fit: ClockFit | None = None
        self.problem = "no pulses have come"
        self.last_paired_ns = 0  # our clock
        self._within_ns = within_ns
        self._before = ""  # why it began again
        self._ours: deque[int] = deque(maxlen=MAX_PULSES)
        self._reference: deque[int] = deque(maxlen=MAX_PULSES)

    @property
    def n_pulses(self) -> int:
        """Pulses that wait for a match, and may have one: of the clock that has fewer."""
        return min(map(len, self._of_the_same_time()))

    def add(self, begin_ns: int) -> None:
        """Take the begin of a pulse on our clock."""
        self._append(self._ours, begin_ns)

    def add_reference(self, begin_ns: int) -> None:
        """Take the begin of a pulse on the reference's clock."""
        self._append(self._reference, begin_ns)

    def begin_again(
        self, problem: str, *, has_ours: bool = False, has_reference: bool = False
    ) -> None:
        """Forget the fit and the pulses, but those of a clock that is still the same."""
        self.fit, self.problem, self._before = None, problem, f"{problem}; "
        if not has_ours:
            self._ours.clear()
        if not has_reference:
            self._reference.clear()

    def _append(self, pulses: deque[int], begin_ns: int) -> None:
        if pulses and begin_ns <= pulses[-1]:
            self.begin_again("the time of the pulses went back")
        pulses.append(begin_ns)
        self._follow()

    def _follow(self) -> None:
        ours_ns, reference_ns = self._of_the_same_time() if self.fit is None else self._kept()
        if self.fit is None:
            ours_ns = ours_ns[-MATCHED_PULSES:]
            reference_ns = reference_ns[-MATCHED_REFERENCE_PULSES:]
            match = match_pulses(ours_ns, reference_ns, within_ns=self._within_ns)
            self.problem = self._before + match.problem if match.problem else ""
            if min(len(ours_ns), len(reference_ns)) < MIN_PULSES <= min(map(len, self._kept())):
                self.problem += f", of the same time: {self._spans()}"
            ours, reference = match.ours, match.reference
        else:
            ours, reference = _nearest(self.fit.translate(ours_ns), reference_ns, TOLERANCE_NS)
            if self._has_jumped(ours, reference):
                self.begin_again("the pulses do not fit any more: a clock has jumped")
                return
        if len(ours) < MIN_PULSES:
            return
        self.last_paired_ns = int(ours_ns[ours[-1]])
        fit = fit_clock(ours_ns[ours], reference_ns[reference])
        if fit.residual_ns > MAX_RESIDUAL_NS:
            self.problem = (
                f"the pulses are {fit.residual_ns / 1e6:.1f} ms from a line, and may be "
                f"{MAX_RESIDUAL_NS / 1e6:.0f}: a clock is not steady"
            )
        elif abs(fit.rate_error) > MAX_RATE_ERROR:
            self.problem = (
                f"the clocks differ by {fit.rate_error * 1e6:.0f} millionths, and may by "
                f"{MAX_RATE_ERROR * 1e6:.0f}: is a sampling rate wrong?"
            )
        else:
            self.fit, self.problem = fit, ""
            return
        self.fit = None

    def _kept(self) -> Pairs:
        """Return the begins of all pulses of both clocks, int64 of shape (n_pulses,)."""
        return np.array(self._ours, dtype=np.int64), np.array(self._reference, dtype=np.int64)

    def _of_the_same_time(self) -> Pairs:
        """Return those from while both ran.

        All of them where it is not known by how much the clocks differ at most.
        """
        ours_ns, reference_ns = self._kept()
        if self._within_ns is None or not len(ours_ns) or not len(reference_ns):
            return ours_ns, reference_ns
        first_ns = max(ours_ns[0], reference_ns[0]) - self._within_ns
        last_ns = min(ours_ns[-1], reference_ns[-1]) + self._within_ns
        return (
            ours_ns[(ours_ns >= first_ns) & (ours_ns <= last_ns)],
            reference_ns[(reference_ns >= first_ns) & (reference_ns <= last_ns)],
        )

    def _spans(self) -> str:
        (a, b), (c, d) = (
            (times_ns[0] / 1e9, times_ns[-1] / 1e9) for times_ns in (self._ours, self._reference)
        )
        return f"ours are from {a:.1f} to {b:.1f} s, the reference's from {c:.1f} to {d:.1f} s"

    def _has_jumped(self, ours: NDArray[np.int64], reference: NDArray[np.int64]) -> bool:
        """Whether the newest pulses of both have no partner: if one only waits, the other has."""
        n_ours = len(self._ours) - (int(ours[-1]) + 1 if len(ours) else 0)
        n_reference = len(self._reference) - (int(reference[-1]) + 1 if len(reference) else 0)
        return min(n_ours, n_reference) >= N_JUMPED


def _pairs_at(
    offset_ns: int, ours_ns: NDArray[np.int64], reference_ns: NDArray[np.int64]
) -> Pairs | None:
    """Return the pairs at an offset, if nearly all pulses of both have a partner."""
    moved_ns = ours_ns + offset_ns
    span_ns = min(moved_ns[-1] - moved_ns[0], reference_ns[-1] - reference_ns[0])
    tolerance_ns = TOLERANCE_NS + round(MAX_RATE_ERROR * int(span_ns))
    ours, reference = _nearest(moved_ns, reference_ns, tolerance_ns)
    if len(ours) < MIN_RIVAL_PULSES:
        return None
    first_ns = max(moved_ns[0], reference_ns[0]) - tolerance_ns
    last_ns = min(moved_ns[-1], reference_ns[-1]) + tolerance_ns
    n_possible = max(
        int(((one >= first_ns) & (one <= last_ns)).sum()) for one in (moved_ns, reference_ns)
    )
    return (ours, reference) if len(ours) >= MIN_MATCHED * n_possible else None


def _differ(one: Pairs, other: Pairs) -> bool:
    """Whether two matches pair most of their pulses differently."""
    partner = dict(zip(one[0].tolist(), one[1].tolist(), strict=True))
    same = [partner.get(row) == column for row, column in zip(*map(list, other), strict=True)]
    return bool(sum(same) < len(same) / 2)


def _nearest(
    moved_ns: NDArray[np.int64], reference_ns: NDArray[np.int64], tolerance_ns: int
) -> Pairs:
    """Return the rows of the pulses that are each other's nearest, within a tolerance."""
    distance_ns = np.abs(moved_ns[:, None] - reference_ns)
    to_reference, to_ours = distance_ns.argmin(axis=1), distance_ns.argmin(axis=0)
    rows = np.arange(len(moved_ns))
    is_pair = (to_ours[to_reference] == rows) & (distance_ns[rows, to_reference] <= tolerance_ns)
    return rows[is_pair], to_reference[is_pair]


def _no_match(problem: str) -> PulseMatch:
    none = np.empty(0, np.int64)
    return PulseMatch(none, none, problem)
