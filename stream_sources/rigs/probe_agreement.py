"""Whether two probes answer the same marks at the same time: a check of their clocks.

A sync line that is plugged into the wrong socket, or a probe that is a frame late, gives a perfect
fit and wrong times. The brain tells: what is shown makes both populations fire. The lag between
their mean responses is estimated, with an interval, and compared with what is expected. Areas do
answer at different times, up to some tens of milliseconds, so this finds gross errors alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.spikes import Mark, SpikeBatch

logger = logging.getLogger(__name__)

BIN_NS = 2_000_000
BEFORE_BINS, AFTER_BINS, MAX_LAG_BINS = 50, 150, 50
"""Of the response around a mark: 100 ms before its begin to 300 ms after; lags up to 100 ms."""

SMOOTH_BINS = 3.0
"""Standard deviation of the smoothing, 6 ms: single bins hold few spikes."""

N_SHUFFLES = 200
MAX_P = 0.01
"""Chance that responses without anything in common agree as well; above it nothing is said."""

Z_99 = 2.576
"""Standard errors on each side of an interval of 99 %."""

CHECK_MARKS, KEPT_MARKS = 50, 200
"""After so many marks the lag is estimated, from the newest so many."""

KEPT_NS = 600 * NS_PER_S
"""Of spikes, for marks that are seconds long."""


@dataclass(frozen=True, slots=True)
class ResponseLag:
    """By how much the first population answers later than the second.

    Attributes
    ----------
    lag_ms, low_ms, high_ms : float
        The lag of the best correlation of the mean responses, and its interval of 99 % (jackknife
        over marks).
    p : float
        Chance of so good a correlation where each mark's response is shifted by chance.
    """

    lag_ms: float
    low_ms: float
    high_ms: float
    p: float
    n_marks: int

    def is_outside(self, expected_ms: float, tolerance_ms: float) -> bool:
        """Whether the whole interval is further from the expected lag than is tolerated."""
        is_later = self.low_ms > expected_ms + tolerance_ms
        return self.p <= MAX_P and (is_later or self.high_ms < expected_ms - tolerance_ms)


def compare_responses(
    ours_ns: NDArray[np.int64],
    reference_ns: NDArray[np.int64],
    marks_ns: NDArray[np.int64],
    *,
    seed: int = 0,
) -> ResponseLag:
    """Estimate the lag between the responses of two populations to the same marks.

    Parameters
    ----------
    ours_ns, reference_ns : array, shape (n_spikes,), int64, nanoseconds
        All spikes of each population, sorted, on one clock.
    marks_ns : array, shape (n_marks,), int64, nanoseconds
        Begins of ten or more marks.
    """
    ours, reference = (_responses(times, marks_ns) for times in (ours_ns, reference_ns))
    n_marks = len(marks_ns)
    best, lag = _best_lag(ours.mean(axis=0), reference.mean(axis=0))
    rng = np.random.default_rng(seed)
    columns = np.arange(ours.shape[1])
    n_as_good = 0
    for _ in range(N_SHUFFLES):
        shifts = rng.integers(0, len(columns), (n_marks, 1))
        shifted = np.take_along_axis(ours, (columns + shifts) % len(columns), axis=1)
        n_as_good += _best_lag(shifted.mean(axis=0), reference.mean(axis=0))[0] >= best
    without_one = np.array(
        [
            _best_lag(
                (ours.sum(axis=0) - ours[row]) / (n_marks - 1),
                (reference.sum(axis=0) - reference[row]) / (n_marks - 1),
            )[1]
            for row in range(n_marks)
        ]
    )
    variance = (n_marks - 1) / n_marks * ((without_one - without_one.mean()) ** 2).sum()
    half = Z_99 * float(np.sqrt(variance))
    ms = BIN_NS / 1e6
    p = (1 + n_as_good) / (1 + N_SHUFFLES)
    return ResponseLag(lag * ms, (lag - half) * ms, (lag + half) * ms, p, n_marks)


class ProbeAgreement:
    """Collects what two sources send on one clock, and logs a warning where they disagree.

    Parameters
    ----------
    pulses : collection of str
        ``stimulus`` of marks that are not shown: sync pulses.
    """

    def __init__(
        self,
        *,
        pulses: Collection[str] = (),
        expected_lag_ms: float = 0.0,
        tolerance_ms: float = 15.0,
    ) -> None:
        self.newest: ResponseLag | None = None
        self._pulses = frozenset(pulses)
        self._expected_ms, self._tolerance_ms = expected_lag_ms, tolerance_ms
        self._ours: deque[SpikeBatch] = deque()
        self._reference: deque[SpikeBatch] = deque()
        self._marks_ns: deque[int] = deque(maxlen=KEPT_MARKS)
        self._n_new = 0

    def add(self, batch: SpikeBatch) -> None:
        """Take spikes of our probe, on the reference's clock."""
        self._append(self._ours, batch)
        self._check()

    def add_reference(self, message: SpikeBatch | Mark) -> None:
        """Take spikes or a mark of the reference."""
        if isinstance(message, SpikeBatch):
            self._append(self._reference, message)
        elif message.stimulus not in self._pulses:
            if self._marks_ns and message.start_ns <= self._marks_ns[-1]:
                self._forget()
            self._marks_ns.append(message.start_ns)
            self._n_new += 1

    def _append(self, batches: deque[SpikeBatch], batch: SpikeBatch) -> None:
        """Keep a batch, and none from before the oldest mark; a clock that goes back is new."""
        if batches and batch.start_ns < batches[-1].start_ns:
            self._forget()
        batches.append(batch)
        first_ns = self._marks_ns[0] if self._marks_ns else batch.start_ns
        first_ns = max(first_ns - BEFORE_BINS * BIN_NS, batch.stop_ns - KEPT_NS)
        while len(batches) > 1 and batches[0].stop_ns < first_ns:
            batches.popleft()

    def _forget(self) -> None:
        for one in (self._ours, self._reference, self._marks_ns):
            one.clear()
        self._n_new = 0

    def _check(self) -> None:
        """Estimate the lag once enough marks are new and both probes have covered them."""
        if self._n_new < CHECK_MARKS or not self._reference:
            return
        start_ns = max(self._ours[0].start_ns, self._reference[0].start_ns) + BEFORE_BINS * BIN_NS
        stop_ns = min(self._ours[-1].stop_ns, self._reference[-1].stop_ns) - AFTER_BINS * BIN_NS
        marks_ns = np.array([at for at in self._marks_ns if start_ns <= at < stop_ns], np.int64)
        if len(marks_ns) < CHECK_MARKS:
            return
        self._n_new = 0
        self.newest = compare_responses(_spikes(self._ours), _spikes(self._reference), marks_ns)
        fields = {name: round(value, 3) for name, value in asdict(self.newest).items()}
        if self.newest.is_outside(self._expected_ms, self._tolerance_ms):
            logger.warning("probes disagree: their responses to marks are apart", extra=fields)
        else:
            logger.info("probes compared", extra=fields)


