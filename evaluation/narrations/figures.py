"""The report's figures, as SVG: the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation.narrations.report import CONTROLS, PairsOf, Report

SPIKES_COLOUR, CONTROL_COLOUR, TRUE_COLOUR = "#2a6f97", "#9aa5b1", "#e07a1f"
INK = "#33383d"
WIDTH_IN = 7.5
"""Inches: a page of text."""


def write_figures(report: Report, folder: Path, prefix: str = "simulated-world") -> dict[str, Path]:
    """Draw what there is numbers for.

    Parameters
    ----------
    report : Report
        What was measured.
    folder : Path
        Made if it is not there; files of the same names are replaced.
    prefix : str
        Of the file names.

    Returns
    -------
    figures : dict of str to Path
        Caption and file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"Object F1 by population": ("f1-by-population", _by_population)}
    if report.units:
        wanted["Object F1 by number of visual units"] = ("f1-by-units", _by_units)
    if report.pairs:
        wanted["How often a feature is said, by whether it is there"] = ("pairs", _by_feature)
    written = {}
    for caption, (name, draw) in wanted.items():
        path = folder / f"{prefix}-{name}.svg"
        with _figure(path) as figure:
            draw(report, figure)
        written[caption] = path
    return written


def _by_population(report: Report, figure: Any) -> None:
    narrators = {"true patches": report.true_patches, **report.spikes}
    figure.set_size_inches(WIDTH_IN, 3.2)
    axes = figure.subplots()
    for at, (name, each) in enumerate(narrators.items()):
        score = each.object_f1
        colour = CONTROL_COLOUR if name in CONTROLS else SPIKES_COLOUR
        axes.bar(at, score.value, color=TRUE_COLOUR if each.n_units is None else colour, width=0.7)
        axes.plot([at, at], [score.low, score.high], color=INK, linewidth=1.5)
        axes.plot([at - 0.35, at + 0.35], [score.chance] * 2, color=INK, linewidth=1, linestyle=":")
    labels = [
        name if each.n_units is None else f"{name}\n{each.n_units}"
        for name, each in narrators.items()
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("object F1")
    axes.set_title("Line: 95 % interval. Dots: chance. Below each name: units.", fontsize=9)


def _by_units(report: Report, figure: Any) -> None:
    figure.set_size_inches(WIDTH_IN, 3.2)
    axes = figure.subplots()
    numbers = sorted(report.units)
    scores = [report.units[each].object_f1 for each in numbers]
    values = [score.value for score in scores]
    axes.fill_between(
        numbers,
        [score.low for score in scores],
        [score.high for score in scores],
        color=SPIKES_COLOUR,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(numbers, values, color=SPIKES_COLOUR, marker="o")
    for name in CONTROLS:
        if name in report.spikes:
            value = report.spikes[name].object_f1.value
            axes.axhline(value, color=CONTROL_COLOUR, linestyle="--", linewidth=1)
            axes.text(numbers[0], value + 0.01, name, color=INK, fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(each) for each in numbers])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("visual units heard")
    axes.set_ylabel("object F1")
    axes.set_title("Band: 95 % interval", fontsize=9)


def _by_feature(report: Report, figure: Any) -> None:
    figure.set_size_inches(WIDTH_IN, 2.8)
    panels = figure.subplots(1, len(report.pairs), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, report.pairs, strict=True):
        _feature_panel(group, axes)
    panels[0].set_ylabel("rate of mention")
    # Below the panels: every rate may be 1, so that no corner is free.
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _feature_panel(group: PairsOf, axes: Any) -> None:
    for shift, which, colour in (
        (-0.18, "present", SPIKES_COLOUR),
        (0.18, "absent", CONTROL_COLOUR),
    ):
        for at, each in enumerate(group.results):
            rate = getattr(each, which)
            low, high = getattr(each, f"{which}_low"), getattr(each, f"{which}_high")
            label = f"when {which}" if at == 0 else None
            axes.bar(at + shift, rate, width=0.34, color=colour, label=label)
            axes.plot([at + shift] * 2, [low, high], color=INK, linewidth=1.2)
    axes.set_xticks(range(len(group.results)), [each.feature for each in group.results], fontsize=8)
    axes.set_ylim(0, 1.05)
    axes.set_title(group.source.replace("_", " "), fontsize=9)


@contextmanager
def _figure(path: Path) -> Iterator[Any]:
    """Hand out an empty figure and save it; no state of the library is left behind."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": "neurrate",  # else the ids inside are random
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(layout="constrained")
        FigureCanvasSVG(figure)
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
