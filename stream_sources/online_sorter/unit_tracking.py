"""Whether each unit still looks and fires as its template says.

Rules, with margins so that a unit does not come and go:

* A unit is *changed* when the mean of its recent waveforms is less similar to the template than
  `LOST_SIMILARITY`, and no longer when it is more similar than `BACK_SIMILARITY`.
* A unit is *silent* when it fires less than `LOST_RATE` of its calibration rate, and no longer
  above `BACK_RATE`. Units that should fire less than `MIN_EXPECTED` spikes in the time that is
  looked at are not tested: their silence may be chance.
* A unit that is either is *lost*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_sources.online_sorter.blocks import VoltageBlock
from stream_sources.online_sorter.matching import FoundSpikes
from stream_sources.online_sorter.templates import SorterTemplates

LOST_SIMILARITY, BACK_SIMILARITY = 0.5, 0.65
LOST_RATE, BACK_RATE = 0.05, 0.15

MIN_WAVEFORMS = 30
"""In a mean that is compared: noise of a single waveform is then divided by five."""

MEAN_OF = 100
"""Waveforms that the running mean reaches back."""

MEMORY_S = 120.0
"""Time that the running rate reaches back."""

MIN_EXPECTED = 40
"""Of a Poisson train with a mean of 40, 2 spikes or fewer have a chance of 1e-14."""

N_CHANNELS = 6
"""The channels on which a template is largest; noise is most of what the others have."""

PER_BLOCK = 4
"""Waveforms of a unit that are cut out of one block, at most."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """One unit, now.

    Attributes
    ----------
    n_spikes : int
        Since the source began.
    rate_hz : float
        Of the last `MEMORY_S` of sorted time, which count the less the longer ago.
    similarity : float or None
        Cosine between the mean waveform and the template; None before `MIN_WAVEFORMS`.
    amplitude : float or None
        The mean waveform's projection on the template: 1 as in the calibration.
    lost : str
        Why the unit counts as lost; empty if it does not.
    """

    unit_id: str
    probe: str
    n_spikes: int
    rate_hz: float
    calibration_rate_hz: float
    similarity: float | None
    amplitude: float | None
    lost: str


@dataclass(frozen=True, slots=True)
class UnitChange:
    """A unit that was lost, or is back (`lost` is empty)."""

    row: int
    lost: str


class UnitTracker:
    """Follows all units of one sorter."""

    def __init__(self, templates: SorterTemplates) -> None:
        n_units = len(templates.population)
        self._templates = templates
        self._channels = _largest(templates)
        rows = np.arange(n_units)[:, None]
        self._stored = templates.waveforms_uv[rows, :, self._channels].astype(np.float64)
        self._mean = np.zeros_like(self._stored)
        self._n_waveforms = np.zeros(n_units, dtype=np.int64)
        self._n_spikes = np.zeros(n_units, dtype=np.int64)
        self._recent = np.zeros(n_units)  # spikes, the older the less
        self._recent_s = 0.0
        self._is_changed = np.zeros(n_units, dtype=np.bool_)
        self._is_silent = np.zeros(n_units, dtype=np.bool_)

    def add(self, block: VoltageBlock, margin: int, found: FoundSpikes) -> list[UnitChange]:
        """Take the spikes of a block; return the units that are now lost or back."""
        counts = np.bincount(found.unit_index, minlength=len(self._n_spikes))
        self._n_spikes += counts
        duration_s = (block.stop - block.start) / self._templates.rate_hz
        kept = math.exp(-duration_s / MEMORY_S)
        self._recent = self._recent * kept + counts
        self._recent_s = self._recent_s * kept + duration_s
        for row in np.flatnonzero(counts).tolist():
            samples = found.sample[found.unit_index == row][:PER_BLOCK]
            self._add_waveforms(row, block, samples - block.start + margin)
        return self._update_lost()

    @property
    def n_lost(self) -> int:
        """Units that count as lost."""
        return int((self._is_changed | self._is_silent).sum())

    @property
    def similarity(self) -> NDArray[np.float64]:
        """Shape (n_units,), float64; NaN before `MIN_WAVEFORMS`."""
        inner = (self._mean * self._stored).sum(axis=(1, 2))
        norms = np.linalg.norm(self._mean, axis=(1, 2)) * np.linalg.norm(self._stored, axis=(1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self._n_waveforms >= MIN_WAVEFORMS, inner / norms, np.nan)

    def states(self) -> list[UnitState]:
        """Return all units, in the order of the population."""
        similarity = self.similarity
        inner = (self._mean * self._stored).sum(axis=(1, 2))
        amplitude = inner / (self._stored**2).sum(axis=(1, 2))
        return [
            UnitState(
                unit_id=unit.unit_id,
                probe=unit.probe,
                n_spikes=int(self._n_spikes[row]),
                rate_hz=float(self._recent[row] / self._recent_s) if self._recent_s else 0.0,
                calibration_rate_hz=float(self._templates.rates_hz[row]),
                similarity=None if np.isnan(similarity[row]) else float(similarity[row]),
                amplitude=None if np.isnan(similarity[row]) else float(amplitude[row]),
                lost=self._why(row),
            )
            for row, unit in enumerate(self._templates.population.units)
        ]

    def _add_waveforms(self, row: int, block: VoltageBlock, at: NDArray[np.int64]) -> None:
        n_before, n_samples = self._templates.n_before, self._templates.n_samples
        length = len(block.traces_uv)
        at = at[(at >= n_before) & (at + n_samples - n_before <= length)]
        for sample in at.tolist():
            first = sample - n_before
            # (n_channels, n_samples), as in `_stored`.
            waveform = block.traces_uv[first : first + n_samples, self._channels[row]].T
            self._n_waveforms[row] += 1
            weight = 1.0 / min(int(self._n_waveforms[row]), MEAN_OF)
            self._mean[row] += weight * (waveform - self._mean[row])

    def _update_lost(self) -> list[UnitChange]:
        was_lost = self._is_changed | self._is_silent
        similarity = self.similarity
        self._is_changed = np.where(
            self._is_changed, ~(similarity > BACK_SIMILARITY), similarity < LOST_SIMILARITY
        )
        expected = self._templates.rates_hz * self._recent_s
        is_expected = expected >= MIN_EXPECTED
        self._is_silent = np.where(
            self._is_silent,
            self._recent < BACK_RATE * expected,
            is_expected & (self._recent < LOST_RATE * expected),
        )
        changes = np.flatnonzero(was_lost != (self._is_changed | self._is_silent))
        return [UnitChange(row, self._why(row)) for row in changes.tolist()]

    def _why(self, row: int) -> str:
        reasons = []
        if self._is_changed[row]:
            reasons.append("its waveform is another than its template")
        if self._is_silent[row]:
            reasons.append("it hardly fires")
        return " and ".join(reasons)


def _largest(templates: SorterTemplates) -> NDArray[np.intp]:
    """Return each unit's channels with the largest waveforms, shape (n_units, n_channels)."""
    extents = np.ptp(templates.waveforms_uv, axis=1)
    order: NDArray[np.intp] = np.argsort(-extents, axis=1, kind="stable")
    return order[:, : min(N_CHANNELS, templates.n_channels)]