def _spikes(batches: Collection[SpikeBatch]) -> NDArray[np.int64]:
    return np.sort(np.concatenate([batch.spike_time_ns for batch in batches]))


def _responses(times_ns: NDArray[np.int64], marks_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count spikes around each mark, shape (n_marks, n_bins)."""
    edges_ns = np.arange(-BEFORE_BINS, AFTER_BINS + 1) * BIN_NS
    counts: NDArray[np.int64] = np.diff(np.searchsorted(times_ns, marks_ns[:, None] + edges_ns))
    return counts


def _best_lag(ours: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float]:
    """Return the best correlation over lags, and its lag in bins, between bins by a parabola."""
    ours, reference = _smooth(ours), _smooth(reference)
    lags = np.arange(-MAX_LAG_BINS, MAX_LAG_BINS + 1)
    # The middle of the reference, which stays within our response at every lag.
    fixed = reference[MAX_LAG_BINS:-MAX_LAG_BINS]
    windows = np.lib.stride_tricks.sliding_window_view(ours, len(fixed))
    fixed = fixed - fixed.mean()
    windows = windows - windows.mean(axis=1, keepdims=True)
    size = np.linalg.norm(windows, axis=1) * np.linalg.norm(fixed)
    correlation = np.divide(windows @ fixed, size, out=np.zeros(len(lags)), where=size > 0)
    top = int(correlation.argmax())
    lag = float(lags[top])
    if 0 < top < len(lags) - 1:
        before, here, after = correlation[top - 1 : top + 2]
        if (bend := before - 2 * here + after) < 0:
            lag += float(0.5 * (before - after) / bend)
    return float(correlation[top]), lag


def _smooth(rate: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = np.arange(-3 * round(SMOOTH_BINS), 3 * round(SMOOTH_BINS) + 1)
    kernel = np.exp(-0.5 * (reach / SMOOTH_BINS) ** 2)
    smoothed: NDArray[np.float64] = np.convolve(rate, kernel / kernel.sum(), mode="same")
    return smoothed
