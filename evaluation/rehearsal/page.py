"""The page of a rehearsal: its tables, and a picture of the scores."""

from __future__ import annotations

from pathlib import Path

from encoder_training.calibration.report import paragraphs, picture, table, write_page
from encoder_training.pictures import report_figure
from evaluation.rehearsal.report import Rehearsal

COLOURS = {"all": "#2a6f97", "shuffled": "#9aa5b1", "silent": "#c9ced6"}
INK = "#33383d"


def write_rehearsal_page(path: Path, rehearsal: Rehearsal, *, picture_path: Path) -> None:
    """Write the page; the picture is part of it, and a file of its own beside it."""
    draw_scores(picture_path, rehearsal)
    facts = rehearsal.facts
    head = (
        f"A simulated animal, not a recording: {facts['n_planted_units']} units on "
        f"{facts['n_channels']} channels, {facts['calibration_minutes']:.1f} minutes to calibrate "
        f"and train on ({facts['n_train_scenes']} scenes), {facts['live_minutes']:.1f} minutes "
        f"live, {facts['n_test_scenes']} scenes that no training has used. Offline sorter: "
        f"{facts['sorter']}. "
        f"{facts['n_scenes_without_live_narration']} of them had no live narration and count "
        "as wrong. White noise, no drift, no neurons beyond the probe: a real recording is harder."
    )
    seconds: list[dict[str, object]] = [
        {"part": name, "seconds": value} for name, value in rehearsal.seconds.items()
    ]
    write_page(
        path,
        "Rehearsal: from voltages to narrations",
        {
            "": paragraphs(head, f"Made by: {rehearsal.command}"),
            "Scores": picture(picture_path, "Object F1 by step; dots: chance; lines: 95 %")
            + table(rehearsal.score_rows()),
            "What each step loses": table(rehearsal.loss_rows()),
            "Sorting against the planted spikes": table(rehearsal.sorting_rows()),
            "How late": table(rehearsal.latency_rows()),
            "How long it took": table(seconds),
        },
    )


def draw_scores(path: Path, rehearsal: Rehearsal) -> None:
    """Draw the object F1 of each step with its controls."""
    with report_figure(path, (7.5, 3.2)) as figure:
        axes = figure.subplots()
        for x, (_, populations) in enumerate(rehearsal.scores.items()):
            for number, (name, scores) in enumerate(populations.items()):
                one = scores["object_f1"]
                at = x + 0.26 * (number - (len(populations) - 1) / 2)
                label = name if x == len(rehearsal.scores) - 1 else None
                axes.bar(at, one.value, width=0.24, color=COLOURS[name], label=label)
                axes.plot([at, at], [one.low, one.high], color=INK, linewidth=1.2)
                axes.plot([at - 0.12, at + 0.12], [one.chance] * 2, color=INK, linestyle=":")
        axes.set_xticks(range(len(rehearsal.scores)), list(rehearsal.scores))
        axes.set(ylabel="object F1", ylim=(0, 1))
        axes.legend(frameon=False, fontsize=8)
