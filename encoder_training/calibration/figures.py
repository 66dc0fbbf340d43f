"""The pictures of a calibration's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_training.pictures import report_figure
from stream_sources.online_sorter.templates import SorterTemplates

TEMPLATES, STABILITY, AGREEMENT, CURATION = (
    "templates.png", "stability.png", "agreement.png", "curation.png"
)  # fmt: skip

INK, FAINT = "#333333", "#c9ced6"
COLOURS = ("#1f5a8c", "#a8324a", "#3f8f5b", "#e2a03f", "#6b4c9a", "#7f7f7f", "#2aa1a1", "#c76b98")
SHOWN_UM = 40.0
"""Channels this near a unit's peak channel show its waveform."""

UM_PER_MS, UM_PER_PEAK = 8.0, 18.0
"""Scale of a waveform among the channels: the largest peak of all is as high as a pitch."""


def draw_templates(path: Path, templates: SorterTemplates) -> None:
    """Draw each unit's mean waveform where it is on the probe, coloured by area, and its size."""
    positions = templates.layout.positions_um
    units = templates.population.units
    areas = list(dict.fromkeys(unit.area for unit in units))
    span_um = float(np.ptp(positions[:, 1]))
    with report_figure(path, (8, float(np.clip(2 + span_um / 90, 5, 24)))) as figure:
        shank, size = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [2, 1]})
        shank.plot(positions[:, 0], positions[:, 1], "s", color=FAINT, markersize=3, zorder=0)
        largest = float(np.abs(templates.waveforms_uv).max())
        at_ms = (np.arange(templates.n_samples) - templates.n_before) / templates.rate_hz * 1e3
        for row, unit in enumerate(units):
            colour = COLOURS[areas.index(unit.area) % len(COLOURS)]
            for channel in _near(templates, row):
                x_um, y_um = positions[channel]
                waveform = templates.waveforms_uv[row, :, channel] / largest
                is_peak = channel == unit.channel
                shank.plot(
                    x_um + UM_PER_MS * at_ms,
                    y_um + UM_PER_PEAK * waveform,
                    color=colour,
                    linewidth=0.9 if is_peak else 0.5,
                    alpha=1.0 if is_peak else 0.35,
                )
            peak_uv = float(np.abs(templates.waveforms_uv[row]).max())
            size.plot(peak_uv, unit.y_um, "o", color=colour, markersize=4)
        shank.set(xlabel="across the shank (um)", ylabel="along the shank, from the tip (um)")
        shank.set_title(f"{len(units)} units; the largest peak is {largest:.0f} uV")
        size.set(xlabel="peak of the mean waveform (uV)")
        size.set_xlim(left=0)
        for number, area in enumerate(areas):
            size.plot([], [], "o", color=COLOURS[number % len(COLOURS)], label=area or "(unknown)")
        size.legend(frameon=False, fontsize=8)


def draw_stability(
    path: Path,
    rate_hz: NDArray[np.float64],
    similarity: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    edges_s: NDArray[np.float64],
) -> None:
    """Draw how each unit's rate and waveform change over the minutes; units by depth.

    Parameters
    ----------
    rate_hz, similarity, amplitude : array, shape (n_units, n_times)
        Similarity and amplitude are NaN where unknown.
    edges_s : array, shape (n_times + 1,), seconds
    """
    mean = rate_hz.mean(axis=1, keepdims=True)
    relative = np.divide(rate_hz, mean, out=np.zeros_like(rate_hz), where=mean > 0)
    pictures = (
        (relative, "rate, over its mean", 0.0, 2.0),
        (similarity, "similarity of waveform and template", 0.5, 1.0),
        (amplitude, "amplitude, over its template's", 0.5, 1.5),
    )
    with report_figure(path, (11, float(np.clip(1.5 + len(rate_hz) / 16, 3.2, 16)))) as figure:
        for axes, (values, title, low, high) in zip(
            figure.subplots(1, 3, sharey=True), pictures, strict=True
        ):
            image = axes.imshow(
                values,
                aspect="auto",
                interpolation="nearest",
                cmap="viridis" if low else "RdBu_r",
                vmin=low,
                vmax=high,
                origin="lower",
                extent=(edges_s[0] / 60, edges_s[-1] / 60, -0.5, len(values) - 0.5),
            )
            axes.set(title=title, xlabel="time (min)")
            figure.colorbar(image, ax=axes, shrink=0.8)
        figure.axes[0].set_ylabel("unit, from the tip up")


def draw_agreement(
    path: Path, score: NDArray[np.float64], snr: NDArray[np.float64], areas: Sequence[str]
) -> None:
    """Draw the agreement of online and offline sorting of each unit, by its SNR."""
    names = list(dict.fromkeys(areas))
    with report_figure(path, (8, 3.4)) as figure:
        by_snr, histogram = figure.subplots(1, 2, gridspec_kw={"width_ratios": [2, 1]})
        for number, name in enumerate(names):
            is_here = np.array([area == name for area in areas])
            by_snr.plot(
                snr[is_here],
                score[is_here],
                "o",
                markersize=4,
                color=COLOURS[number % len(COLOURS)],
                label=name or "(unknown)",
            )
        by_snr.set(xlabel="SNR", ylabel="matched / all different spikes", ylim=(-0.03, 1.03))
        by_snr.legend(frameon=False, fontsize=8)
        histogram.hist(score, bins=np.linspace(0, 1, 21), color=COLOURS[0])
        histogram.set(xlabel="agreement", ylabel="units")
        histogram.axvline(float(np.median(score)), color=COLOURS[1], linewidth=1)
        histogram.set_title("line: median")


def draw_curation(
    path: Path, rate_hz: NDArray[np.float64], snr: NDArray[np.float64], kept: NDArray[np.bool_]
) -> None:
    """Draw rate and SNR of every unit of the offline sorting, kept or not."""
    with report_figure(path, (5.5, 3.4)) as figure:
        axes = figure.subplots()
        for is_shown, colour, label in (
            (~kept, COLOURS[1], "excluded"),
            (kept, COLOURS[0], "kept"),
        ):
            rates = np.maximum(rate_hz[is_shown], 1e-2)
            axes.plot(rates, snr[is_shown], "o", markersize=4, color=colour, label=label)
        axes.set(xscale="log", xlabel="spikes per second", ylabel="SNR")
        axes.legend(frameon=False, fontsize=8)


def _near(templates: SorterTemplates, row: int) -> list[int]:
    unit = templates.population.units[row]
    at = templates.layout.positions_um[unit.channel or 0]
    apart = np.linalg.norm(templates.layout.positions_um - at, axis=1)
    near: list[int] = np.flatnonzero((apart <= SHOWN_UM) & templates.is_active[row]).tolist()
    return near
