"""Templates of an offline sorting's units, and which of the units are kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import write_text
from contracts.errors import UserError, listed
from contracts.population import Population, Unit
from encoder_training.calibration.curation import OfflineSpikes, UnitQuality, assess_units
from encoder_training.calibration.offline import sorting_of
from encoder_training.calibration.options import CalibrationOptions
from stream_sources.online_sorter.template_estimation import estimate_templates
from stream_sources.online_sorter.templates import SorterTemplates

UNITS = "units.csv"
UNIT_COLUMNS = (
    "unit_id", "offline_unit", "probe", "area", "channel", "depth_um", "n_spikes", "rate_hz", "snr",
    "violations", "shared", "shared_with", "kept", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Curated:
    """The units that are kept with their templates, and what was found of all units.

    `rows`, int64 of shape (n_kept,), are the kept units' places in `qualities`.
    """

    templates: SorterTemplates
    qualities: tuple[UnitQuality, ...]
    rows: NDArray[np.int64]
    areas: tuple[str, ...]  # Of each channel; empty where unknown


def curate(
    recording: Any, spikes: OfflineSpikes, areas: tuple[str, ...], options: CalibrationOptions
) -> Curated:
    """Estimate templates, apply the rules, and keep what passes.

    `recording` is what is calibrated on, `spikes` its offline sorting, `areas` those of the
    channels.

    Raises
    ------
    UserError
        If no unit passes, with the reasons and their numbers.
    """
    rate_hz = float(recording.get_sampling_frequency())
    whole = estimate_templates(
        recording,
        sorting_of(spikes, rate_hz),
        origin=f"calibration on {options.minutes:g} minutes of {Path(options.recording).name}",
        units=[Unit(str(row)) for row in range(len(spikes.unit_ids))],
        preprocessing=options.preprocessing,
        seed=options.seed,
    )
    estimated = np.array([int(unit.unit_id) for unit in whole.population.units])
    snr = np.zeros(len(spikes.unit_ids))
    snr[estimated] = signal_to_noise(whole)
    duration_s = recording.get_num_samples() / rate_hz
    qualities = assess_units(
        spikes, snr.tolist(), options.rules, rate_hz=rate_hz, duration_s=duration_s
    )
    is_kept = np.array([unit.is_kept for unit in qualities])
    if not is_kept.any():
        raise UserError(_nothing_left(qualities))
    rows = np.flatnonzero(is_kept)
    chosen = np.flatnonzero(np.isin(estimated, rows))
    units = [whole.population.units[row] for row in chosen.tolist()]
    ids = _unit_ids([spikes.unit_ids[row] for row in rows.tolist()])
    named = [
        replace(
            unit, unit_id=name, probe=options.probe, area=areas[unit.channel or 0], quality="good"
        )
        for unit, name in zip(units, ids, strict=True)
    ]
    templates = replace(
        whole,
        population=Population(named),
        rates_hz=whole.rates_hz[chosen],
        waveforms_uv=whole.waveforms_uv[chosen],
        is_active=whole.is_active[chosen],
    )
    return Curated(templates, tuple(qualities), rows, areas)


def signal_to_noise(templates: SorterTemplates) -> NDArray[np.float64]:
    """Return each unit's largest deflection in standard deviations of the noise of its channel."""
    peaks = np.abs(templates.waveforms_uv).max(axis=1) / templates.noise_uv
    largest: NDArray[np.float64] = peaks.max(axis=1)
    return largest


def write_units(folder: Path, curated: Curated) -> None:
    """Write ``units.csv``: every unit of the offline sorting, kept or with its reason."""
    kept = dict(zip(curated.rows.tolist(), curated.templates.population.units, strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(UNIT_COLUMNS)
    for row, quality in enumerate(curated.qualities):
        unit = kept.get(row)
        place: Sequence[object] = ("", quality.unit_id, "", "", "", "")
        if unit is not None:
            place = (
                unit.unit_id, quality.unit_id, unit.probe, unit.area, unit.channel, unit.depth_um
            )  # fmt: skip
        numbers = [f"{value:.4g}" for value in (quality.rate_hz, quality.snr, quality.violations)]
        shared = (f"{quality.shared:.4g}", quality.shared_with)
        last = ("yes" if unit is not None else "no", quality.reason)
        writer.writerow((*place, quality.n_spikes, *numbers, *shared, *last))
    write_text(folder / UNITS, text.getvalue())


def _unit_ids(offline: Sequence[str]) -> list[str]:
    """Return the offline ids where all are whole numbers, else 0, 1, 2, ...: NWB has no others."""
    if all(name.isascii() and name.isdecimal() and str(int(name)) == name for name in offline):
        return list(offline)
    return [str(row) for row in range(len(offline))]


def _nothing_left(qualities: Sequence[UnitQuality]) -> str:
    reasons = [f"unit {unit.unit_id}: {unit.reason}" for unit in qualities]
    return (
        f"none of the {len(qualities)} units of the offline sorting passes the rules of curation: "
        f"{listed(reasons)}. Look at the recording, calibrate on more minutes, try another sorter, "
        "or relax the rules (--min-snr, --min-rate-hz, --max-violations)."
    )
