"""The figures of the report, as reproducible SVG: equal numbers give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.population import CONTROLS
from evaluation.narrations.report import ClipResults, Report

SPIKES_COLOUR, CONTROL_COLOUR, TRUE_COLOUR = "#2a6f97", "#9aa5b1", "#e07a1f"
INK = "#33383d"
WIDTH_IN = 7.5  # Inches: a page of text


def write_figures(report: Report, folder: Path, prefix: str = "simulated-world") -> dict[str, Path]:
    """Draw every figure for which there are numbers, and return caption and file of each.

    The folder is created if it does not exist; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"Object F1 by population": ("f1-by-population", _by_population)}
    if report.units:
        wanted["Object F1 by number of visual units"] = ("f1-by-units", _by_units)
    if report.pairs:
        wanted["How often a feature is mentioned, by whether it is shown"] = ("pairs", _by_feature)
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
    for x, (name, narrator) in enumerate(narrators.items()):
        score = narrator.object_f1
        colour = CONTROL_COLOUR if name in CONTROLS else SPIKES_COLOUR
        colour = TRUE_COLOUR if narrator.n_units is None else colour
        axes.bar(x, score.value, color=colour, width=0.7)
        axes.plot([x, x], [score.low, score.high], color=INK, linewidth=1.5)
        axes.plot([x - 0.35, x + 0.35], [score.chance] * 2, color=INK, linewidth=1, linestyle=":")
    labels = [
        name if narrator.n_units is None else f"{name}\n{narrator.n_units}"
        for name, narrator in narrators.items()
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("object F1")
    axes.set_title("Line: 95 % interval. Dots: chance. Below each name: units.", fontsize=9)


def _by_units(report: Report, figure: Any) -> None:
    figure.set_size_inches(WIDTH_IN, 3.2)
    axes = figure.subplots()
    numbers = sorted(report.units)
    scores = [report.units[n].object_f1 for n in numbers]
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
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("visual units")
    axes.set_ylabel("object F1")
    axes.set_title("Band: 95 % interval", fontsize=9)


def _by_feature(report: Report, figure: Any) -> None:
    figure.set_size_inches(WIDTH_IN, 2.8)
    panels = figure.subplots(1, len(report.pairs), sharey=True, squeeze=False)[0]
    for axes, clips in zip(panels, report.pairs, strict=True):
        _feature_panel(clips, axes)
    panels[0].set_ylabel("rate of mention")
    # Below the panels: every rate may be 1, so no corner of a panel is free.
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _feature_panel(clips: ClipResults, axes: Any) -> None:
    for shift, which, colour in (
        (-0.18, "present", SPIKES_COLOUR),
        (0.18, "absent", CONTROL_COLOUR),
    ):
        for x, pair in enumerate(clips.results):
            rate = getattr(pair, which)
            low, high = getattr(pair, f"{which}_low"), getattr(pair, f"{which}_high")
            label = f"when {which}" if x == 0 else None
            axes.bar(x + shift, rate, width=0.34, color=colour, label=label)
            axes.plot([x + shift] * 2, [low, high], color=INK, linewidth=1.2)
    axes.set_xticks(range(len(clips.results)), [pair.feature for pair in clips.results], fontsize=8)
    axes.set_ylim(0, 1.05)
    axes.set_title(clips.source.replace("_", " "), fontsize=9)


@contextmanager
def _figure(path: Path) -> Iterator[Any]:
    """Yield an empty figure and save it; matplotlib's global state is unchanged."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": "neurrate",  # else the ids inside are random
        "svg.fonttype": "none",
        "text.parse_math": False,  # a dollar in a name is no formula
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(layout="constrained")
        FigureCanvasSVG(figure)
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
