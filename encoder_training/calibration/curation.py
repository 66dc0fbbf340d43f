"""Which units of a sorting are kept, and why the others are not. No file and no voltages here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoder_training.calibration.agreement import MATCH_S
from encoder_training.calibration.options import CurationRules
from stream_sources.online_sorter.template_estimation import MIN_SPIKES

REFRACTORY_S = 0.0015


@dataclass(frozen=True, slots=True)
class UnitQuality:
    """What one unit of the offline sorting is like, and why it is excluded; empty if kept."""

    unit_id: str
    n_spikes: int
    rate_hz: float
    snr: float
    violations: float  # Share of intervals shorter than `REFRACTORY_S`
    shared: float  # Largest share of its spikes that a larger unit has too
    shared_with: str  # That unit; empty if there is none
    reason: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether it passed every rule."""
        return not self.reason


@dataclass(frozen=True, slots=True, eq=False)
class OfflineSpikes:
    """The spikes of an offline sorting within the calibrated minutes, in order of time.

    Attributes
    ----------
    sample : array, shape (n_spikes,), int64
        Since the recording's first.
    unit : array, shape (n_spikes,), int64
        Index into `unit_ids`.
    """

    unit_ids: tuple[str, ...]
    sample: NDArray[np.int64]
    unit: NDArray[np.int64]

    def trains(self) -> list[NDArray[np.int64]]:
        """Return the samples of each unit, in order."""
        order = np.argsort(self.unit, kind="stable")
        bounds = np.searchsorted(self.unit[order], np.arange(1, len(self.unit_ids)))
        return np.split(self.sample[order], bounds)


def assess_units(
    spikes: OfflineSpikes,
    snr: Sequence[float],
    rules: CurationRules,
    *,
    rate_hz: float,
    duration_s: float,
) -> list[UnitQuality]:
    """Apply the rules to each unit; a unit that breaks several has several reasons.

    Parameters
    ----------
    snr : sequence of float
        Of each unit; not looked at where a unit has too few spikes for a template.
    rate_hz : float
        Samples per second.
    """
    trains = spikes.trains()
    twins = _twins(spikes, trains, round(MATCH_S * rate_hz))
    units = []
    for row, (unit_id, train) in enumerate(zip(spikes.unit_ids, trains, strict=True)):
        share, twin = twins[row]
        unit = UnitQuality(
            unit_id=unit_id,
            n_spikes=len(train),
            rate_hz=len(train) / duration_s,
            snr=float(snr[row]),
            violations=_violations(train, rate_hz),
            shared=share,
            shared_with=spikes.unit_ids[twin] if twin is not None else "",
        )
        units.append(_with_reason(unit, rules))
    return units


def _with_reason(unit: UnitQuality, rules: CurationRules) -> UnitQuality:
    reasons = []
    if unit.rate_hz < rules.min_rate_hz:
        reasons.append(f"rate {unit.rate_hz:.2g} Hz is below {rules.min_rate_hz:g} Hz")
    if unit.n_spikes < MIN_SPIKES:
        reasons.append(
            f"{unit.n_spikes} spikes are too few for a template, which takes {MIN_SPIKES}"
        )
    elif not unit.snr >= rules.min_snr:
        reasons.append(f"SNR {unit.snr:.2g} is below {rules.min_snr:g}")
    if unit.violations > rules.max_violations:
        reasons.append(
            f"{unit.violations:.1%} of its intervals are below {1e3 * REFRACTORY_S:g} ms, more "
            f"than {rules.max_violations:.1%}"
        )
    if unit.shared > rules.max_shared:
        reasons.append(
            f"{unit.shared:.0%} of its spikes are also spikes of unit {unit.shared_with}, more "
            f"than {rules.max_shared:.0%}"
        )
    return replace(unit, reason="; ".join(reasons))


def _violations(train: NDArray[np.int64], rate_hz: float) -> float:
    intervals = np.diff(train)
    return float((intervals < REFRACTORY_S * rate_hz).mean()) if len(intervals) else 0.0


def _twins(
    spikes: OfflineSpikes, trains: Sequence[NDArray[np.int64]], tolerance: int
) -> list[tuple[float, int | None]]:
    """Return for each unit the largest share of its spikes that a larger unit has, and which."""
    n_spikes = [len(train) for train in trains]
    twins: list[tuple[float, int | None]] = []
    for row, train in enumerate(trains):
        # All spikes near one of this unit's, at once: a loop over pairs takes n_units^2 searches.
        first = np.searchsorted(spikes.sample, train - tolerance, side="left")
        stop = np.searchsorted(spikes.sample, train + tolerance, side="right")
        near = np.repeat(first, stop - first) + _ramps(stop - first)
        mine = np.repeat(np.arange(len(train)), stop - first)
        pairs = np.unique(np.stack([spikes.unit[near], mine]), axis=1)
        counts = np.bincount(pairs[0], minlength=len(trains))
        larger = [
            other
            for other in range(len(trains))
            if (n_spikes[other], -other) > (n_spikes[row], -row)
        ]
        best = max(larger, key=lambda other: int(counts[other]), default=None)
        share = counts[best] / len(train) if best is not None and len(train) else 0.0
        twins.append((float(share), best if share > 0 else None))
    return twins


def _ramps(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 to before each length, end to end."""
    stops = np.cumsum(lengths)
    total = int(stops[-1]) if len(stops) else 0
    return np.arange(total) - np.repeat(stops - lengths, lengths)
