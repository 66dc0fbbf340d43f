"""The report of a run: encoder against baselines and controls, as Markdown with figures.

How to read it: docs/training-report.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from contracts.atomic_files import write_text
from encoder_training.confidence.results import FittedConfidence
from encoder_training.evaluation.baselines import FITS
from encoder_training.evaluation.movie_runs import FEWEST_GROUPS
from encoder_training.evaluation.report_confidence import (
    confidence_section,
    write_confidence_figure,
)
from encoder_training.evaluation.report_figures import write_probe_figures, write_result_figures
from encoder_training.evaluation.report_findings import chance_findings, seen_frames
from encoder_training.evaluation.results import (
    HEADLINES,
    METRICS,
    EncoderResults,
    MethodScores,
    summary,
    verdict,
)
from encoder_training.pictures import markdown
from encoder_training.probes.probe_files import FittedProbes, ProbeTest

BASELINES = tuple(FITS)
"""In the order of the tables."""

IN_TABLE = (
    "cosine", "skill", "within_1s", "rank", "top1", "top5", "raw_cosine", "patch_mse",
)  # fmt: skip
"""Columns of the table of methods."""

OF_TRAINING = {"curves.png": "Loss and scores over the training", "lag.png": "Choice of the lag"}
"""Pictures that training left in the folder."""


def write_report(
    folder: Path,
    results: EncoderResults,
    probes: FittedProbes | None = None,
    confidence: FittedConfidence | None = None,
    *,
    variant: str = "",
) -> Path:
    """Write ``report.md`` and its pictures into the folder of a run.

    ``curves.png`` and ``lag.png`` are linked if they are there. `variant` is the encoder's.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    """
    figures = write_result_figures(folder, results)
    sections = [
        ["# Evaluation of the encoder", "", summary(results, BASELINES)],
        _who_wins(results),
        _methods(results),
        _picture(figures, "methods.png"),
        seen_frames(results, BASELINES, variant),
        _populations(results),
        _picture(figures, "populations.png"),
        _over_time(results, figures),
    ]
    if probes is not None:
        figures |= write_probe_figures(folder, probes)
        sections.append(_concepts(results, probes, figures))
    if confidence is not None:
        write_confidence_figure(folder, confidence)
        sections.append(confidence_section(confidence, results.text))
    sections.append(_training(folder))
    path = folder / "report.md"
    text = "\n\n".join("\n".join(lines) for lines in sections if lines)
    write_text(path, text + "\n")
    return path


def _who_wins(results: EncoderResults) -> list[str]:
    drawn, verdicts = "", [f"- {sentence}" for sentence in verdict(results, BASELINES)]
    if results.has_intervals:
        drawn = (
            f" In brackets 95 % intervals, from drawing {results.n_drawn} {results.drawn} with "
            "replacement."
        )
        if results.n_drawn < FEWEST_GROUPS:
            drawn += f" Fewer than {FEWEST_GROUPS} were drawn from: the intervals are rough."
    return [
        *(["## Encoder against baselines", "", *verdicts, ""] if verdicts else []),
        f"{results.n_windows:,} of {results.n_test_windows:,} test windows of {results.n_frames:,} "
        f"frames, {results.n_unseen:,} of which no training window shows; lag "
        f"{results.lag_ms:g} ms.{drawn}",
    ]


def _methods(results: EncoderResults) -> list[str]:
    chance = results.method("encoder").chance
    rows = [
        [method.name, *(results.text(method.scores[name]) for name in IN_TABLE)]
        for method in results.methods
    ]
    rows.append(["*chance*", *(_number(chance.get(name)) for name in IN_TABLE)])
    chosen = [f"- {method.name}: {method.chosen}." for method in results.methods if method.chosen]
    return [
        "## All units",
        "",
        *_table(["", *(METRICS[name] for name in IN_TABLE)], rows),
        "",
        *_leads(results),
        "What validation chose for the baselines:",
        "",
        *chosen,
    ]


def _leads(results: EncoderResults) -> list[str]:
    if not results.has_intervals:
        return []
    rows = []
    for method in results.methods:
        if method.name != "encoder":
            against = results.against(method.name)
            leads = (f"{against.differences[name]} {against.verdict(name)}" for name in HEADLINES)
            rows.append([method.name, *leads])
    return [
        "The encoder less each other method, window by window:",
        "",
        *_table(["", *(METRICS[name] for name in HEADLINES)], rows),
        "",
    ]


def _populations(results: EncoderResults) -> list[str]:
    if not results.populations:
        return []
    rows = [_population_row(results, method) for method in results.populations]
    verdicts = [""] if results.has_intervals else []
    return [
        "## By area and cell type",
        "",
        "Each through its own units alone: the encoder masked, the baselines fitted anew on these "
        f"units; {results.n_population_windows:,} of the windows.",
        "",
        *(line for finding in chance_findings(results) for line in (f"- {finding}", "")),
        *_table(
            ["population", "units", "method", "cosine", "skill", "within 1 s",
             "chance of its answers", "less chance", *verdicts, "encoder's lead in cosine"],
            rows,
        ),
    ]  # fmt: skip


def _population_row(results: EncoderResults, method: MethodScores) -> list[str]:
    lead = ""
    if method.name != "encoder":
        against = results.against(method.name, method.population)
        lead = results.text(against.differences["cosine"])
        if results.has_intervals:
            lead += f" {against.verdict('cosine')}"
    return [
        markdown(method.population),
        str(method.n_units),
        method.name,
        *(results.text(method.scores[name]) for name in HEADLINES),
        _number(method.chance["within_1s_answers"]),
        results.text(method.scores["within_1s_above_chance"]),
        *([method.against_chance] if results.has_intervals else []),
        lead,
    ]


def _over_time(results: EncoderResults, figures: dict[str, str]) -> list[str]:
    if results.over_time is None:
        return ["## Over the movie", "", "No stimulus of the test windows has a time of its own."]
    return [
        f"## Over {results.over_time.movie}",
        "",
        *_picture(figures, "over_time.png"),
        "",
        *_picture(figures, "decoded.png"),
    ]


def _concepts(results: EncoderResults, probes: FittedProbes, figures: dict[str, str]) -> list[str]:
    if not probes.concepts:
        return ["## Concepts", "", "No word stands in 5 to 95 % of the captions: no probes."]
    missing = [test.concept for test in _of_all(probes) if not test.is_scored]
    rows = []
    for test in _of_all(probes):
        others = [probes.of(test.concept, name).auc for name in probes.populations[1:]]
        rows.append(
            [
                test.concept,
                f"{test.n_with} / {test.n}",
                results.text(test.auc) if test.is_scored else "absent in test, or in every frame",
                _number(test.calibration_error),
                f"{test.log_loss_uncalibrated:.3f} / {test.log_loss:.3f}",
                *(_number(auc.value) for auc in others),
            ]
        )
    return [
        "## Concepts",
        "",
        "Linear probes on the mean patch. Area under the ROC curve for all units, expected "
        "calibration error, log loss before and after calibration; then the area for each "
        "population.",
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
    pictures = {name: text for name, text in OF_TRAINING.items() if (folder / name).exists()}
    if not pictures:
        return []
    return ["## Training", "", *(line for name in pictures for line in _picture(pictures, name))]


def _picture(figures: dict[str, str], name: str) -> list[str]:
    return [f"![{figures[name]}]({name})"] if name in figures else []


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
