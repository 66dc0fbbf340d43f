"""The report of a data set: its contents, and what an analyst should look at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import write_text
from encoder_training.data_set.prepared import PreparedSet, Role
from encoder_training.data_set.report_figures import (
    ALIGNMENT,
    RATES,
    RESPONSE,
    SPLIT,
    draw_alignment,
    draw_rates,
    draw_response,
    draw_split,
)
from encoder_training.data_set.report_measures import (
    Alignment,
    Response,
    measure_alignment,
    measure_response,
    unit_rates,
)
from encoder_training.data_set.stimulus import StimulusTable
from encoder_training.pictures import markdown

REPORT = "report.md"
REPORT_FILES = (REPORT, ALIGNMENT, RATES, RESPONSE, SPLIT)


def write_prepare_report(
    folder: Path, prepared: PreparedSet, presented: StimulusTable, *, notes: Sequence[str] = ()
) -> Path:
    """Write ``report.md`` and its pictures into the folder of a data set.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    measured = [measure_alignment(presented, row) for row in range(len(presented.movies))]
    areas = [unit.area for unit in prepared.population.units]
    rate_hz = unit_rates(prepared)
    response = measure_response(prepared, presented)
    draw_alignment(folder / ALIGNMENT, presented, measured)
    draw_rates(folder / RATES, areas, rate_hz)
    draw_split(folder / SPLIT, presented, prepared.shown.role)
    if response is not None:
        draw_response(folder / RESPONSE, areas, response)
    else:
        (folder / RESPONSE).unlink(missing_ok=True)
    sections = [
        _head(prepared),
        [f"- {note}." for note in notes],
        _movies(presented, measured),
        _alignment(measured),
        _split(prepared),
        _units(areas, rate_hz),
        _response(response),
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    path = folder / REPORT
    write_text(path, text + "\n")
    return path


def _head(prepared: PreparedSet) -> list[str]:
    window, spans = prepared.window, prepared.spans
    seconds = spans.n_rows / window.rate.bins_per_s
    captioned = sum(bool(caption) for caption in prepared.frames.captions)
    return [
        f"# Data set of {prepared.training_data.recording}",
        "",
        f"{len(prepared.population):,} units, {spans.n_rows:,} bins of "
        f"{1e3 / window.rate.bins_per_s:.3g} ms ({seconds:,.0f} s, "
        f"{len(spans.first_bin)} intervals), windows of {window.n_bins} bins. "
        f"{len(prepared.frames.captions):,} target frames, {captioned:,} of them with a caption. "
        f"Patches of {prepared.language_model.model_id}: {prepared.grid.rows} x "
        f"{prepared.grid.cols} of {prepared.grid.dim} numbers.",
    ]


def _movies(presented: StimulusTable, measured: Sequence[Alignment]) -> list[str]:
    lines = [
        "## What was shown",
        "",
        "| movie | frames | targets | repeats | presentations | blanks | usual length (ms) | long "
        "| holes | numbers without a row |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row, (name, one) in enumerate(zip(presented.movies, measured, strict=True)):
        of_movie = presented.movie == row
        cells = [
            f"{presented.n_frames[row]:,}",
            f"{int((presented.target_movie == row).sum()):,}",
            f"{presented.n_repeats[row]:,}",
            f"{int(of_movie.sum()):,}",
            f"{int((of_movie & (presented.number < 0)).sum()):,}",
            f"{1e3 * one.usual_s:.3f}",
            f"{one.n_long:,}",
            f"{one.n_holes:,}",
            f"{one.n_skipped:,}",
        ]
        lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
    return lines


def _alignment(measured: Sequence[Alignment]) -> list[str]:
    off = np.concatenate([one.tiled_off for one in measured])
    return [
        "## Alignment",
        "",
        f"Labels are looked up in the presentation table. Labels tiled at a whole number of "
        f"frames a second would be off for {(off != 0).mean():.0%} of the presentations, by up to "
        f"{int(np.abs(off).max()):,} frames.",
        "",
        f"![Lengths of the presentations, and how far tiled labels would be off]({ALIGNMENT})",
    ]


def _split(prepared: PreparedSet) -> list[str]:
    data, parts = prepared.windows(prepared.window.lag_ns)
    shown = prepared.shown
    lines = [
        "## Training, validation, test",
        "",
        f"Windows at a lag of {prepared.window.lag_ns / 1e6:g} ms; no two of the three share a "
        "bin, those of training moved by their margin included.",
        "",
        "| part | windows | frames | groups |",
        "| --- | ---: | ---: | ---: |",
    ]
    for role, rows in zip(Role, (parts.train, parts.validation, parts.test), strict=True):
        n_frames = len(np.unique(data.frame[rows]))
        n_groups = len(np.unique(shown.group[shown.role == role]))
        lines.append(f"| {role.name.lower()} | {len(rows):,} | {n_frames:,} | {n_groups:,} |")
    return [*lines, "", f"![Which frames of which repeats are for what]({SPLIT})"]


def _units(areas: Sequence[str], rate_hz: NDArray[np.float64]) -> list[str]:
    names, counts = np.unique(np.array(areas), return_counts=True)
    of_area = np.array(areas)
    lines = [
        "## Units",
        "",
        "| area | units | median rate (Hz) | silent |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in np.argsort(-counts, kind="stable").tolist():
        rates = rate_hz[of_area == names[row]]
        lines.append(
            f"| {markdown(names[row]) or '(unknown)'} | {counts[row]:,} | {np.median(rates):.2f} | "
            f"{int((rates == 0).sum()):,} |"
        )
    return [*lines, "", f"![Units and rates of each area]({RATES})"]


def _response(response: Response | None) -> list[str]:
    title = ["## Do the units see the movie?", ""]
    if response is None:
        return [
            *title,
            "Not known: there are too few changes of the picture between target frames. More "
            "targets (a smaller --every) or a longer movie would tell.",
        ]
    return [
        *title,
        f"{response.n_changes:,} changes of scene: frames whose patches differ most from those "
        "before; and how much of the units' variance over the changes the new picture explains. In "
        "areas that see the movie this rises some tens of milliseconds after the change; where "
        "nothing rises, frames and spikes may not share their clock. It is above zero before the "
        "change where a movie was repeated, because each scene follows the same one.",
        "",
        f"![What the new picture explains around changes of scene]({RESPONSE})",
    ]
