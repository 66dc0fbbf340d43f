"""What the online sorter knows of its units: their mean waveforms, and how these were made.

A template is only right for voltages that were filtered and referenced as those it was made from,
so both are kept together. No file is read or written here, see `template_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from contracts.population import Population
from stream_sources.rigs.voltages import ProbeLayout

REFERENCES = ("median", "none")
"""The median of all channels is taken from each sample, or nothing is."""

MAX_ORDER = 8

BACKGROUND_S = 0.5
"""Length of `SorterTemplates.background_uv`. SpikeInterface's detectors estimate their thresholds
from random chunks of this length: of one chunk they take all, so that thresholds do not vary."""

POSITION_TOLERANCE_UM = 1.0
"""Below the pitch of any probe; files round positions."""

RATE_TOLERANCE = 1e-3
"""Relative. A rig's clock is within 1e-4 of its nominal rate (Neuropixels manual: 50 ppm)."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Filter and reference, both causal: a sample depends on no later one.

    Attributes
    ----------
    low_hz, high_hz : float
        The band of a Butterworth filter, applied forwards.
    order : int
        Of the filter.
    reference : {"median", "none"}
        Taken from each sample after the filter.
    """

    low_hz: float = 300.0
    high_hz: float = 6000.0
    order: int = 3
    reference: str = "median"

    def problem(self, rate_hz: float) -> str:
        """Return what cannot be done at a sampling rate; empty if nothing."""
        if not 0 < self.low_hz < self.high_hz < rate_hz / 2:
            return (
                "the band must lie between 0 and half of the sampling rate, got "
                f"{self.low_hz:g} to {self.high_hz:g} Hz at {rate_hz:g} Hz"
            )
        if not 1 <= self.order <= MAX_ORDER:
            return f"the order of the filter must be from 1 to {MAX_ORDER}, got {self.order}"
        if self.reference not in REFERENCES:
            return f"the reference must be one of {', '.join(REFERENCES)}, got {self.reference!r}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class SorterTemplates:
    """Templates of the units of one probe. Legal once it exists.

    Attributes
    ----------
    population : Population
        The units, in the order of the templates; `Unit.channel` is the row of the peak channel in
        `layout`.
    rates_hz : array, shape (n_units,), float64, spikes per second
        While the templates were made.
    waveforms_uv : array, shape (n_units, n_samples, n_channels), float32, microvolts
        Of voltages after `preprocessing`. 0 where `is_active` is false.
    is_active : array, shape (n_units, n_channels), bool
        Channels on which a unit is seen: at least one of each.
    n_before : int
        Samples of a waveform before the spike's own.
    noise_uv : array, shape (n_channels,), float64, microvolts
        Noise after `preprocessing`: the median absolute deviation, scaled to a standard deviation.
    background_uv : array, shape (background_samples(rate_hz), n_channels), float32, microvolts
        A piece of the voltages after `preprocessing`. Matching methods set thresholds by it.
    origin : str
        What they were made from, for people.

    Raises
    ------
    UserError
        With every problem found.
    """

    population: Population
    rates_hz: NDArray[np.float64]
    waveforms_uv: NDArray[np.float32]
    is_active: NDArray[np.bool_]
    n_before: int
    layout: ProbeLayout
    rate_hz: float
    preprocessing: Preprocessing
    noise_uv: NDArray[np.float64]
    background_uv: NDArray[np.float32]
    origin: str

    def __post_init__(self) -> None:
        if problems := [*_shape_problems(self)] or [*_value_problems(self)]:
            raise UserError(
                f"templates of {self.origin or 'unknown origin'}: " + "; ".join(problems)
            )

    @property
    def n_samples(self) -> int:
        """Samples of a waveform."""
        return int(self.waveforms_uv.shape[1])

    @property
    def n_channels(self) -> int:
        """Channels of the probe."""
        return len(self.layout.channel_ids)

    def check_fit(self, rate_hz: float, layout: ProbeLayout, *, label: str) -> None:
        """Refuse voltages that these templates were not made for.

        Raises
        ------
        UserError
            With every difference.
        """
        problems = [*_layout_problems(self.layout, layout)]
        if abs(rate_hz / self.rate_hz - 1) > RATE_TOLERANCE:
            problems.append(
                f"the templates have {self.rate_hz:g} samples per second and it has {rate_hz:g}"
            )
        if problems:
            raise UserError(
                f"{label} is not the recording of the templates ({self.origin}): "
                f"{'; '.join(problems)}. Calibrate on this probe with these settings "
                "(neurrate calibrate), or name the templates that belong to it."
            )

    def spikeinterface_templates(self) -> Any:
        """Return them as sparse `spikeinterface.Templates`."""
        from spikeinterface.core import Templates

        dense = Templates(
            templates_array=self.waveforms_uv,
            sampling_frequency=self.rate_hz,
            nbefore=self.n_before,
            channel_ids=np.array(self.layout.channel_ids),
            unit_ids=np.arange(len(self.population)),
            probe=probe_of(self.layout),
        )
        return dense.to_sparse(self.is_active)


def background_samples(rate_hz: float) -> int:
    """Return the number of samples of `SorterTemplates.background_uv`."""
    return int(BACKGROUND_S * rate_hz)


def probe_of(layout: ProbeLayout) -> Any:
    """Return a `probeinterface.Probe` with these channels."""
    from probeinterface import Probe

    probe = Probe(ndim=2, si_units="um")
    probe.set_contacts(positions=layout.positions_um, shapes="circle", shape_params={"radius": 6})
    probe.set_device_channel_indices(np.arange(len(layout.channel_ids)))
    probe.set_contact_ids(layout.channel_ids)
    return probe


def _layout_problems(ours: ProbeLayout, theirs: ProbeLayout) -> list[str]:
    n_ours, n_theirs = len(ours.channel_ids), len(theirs.channel_ids)
    if n_ours != n_theirs:
        return [f"the templates have {n_ours} channels and it has {n_theirs}"]
    problems = []
    pairs = zip(ours.channel_ids, theirs.channel_ids, strict=True)
    if other := [f"{mine} ({yours})" for mine, yours in pairs if mine != yours]:
        problems.append(
            f"{len(other)} channels have another name or order, those of the templates being "
            f"{listed(other)}"
        )
    apart = np.abs(ours.positions_um - theirs.positions_um).max(axis=1)
    if moved := np.flatnonzero(apart > POSITION_TOLERANCE_UM).tolist():
        names = listed([ours.channel_ids[row] for row in moved])
        problems.append(f"{len(moved)} channels are elsewhere on the probe: {names}")
    return problems


def _shape_problems(templates: SorterTemplates) -> list[str]:
    n_units, n_channels = len(templates.population), len(templates.layout.channel_ids)
    n_samples = templates.waveforms_uv.shape[1] if templates.waveforms_uv.ndim == 3 else 0
    wanted: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "rates_hz": (templates.rates_hz, (n_units,)),
        "waveforms_uv": (templates.waveforms_uv, (n_units, n_samples, n_channels)),
        "is_active": (templates.is_active, (n_units, n_channels)),
        "positions_um": (templates.layout.positions_um, (n_channels, 2)),
        "noise_uv": (templates.noise_uv, (n_channels,)),
        "background_uv": (
            templates.background_uv,
            (background_samples(templates.rate_hz), n_channels),
        ),
    }
    problems = [
        f"{name} must have the shape {shape}, got {array.shape}"
        for name, (array, shape) in wanted.items()
        if array.shape != shape
    ]
    if not 0 < templates.n_before < n_samples:
        problems.append(
            f"n_before must be within the {n_samples} samples, got {templates.n_before}"
        )
    return problems


def _value_problems(templates: SorterTemplates) -> list[str]:
    problems = [templates.preprocessing.problem(templates.rate_hz)]
    numbers = ("rates_hz", "waveforms_uv", "noise_uv", "background_uv")
    problems += [
        f"{name} has values that are not finite"
        for name in (*numbers, "positions_um")
        if not np.isfinite(
            getattr(templates.layout if name == "positions_um" else templates, name)
        ).all()
    ]
    if len(set(templates.layout.channel_ids)) != templates.n_channels:
        problems.append("each channel must have a name of its own")
    if not (templates.noise_uv > 0).all():
        dead = np.flatnonzero(~(templates.noise_uv > 0)).tolist()
        names = listed([templates.layout.channel_ids[row] for row in dead])
        problems.append(f"the noise of {len(dead)} channels is 0: {names}. Leave them out")
    peaks = np.abs(np.where(templates.is_active[:, None], templates.waveforms_uv, 0)).max((1, 2))
    if flat := np.flatnonzero(~(peaks > 0)).tolist():
        labels = listed([templates.population.units[row].label for row in flat])
        problems.append(f"{len(flat)} units have an empty template: unit_id {labels}")
    if (templates.waveforms_uv.transpose(0, 2, 1)[~templates.is_active] != 0).any():
        problems.append("waveforms_uv must be 0 where is_active is false")
    return [problem for problem in problems if problem]
