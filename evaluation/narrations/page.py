"""The report of `simulate score` as a Markdown page with tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from encoder_training.evaluation.bootstrap import Interval
from evaluation.narrations.facts_score import SCORES
from evaluation.narrations.report import NarratorScores, Report
from evaluation.narrations.sbert import MEASURES
from evaluation.scores import Score, number

COLUMNS = {
    "object_f1": "object F1",
    "object_precision": "precision",
    "object_recall": "recall",
    "direction": "direction",
    "count": "count",
    "distance": "distance",
    "light": "light",
}
"""Scores in the order of the tables, and their column headings."""


def page(report: Report, figures: Mapping[str, str]) -> str:
    """Return the report as Markdown.

    `figures` is caption, and path relative to the page, of each figure.
    """
    parts = [
        _head(report),
        "## Targets\n\n" + _targets(report),
        *(f"![{caption}]({path})" for caption, path in figures.items()),
        "## Scores\n\n" + _scores(report),
        "## Corrected for chance\n\n" + _corrected(report),
        "## Number of units\n\n" + _units(report),
        "## Controlled clips\n\n" + _pairs(report),
        "## Sentence similarity\n\n" + _sbert(report),
        "## Same text\n\n" + _same_tokens(report),
        "## Examples\n\n" + _examples(report),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars and line breaks in cells are escaped.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, *rows]
    text = ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def _head(report: Report) -> str:
    seconds = sum(report.seconds.values())
    return f"""# Scores in the simulated world

Made by `{report.command}` in {seconds / 60:.0f} minutes; every number below is in the file that
`--json` writes. {report.n_scenes} scenes that neither the language model nor the encoder has seen.
Bundle `{report.bundle[:12]}`, language model `{report.model}`.

Each scene is scored on one window: of those that lie within the scene, the one that describes the
frame nearest to its middle. *True patches* are the patch embeddings of that same frame.

Square brackets hold 95 % intervals: bootstrap over scenes with 10,000 draws, or Wilson's interval
for the rates of the controlled clips. *Chance* is the same score of the same sentences against the
facts of other scenes (mean of 1,000 orders in which no scene stays in its place); *corrected* is
(score - chance) / (1 - chance). A sentence is correct about direction, count or distance only if it
names the subject's kind with it; direction is scored where the subject moves. Scenes last one
second. The controlled clips differ in the subject's *kind*, count, heading or distance, in the
light, or in whether there is a *second* thing; the table gives the number of pairs."""


def _targets(report: Report) -> str:
    rows = [
        [
            target.name,
            target.wanted,
            f"{target.found:.3f}" if math.isfinite(target.found) else "-",
            "yes" if target.is_met else f"**no**, by {target.missed_by:.3f}",
        ]
        for target in report.targets
    ]
    return table(["target", "wanted", "found", "met"], rows)


def _narrators(report: Report) -> dict[str, NarratorScores]:
    return {"true patches": report.true_patches, **report.spikes}


def _scores(report: Report) -> str:
    rows = [
        [name, _n_units(narrator), *(_with_interval(narrator.scores[score]) for score in COLUMNS)]
        for name, narrator in _narrators(report).items()
    ]
    return table(["input", "units", *COLUMNS.values()], rows)


def _corrected(report: Report) -> str:
    rows = []
    for name, narrator in _narrators(report).items():
        scores = [narrator.scores[score] for score in SCORES]
        cells = [f"{number(s.corrected)} (chance {number(s.chance)})" for s in scores]
        rows.append([name, *cells])
    return table(["input", *(COLUMNS[score] for score in SCORES)], rows)


def _units(report: Report) -> str:
    rows = [
        [
            str(n_units),
            str(narrator.n_sentences),
            *(_with_interval(narrator.scores[score]) for score in COLUMNS),
        ]
        for n_units, narrator in sorted(report.units.items())
    ]
    return table(["visual units", "sentences", *COLUMNS.values()], rows)


def _pairs(report: Report) -> str:
    rows = [
        [
            clips.source.replace("_", " "),
            pair.feature,
            str(pair.n_pairs),
            _range(pair.present, pair.present_low, pair.present_high),
            _range(pair.absent, pair.absent_low, pair.absent_high),
            f"{pair.p_mcnemar_holm:.2g}",
            f"{pair.p_fisher_holm:.2g}",
        ]
        for clips in report.pairs
        for pair in clips.results
    ]
    head = ["source", "feature", "pairs", "mentioned when present", "mentioned when absent"]
    return (
        "The two scenes of a pair look the same except for one feature. p: two-sided, exact, "
        "corrected for the number of features after Holm.\n\n"
        + table([*head, "p, McNemar", "p, Fisher"], rows)
    )


def _sbert(report: Report) -> str:
    if not report.sbert:
        return "Left out of this run."
    rows = [
        [name.replace("_", " "), *(_with_interval(getattr(found, key)) for key in MEASURES)]
        for name, found in report.sbert.items()
    ]
    return (
        "Cosine of all-MiniLM-L6-v2: with the caption of the scene, with those of other scenes, "
        "and with 30 sentences of random words.\n\n"
        + table(["input", *(key.replace("_", " ") for key in MEASURES)], rows)
    )


def _same_tokens(report: Report) -> str:
    rows = [
        [run.way, str(run.n_compared), str(run.n_equal), str(run.n_dropped)]
        for run in report.same_tokens
    ]
    return (
        "Narrations of the same window and population, compared with the sequential mode.\n\n"
        + table(["way", "compared", "equal", "windows not narrated"], rows)
    )


def _examples(report: Report) -> str:
    names = list(report.examples[0].texts) if report.examples else []
    rows = [
        [example.caption, *(example.texts.get(name, "") for name in names)]
        for example in report.examples
    ]
    return "The first scenes, unselected.\n\n" + table(
        ["true", *(name.replace("_", " ") for name in names)], rows
    )


def _n_units(narrator: NarratorScores) -> str:
    return "-" if narrator.n_units is None else str(narrator.n_units)


def _with_interval(score: Score | Interval) -> str:
    return _range(score.value, score.low, score.high)


def _range(value: float, low: float, high: float) -> str:
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
