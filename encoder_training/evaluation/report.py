"""The report of a run: who wins, by how much, and where, as Markdown with pictures.

How to read it: docs/training-report.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from contracts.atomic_files import write_text
from encoder_training.evaluation.baselines import FITS
from encoder_training.evaluation.movie_runs import FEWEST_GROUPS
from encoder_training.evaluation.report_figures import write_judged_figures, write_probe_figures
from encoder_training.evaluation.results import (
    HEADLINES,
    METRICS,
    EncoderResults,
    MethodScores,
    summary,
    verdict,
)
from encoder_training.probes.probe_files import FittedProbes, ProbeTest

BASELINES = tuple(FITS)
"""In the order of the tables."""

IN_TABLE = (
    "cosine", "skill", "within_1s", "rank", "top1", "top5", "raw_cosine", "patch_mse",
)  # fmt: skip
"""Columns of the table of methods."""

OF_TRAINING = {"curves.png": "Loss and scores over the training", "lag.png": "Choice of the lag"}
"""Pictures that training left in the folder."""


def write_report(folder: Path, judged: EncoderResults, probes: FittedProbes | None = None) -> Path:
    """Write ``report.md`` and its pictures into the folder of a run.

    ``curves.png`` and ``lag.png`` are linked if they are there.

    Parameters
    ----------
    folder : Path
        Of a run. Files of the same names are replaced.
    judged : EncoderResults
        What judging found.
    probes : FittedProbes, optional
        And what the probes are worth.

    Returns
    -------
    path : Path
        Of ``report.md``.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    figures = write_judged_figures(folder, judged)
    sections = [
        ["# What the encoder is worth", "", summary(judged, BASELINES)],
        _who_wins(judged),
        _methods(judged),
        _picture(figures, "methods.png"),
        _populations(judged),
        _picture(figures, "populations.png"),
        _over_time(judged, figures),
    ]
    if probes is not None:
        figures |= write_probe_figures(folder, probes)
        sections.append(_concepts(probes, figures))
    sections.append(_training(folder))
    path = folder / "report.md"
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    write_text(path, text + "\n")
    return path


def _who_wins(judged: EncoderResults) -> list[str]:
    rough = ""
    if judged.n_drawn < 2:
        rough = " From one nothing can be drawn, so there is no verdict: hold out more."
    elif judged.n_drawn < FEWEST_GROUPS:
        rough = f" Fewer than {FEWEST_GROUPS} were drawn from: the intervals are rough."
    return [
        "## Who wins",
        "",
        *(f"- {sentence}" for sentence in verdict(judged, BASELINES)),
        "",
        f"{judged.n_windows:,} of {judged.n_test_windows:,} test windows of {judged.n_frames:,} "
        f"frames, {judged.n_unseen:,} of which no training window shows; lag "
        f"{judged.lag_ms:g} ms. In brackets 95 % intervals, from drawing {judged.n_drawn} "
        f"{judged.drawn} with replacement.{rough}",
    ]


def _methods(judged: EncoderResults) -> list[str]:
    chance = judged.method("encoder").chance
    rows = [[each.name, *(str(each.scores[name]) for name in IN_TABLE)] for each in judged.methods]
    rows.append(["*chance*", *(_number(chance.get(name)) for name in IN_TABLE)])
    others = [each.name for each in judged.methods if each.name != "encoder"]
    leads = [
        [
            other,
            *(
                f"{judged.against(other).differences[name]} {judged.against(other).verdict(name)}"
                for name in HEADLINES
            ),
        ]
        for other in others
    ]
    chosen = [f"- {each.name}: {each.chosen}." for each in judged.methods if each.chosen]
    return [
        "## All units",
        "",
        *_table(["", *(METRICS[name] for name in IN_TABLE)], rows),
        "",
        "The encoder less each other method, window by window:",
        "",
        *_table(["", *(METRICS[name] for name in HEADLINES)], leads),
        "",
        "What validation chose for the baselines:",
        "",
        *chosen,
    ]


def _populations(judged: EncoderResults) -> list[str]:
    if not judged.populations:
        return []
    rows = [_population_row(judged, each) for each in judged.populations]
    at_chance = [
        each.population
        for each in judged.populations
        if each.name == "encoder" and each.against_chance == "at chance"
    ]
    found = ", ".join(at_chance) if at_chance else "none"
    return [
        "## By area and cell type",
        "",
        "Each through its own units alone: the encoder masked, the baselines fitted anew on these "
        f"units; {judged.n_population_windows:,} of the windows. Encoder no better than chance "
        f"within 1 s: {found}.",
        "",
        *_table(
            ["population", "units", "method", "cosine", "skill", "within 1 s",
             "chance of its answers", "less chance", "", "encoder's lead in cosine"],
            rows,
        ),
    ]  # fmt: skip


def _population_row(judged: EncoderResults, each: MethodScores) -> list[str]:
    lead = ""
    if each.name != "encoder":
        against = judged.against(each.name, each.population)
        lead = f"{against.differences['cosine']} {against.verdict('cosine')}"
    return [
        each.population,
        str(each.n_units),
        each.name,
        *(str(each.scores[name]) for name in HEADLINES),
        _number(each.chance["within_1s_answers"]),
        str(each.scores["within_1s_above_chance"]),
        each.against_chance,
        lead,
    ]


def _over_time(judged: EncoderResults, figures: dict[str, str]) -> list[str]:
    if judged.over_time is None:
        return ["## Over the movie", "", "No stimulus of the test windows has a time of its own."]
    return [
        f"## Over {judged.over_time.movie}",
        "",
        *_picture(figures, "over_time.png"),
        "",
        *_picture(figures, "decoded.png"),
    ]


def _concepts(probes: FittedProbes, figures: dict[str, str]) -> list[str]:
    if not probes.concepts:
        return ["## Concepts", "", "No word stands in 5 to 95 % of the captions: no probes."]
    missing = [each.concept for each in _of_all(probes) if not each.is_scored]
    rows = []
    for each in _of_all(probes):
        others = [probes.of(each.concept, name).auc for name in probes.populations[1:]]
        rows.append(
            [
                each.concept,
                f"{each.n_with} / {each.n}",
                str(each.auc) if each.is_scored else "absent in test, or in every frame",
                _number(each.calibration_error),
                f"{each.log_loss_uncalibrated:.3f} / {each.log_loss:.3f}",
                *(_number(auc.value) for auc in others),
            ]
        )
    return [
        "## Concepts",
        "",
        "Linear probes on the mean patch. Area under the ROC curve for all units with its "
        "interval, expected calibration error, log loss before and after calibration; then the "
        "area for each population.",
        *([f"Not scored: {', '.join(missing)}."] if missing else []),
        "",
        *_table(
            ["concept", "test windows with", "AUC, all", "calibration error", "log loss",
             *probes.populations[1:]],
            rows,
        ),
        "",
        *_picture(figures, "roc.png"),
        "",
        *_picture(figures, "calibration.png"),
    ]  # fmt: skip


def _of_all(probes: FittedProbes) -> list[ProbeTest]:
    return [probes.of(concept) for concept in probes.concepts]


def _training(folder: Path) -> list[str]:
    found = {name: text for name, text in OF_TRAINING.items() if (folder / name).exists()}
    if not found:
        return []
    return ["## Training", "", *(line for name in found for line in _picture(found, name))]


def _picture(figures: dict[str, str], name: str) -> list[str]:
    return [f"![{figures[name]}]({name})"] if name in figures else []


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
