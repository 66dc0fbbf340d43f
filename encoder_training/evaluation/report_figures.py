"""Pictures of a run's report."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from encoder_training.evaluation.baselines import FITS
from encoder_training.evaluation.results import (
    HEADLINES,
    MEAN_PATCHES,
    METRICS,
    SHUFFLED_UNITS,
    EncoderResults,
    OverTime,
)
from encoder_training.pictures import report_figure
from encoder_training.probes.probe_files import FittedProbes

OF_BASELINES = ("#e07a1f", "#4f8a5b", "#8a5a9e", "#b5495b", "#7a6a2f")
"""In turn."""

COLOURS = {
    "encoder": "#2a6f97",
    **dict(zip(FITS, itertools.cycle(OF_BASELINES), strict=False)),
    MEAN_PATCHES: "#9aa5b1",
    SHUFFLED_UNITS: "#c9ced3",
}
"""Of each method."""

INK = "#33383d"
DPI = 130

MOST_CURVES = 20
"""Concepts whose ROC curves are drawn, those with the largest area first."""

COLUMNS = 5
"""Of small pictures in a row."""


def write_result_figures(folder: Path, results: EncoderResults) -> dict[str, str]:
    """Draw methods, populations and movie time."""
    figures = {"methods.png": "Scores of each method, all units"}
    with report_figure(folder / "methods.png", (9, 3.0), dpi=DPI) as figure:
        _methods(figure, results)
    if results.populations:
        figures["populations.png"] = "Encoder and baselines by population"
        n = len({method.population for method in results.populations})
        with report_figure(folder / "populations.png", (9, 1.6 + 0.62 * n), dpi=DPI) as figure:
            _populations(figure, results)
    if results.over_time is not None:
        figures["over_time.png"] = "Decoding accuracy over the time of the movie"
        figures["decoded.png"] = "Decoded time against true time"
        with report_figure(folder / "over_time.png", (9, 3.2), dpi=DPI) as figure:
            _over_time(figure, results, results.over_time)
        with report_figure(folder / "decoded.png", (9, 2.9), dpi=DPI) as figure:
            _decoded(figure, results.over_time)
    return figures


def write_probe_figures(folder: Path, probes: FittedProbes) -> dict[str, str]:
    """Draw ROC curves and calibration."""
    if not any(probes.of(concept).is_scored for concept in probes.concepts):
        return {}
    n = min(MOST_CURVES, sum(probes.of(concept).is_scored for concept in probes.concepts))
    n_rows = -(-n // COLUMNS)
    with report_figure(folder / "roc.png", (9, 0.7 + 1.9 * n_rows), dpi=DPI) as figure:
        _roc(figure, probes, n_rows)
    with report_figure(folder / "calibration.png", (9, 3.6), dpi=DPI) as figure:
        _calibration(figure, probes)
    return {
        "roc.png": "ROC of each concept, by population",
        "calibration.png": "Calibration of the probes, all units",
    }


def _methods(figure: Any, results: EncoderResults) -> None:
    panels = figure.subplots(1, len(HEADLINES))
    names = [method.name for method in results.methods]
    for axes, metric in zip(panels, HEADLINES, strict=True):
        for at, method in enumerate(results.methods):
            score = method.scores[metric]
            axes.plot([score.low, score.high], [at, at], color=COLOURS[method.name], linewidth=2)
            axes.plot(score.value, at, "o", color=COLOURS[method.name])
        chance = results.methods[0].chance.get(metric, 0.0 if metric == "skill" else None)
        if chance is not None:
            axes.axvline(chance, color=INK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(METRICS[metric])
    figure.suptitle(f"{_of_lines(results)}Dots: chance, or the mean patches.", fontsize=9)


def _populations(figure: Any, results: EncoderResults) -> None:
    shown = list(dict.fromkeys(method.population for method in results.populations))
    panels = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(method.name for method in results.populations))
    for axes, metric in zip(panels, ("cosine", "within_1s_above_chance"), strict=True):
        for method in results.populations:
            at = shown.index(method.population) + 0.18 * (
                methods.index(method.name) - (len(methods) - 1) / 2
            )
            score = method.scores[metric]
            label = method.name if method.population == shown[0] else None
            axes.plot([score.low, score.high], [at, at], color=COLOURS[method.name], linewidth=1.6)
            axes.plot(score.value, at, "o", ms=4, color=COLOURS[method.name], label=label)
        axes.set_xlabel(METRICS[metric])
        for edge in range(1, len(shown)):
            axes.axhline(edge - 0.5, color="#e4e7ea", linewidth=0.8, zorder=0)
    panels[1].axvline(0, color=INK, linewidth=1, linestyle=":")
    mean = results.method(MEAN_PATCHES).scores["cosine"].value
    panels[0].axvline(mean, color=INK, linewidth=1, linestyle=":")
    units = {method.population: method.n_units for method in results.populations}
    panels[0].set_yticks(
        range(len(shown)), [f"{population}\n{units[population]} units" for population in shown]
    )
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(
        f"{_of_lines(results)}Dots: the mean patches on the left, chance on the right.", fontsize=9
    )


def _of_lines(results: EncoderResults) -> str:
    return "Line: 95 % interval. " if results.has_intervals else ""


def _over_time(figure: Any, results: EncoderResults, decoding: OverTime) -> None:
    axes = figure.subplots()
    middle_s = (np.array(decoding.edge_s[1:]) + np.array(decoding.edge_s[:-1])) / 2
    for name, accuracy in decoding.accuracy.items():
        if name == MEAN_PATCHES:  # it is like no frame, and decodes none
            continue
        is_control = name == SHUFFLED_UNITS
        axes.plot(
            middle_s,
            accuracy,
            color=COLOURS[name],
            label=name,
            marker="." if not is_control else None,
            linestyle="--" if is_control else "-",
            linewidth=2 if name == "encoder" else 1.2,
            zorder=3 if name == "encoder" else 2,
        )
    chance = results.method("encoder").chance["within_1s"]
    axes.axhline(chance, color=INK, linewidth=1, linestyle=":", label="chance")
    axes.set(
        xlabel=f"time in {decoding.movie} (s)", ylabel="decoded within 1 s", ylim=(-0.03, 1.03)
    )
    axes.set_xlim(decoding.edge_s[0], decoding.edge_s[-1])
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)


def _decoded(figure: Any, decoding: OverTime) -> None:
    names = [name for name in decoding.decoded if name not in {MEAN_PATCHES, SHUFFLED_UNITS}]
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    span = (decoding.edge_s[0], decoding.edge_s[-1])
    for axes, name in zip(panels, names, strict=True):
        table = np.array(decoding.decoded[name], dtype=np.float64)
        n = table.sum(axis=1, keepdims=True)
        share = np.divide(table, n, out=np.full_like(table, np.nan), where=n > 0)
        image = axes.imshow(
            share.T, origin="lower", extent=(*span, *span), vmin=0, vmax=1, cmap="Blues",
            interpolation="nearest",
        )  # fmt: skip
        axes.plot(span, span, color=INK, linewidth=0.6, linestyle=":")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("true time (s)")
    panels[0].set_ylabel("decoded time (s)")
    figure.colorbar(image, ax=panels, label="share of windows", shrink=0.8)


def _roc(figure: Any, probes: FittedProbes, n_rows: int) -> None:
    scored = [probes.of(concept) for concept in probes.concepts]
    scored = sorted(
        (test for test in scored if test.is_scored), key=lambda e: (-e.auc.value, e.concept)
    )[:MOST_CURVES]
    n_columns = min(COLUMNS, len(scored))
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, of_all in zip(panels, scored, strict=False):
        for population in probes.populations[1:]:
            axes.plot(*probes.of(of_all.concept, population).roc, color="#c3cad1", linewidth=0.7)
        axes.plot(*of_all.roc, color=COLOURS["encoder"], linewidth=1.6)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.6, linestyle=":")
        axes.set_title(f"{of_all.concept}  {of_all.auc.value:.2f}", fontsize=8)
        axes.set_xticks([0, 1])
        axes.set_yticks([0, 1])
        axes.set_aspect("equal")
    for axes in panels[len(scored) :]:
        axes.set_visible(False)
    figure.supxlabel("false alarms", fontsize=9)
    figure.supylabel("hits", fontsize=9)
    n_all = sum(probes.of(concept).is_scored for concept in probes.concepts)
    which = "" if n_all == len(scored) else f"The {len(scored)} best of {n_all}. "
    figure.suptitle(
        f"{which}Blue: all units, with its area. Grey: each area and cell type.", fontsize=9
    )


def _calibration(figure: Any, probes: FittedProbes) -> None:
    axes, of_errors = figure.subplots(1, 2)
    tests = [probes.of(concept) for concept in probes.concepts]
    predicted, happened, windows = (
        np.concatenate([np.asarray(getattr(test.reliability, name), float) for test in tests])
        for name in ("predicted", "happened", "n")
    )
    axes.scatter(
        predicted, happened, s=2 + 60 * windows / windows.max(), color="#c3cad1", linewidths=0
    )
    tenth = np.minimum((10 * predicted).astype(int), 9)
    pooled = [
        [np.average(test[tenth == row], weights=windows[tenth == row]) for row in np.unique(tenth)]
        for test in (predicted, happened)
    ]
    axes.plot(*pooled, "o-", color=COLOURS["encoder"], markersize=4)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="probability that the probe gives", ylabel="share of windows with the concept")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_title("Blue: all concepts. Grey: each, larger for more windows.", fontsize=9)
    for at, population in enumerate(probes.populations):
        through = [probes.of(concept, population) for concept in probes.concepts]
        before, after = (
            np.mean([getattr(test, name) for test in through])
            for name in ("log_loss_uncalibrated", "log_loss")
        )
        of_errors.plot(before, at, "o", mfc="none", color=INK)
        of_errors.plot(after, at, "o", color=COLOURS["encoder"])
    n = len(probes.populations)
    of_errors.set_yticks(range(n), probes.populations, fontsize=8 if n < 15 else 6)
    of_errors.set_ylim(n - 0.5, -0.5)
    of_errors.set_xlabel("log loss, mean over concepts (nats)")
    of_errors.set_title("Before calibration: open. After: full.", fontsize=9)
