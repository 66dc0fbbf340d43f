"""What a calibration found, for people: pictures and tables in one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_training.calibration.agreement import Agreement
from encoder_training.calibration.curate import Curated, signal_to_noise
from encoder_training.calibration.figures import (
    AGREEMENT,
    CURATION,
    STABILITY,
    TEMPLATES,
    draw_agreement,
    draw_curation,
    draw_stability,
    draw_templates,
)
from encoder_training.calibration.online import OnlineSpikes
from encoder_training.calibration.options import CalibrationOptions
from encoder_training.calibration.presentations_file import ShownMovies
from encoder_training.calibration.report import (
    REPORT,
    paragraphs,
    picture,
    table,
    write_page,
)

LOW_AGREEMENT = 0.5
"""Units below it are named: the online sorter finds them badly, and so will live."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """Everything that the report is about.

    `trains_ns` and `agreements` are in the order of the templates' units.
    """

    curated: Curated
    online: OnlineSpikes
    trains_ns: Sequence[NDArray[np.int64]]
    agreements: Sequence[Agreement]
    shown: ShownMovies | None
    duration_s: float
    offline_from: str  # Name of the sorter, or the folder of the sorting


def write_calibration_report(
    folder: Path, options: CalibrationOptions, made: Calibrated, *, missing: Sequence[str]
) -> Path:
    """Write ``report.html`` and its pictures into the folder of a calibration."""
    _draw(folder, made)
    path = folder / REPORT
    write_page(
        path,
        f"Calibration on {Path(options.recording).name}",
        {
            "": _head(options, made, missing),
            "Templates": picture(folder / TEMPLATES, "Mean waveforms on the probe, by area")
            + _areas(made),
            "Over the minutes": picture(
                folder / STABILITY, "Rate, and how the waveforms resemble the templates"
            )
            + _stability(made),
            "Online and offline": picture(
                folder / AGREEMENT, "Spikes that both sortings have, unit by unit"
            )
            + _agreement(made),
            "Units": _units(made),
            "Excluded units": picture(folder / CURATION, "Every unit of the offline sorting")
            + _excluded(options, made),
        },
    )
    return path


def _draw(folder: Path, made: Calibrated) -> None:
    templates, online = made.curated.templates, made.online
    depths = np.array([unit.y_um for unit in templates.population.units])
    order = np.argsort(depths, kind="stable")
    rates = online.rates_hz(len(order))
    draw_templates(folder / TEMPLATES, templates)
    draw_stability(
        folder / STABILITY,
        rates[order],
        online.similarity[order],
        online.amplitude[order],
        online.edges_s,
    )
    draw_agreement(
        folder / AGREEMENT,
        np.array([one.score for one in made.agreements]),
        signal_to_noise(templates),
        [unit.area for unit in templates.population.units],
    )
    qualities = made.curated.qualities
    draw_curation(
        folder / CURATION,
        np.array([unit.rate_hz for unit in qualities]),
        np.array([unit.snr for unit in qualities]),
        np.array([unit.is_kept for unit in qualities]),
    )


def _head(options: CalibrationOptions, made: Calibrated, missing: Sequence[str]) -> str:
    templates, shown = made.curated.templates, made.shown
    texts = [
        f"{made.duration_s / 60:.3g} minutes, {templates.n_channels} channels at "
        f"{templates.rate_hz:g} Hz. Offline sorting: {made.offline_from}, "
        f"{len(made.curated.qualities)} units, of which {len(made.trains_ns)} are kept. Online "
        f"sorter: {options.method} in blocks of {options.block_ms:g} ms, "
        f"{made.online.real_time_factor:.2f} of real time on this machine, "
        f"{len(made.online.time_ns):,} spikes.",
    ]
    if shown is not None:
        movies = ", ".join(f"{name} ({len(one.start_s):,})" for name, one in shown.movies.items())
        later = f"; {shown.n_later:,} end later and are left out" if shown.n_later else ""
        texts.append(f"Presentations within these minutes: {movies}{later}.")
    texts += [f"Missing: {text}." for text in missing]
    return paragraphs(*texts)


def _areas(made: Calibrated) -> str:
    n_of = Counter(unit.area for unit in made.curated.templates.population.units)
    return table([{"area": area or "(unknown)", "units": n} for area, n in n_of.most_common()])


def _stability(made: Calibrated) -> str:
    last = made.online.similarity[:, -1]
    units = made.curated.templates.population.units
    changed = [unit.label for unit, value in zip(units, last, strict=True) if value < 0.8]
    text = ", ".join(changed) or "none"
    return paragraphs(
        "Similarity is the cosine between the mean of the recent waveforms and the template, and "
        "amplitude their ratio; white where a unit has fired too little. Units whose waveform at "
        f"the end is less similar than 0.8: {text}."
    )


def _agreement(made: Calibrated) -> str:
    scores = np.array([one.score for one in made.agreements])
    low = int((scores < LOW_AGREEMENT).sum())
    return paragraphs(
        "Agreement is the share of spikes that both sortings have, of all that either has, within "
        "0.4 ms. It compares two sortings, not either with the truth. "
        f"Median {np.median(scores):.2f}; {low} of {len(scores)} units are below {LOW_AGREEMENT}."
    )


def _units(made: Calibrated) -> str:
    units = made.curated.templates.population.units
    snr = signal_to_noise(made.curated.templates)
    rows: list[dict[str, object]] = [
        {
            "unit": unit.unit_id,
            "area": unit.area or None,
            "channel": unit.channel,
            "depth (um)": unit.depth_um,
            "SNR": float(snr[row]),
            "rate (Hz)": len(made.trains_ns[row]) / made.duration_s,
            "agreement": one.score,
            "precision": one.precision,
            "recall": one.recall,
            "lag (samples)": one.lag_samples,
        }
        for row, (unit, one) in enumerate(zip(units, made.agreements, strict=True))
    ]
    return table(sorted(rows, key=lambda row: -float(str(row["depth (um)"]))))


def _excluded(options: CalibrationOptions, made: Calibrated) -> str:
    rules = options.rules
    text = (
        f"Kept is a unit with {rules.min_rate_hz:g} spikes per second or more, an SNR of "
        f"{rules.min_snr:g} or more, at most {rules.max_violations:.1%} of its intervals below "
        f"1.5 ms, and at most {rules.max_shared:.0%} of its spikes shared with one larger unit."
    )
    rows = [
        {"unit": unit.unit_id, "spikes": unit.n_spikes, "SNR": unit.snr, "reason": unit.reason}
        for unit in made.curated.qualities
        if not unit.is_kept
    ]
    return paragraphs(text) + table(rows)
