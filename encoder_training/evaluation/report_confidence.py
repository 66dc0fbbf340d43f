"""The report's section on confidence: how well it is calibrated, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.confidence import CHANCE
from contracts.population import CONTROLS
from encoder_training.confidence.results import ConfidenceTest, FittedConfidence
from encoder_training.evaluation.bootstrap import Interval
from encoder_training.pictures import markdown, report_figure

PICTURE = "confidence.png"
DPI = 130
COLOUR, GREY, INK = "#2a6f97", "#c3cad1", "#33383d"


def confidence_section(
    fitted: FittedConfidence, text: Callable[[Interval], str] = str
) -> list[str]:
    """Return the section, with a link to the picture that `write_confidence_figure` draws.

    `text` writes a score with or without its interval.
    """
    head = ["## Confidence", ""]
    pooled, selective = fitted.pooled, fitted.selective
    if pooled is None or selective is None:
        return [*head, f"No calibration: {fitted.reason}. Narrations will have no confidence."]
    return [
        *head,
        "The probability that the frame that was shown is among the tenth of "
        f"{fitted.n_candidates:,} held-out frames that are most like the decoded patches; "
        f"{CHANCE:g} by chance. Fitted to {fitted.n_windows:,} validation windows of "
        f"{fitted.n_groups} groups, each through a population drawn at random.",
        "",
        f"On test windows, all populations below together: expected calibration error "
        f"{text(pooled.error)}. {text(selective.of_all)} of the decodings are right, and "
        f"{text(selective.at_half)} of the surer half.",
        *_unsure_populations(fitted.populations),
        "",
        "| population | windows | mean confidence | right | calibration error |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {markdown(test.population)} | {test.n} | {text(test.confidence)} | "
            f"{text(test.right)} | {text(test.error)} |"
            for test in fitted.populations
        ),
        f"| *chance* | | | {CHANCE:.3f} | |",
        "",
        f"![Confidence against what was right, and accuracy of the surest]({PICTURE})",
    ]


def _unsure_populations(tests: tuple[ConfidenceTest, ...]) -> list[str]:
    """Return sentences about populations that see nothing, and about those that are too sure."""
    known = [test for test in tests if test.right.is_known]
    at_chance = [
        f"{markdown(test.population)} {test.confidence.value:.3f}"
        for test in known
        if test.right.low <= CHANCE
    ]
    too_sure = [
        f"{markdown(test.population)} ({test.confidence.value:.2f}, right {test.right.value:.2f})"
        for test in known
        if test.confidence.value > test.right.high
    ]
    sentences = []
    if at_chance:
        sentences.append(
            f"Mean confidence where the encoder's decodings are at chance ({CHANCE:g}): "
            f"{', '.join(at_chance)}."
        )
    if too_sure:
        sentences.append(f"**Too sure**: {', '.join(too_sure)}.")
    return ["", " ".join(sentences)] if sentences else []


def write_confidence_figure(folder: Path, fitted: FittedConfidence) -> None:
    """Draw the reliability diagram, the accuracy of the surest, and each population."""
    if fitted.pooled is None or fitted.selective is None:
        return
    height_in = max(3.2, 1.2 + 0.24 * len(fitted.populations))
    with report_figure(folder / PICTURE, (10.5, height_in), dpi=DPI) as figure:
        by_bin, by_share, by_population = figure.subplots(1, 3)
        _reliability(by_bin, fitted)
        _selective(by_share, fitted)
        _populations(by_population, fitted.populations)


def _reliability(axes: Any, fitted: FittedConfidence) -> None:
    for test in fitted.populations:
        axes.plot(test.reliability.predicted, test.reliability.happened, color=GREY, linewidth=0.7)
    pooled = fitted.pooled
    if pooled is not None:
        binned = pooled.reliability
        size = [4 + 50 * n / pooled.n for n in binned.n]
        axes.plot(binned.predicted, binned.happened, color=COLOUR, linewidth=1.4)
        axes.scatter(binned.predicted, binned.happened, s=size, color=COLOUR, zorder=3)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(CHANCE, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set(xlabel="confidence", ylabel="share in the best tenth")
    axes.set_title("Blue: all together. Grey: each population.", fontsize=9)


def _selective(axes: Any, fitted: FittedConfidence) -> None:
    selective = fitted.selective
    if selective is None:
        return
    axes.plot(selective.kept, selective.right, color=COLOUR, linewidth=1.6)
    at_half = selective.at_half
    axes.plot([0.5, 0.5], [at_half.low, at_half.high], color=INK, linewidth=1.6)
    axes.plot(0.5, at_half.value, "o", color=INK, markersize=4)
    axes.axhline(CHANCE, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.set(xlabel="share of windows kept, the surest first", ylabel="share of these right")
    axes.set_title("Line: 95 % interval at half.", fontsize=9)


def _populations(axes: Any, tests: tuple[ConfidenceTest, ...]) -> None:
    for at, test in enumerate(tests):
        colour = INK if test.population in CONTROLS else COLOUR
        axes.plot([test.right.low, test.right.high], [at, at], color=colour, linewidth=1.6)
        axes.plot(test.right.value, at, "o", color=colour, markersize=4)
        axes.plot(test.confidence.value, at, "D", mfc="none", color=colour, markersize=5)
    n = len(tests)
    names = [test.population for test in tests]
    axes.set_yticks(range(n), names, fontsize=8 if n < 15 else 6)
    axes.set_ylim(n - 0.5, -0.5)
    axes.axvline(CHANCE, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlim(-0.03, 1.03)
    axes.set_title("Full: right. Open: mean confidence.", fontsize=9)
