"""The report as a page of Markdown: tables that a person reads, beside the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from evaluation.narrations.facts_score import SCORES
from evaluation.narrations.report import NarratorScores, Report
from evaluation.scores import Score

COLUMNS = {
    "object_f1": "object F1",
    "object_precision": "precision",
    "object_recall": "recall",
    "direction": "direction",
    "count": "count",
    "distance": "distance",
    "light": "light",
}
"""Scores in the order of the tables, and their heads."""


def page(report: Report, figures: Mapping[str, str]) -> str:
    """Write the report as Markdown.

    Parameters
    ----------
    report : Report
        What was measured.
    figures : mapping of str to str
        Caption and path of each figure, seen from the page.

    Returns
    -------
    text : str
        Ends with a line break.
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
        "## Same words\n\n" + _same_tokens(report),
        "## What was said\n\n" + _examples(report),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a cell cannot break it.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, *rows]
    text = ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def number(value: float) -> str:
    """Return a number with two decimals; a dash if it is none.

    >>> number(0.456), number(float("nan"))
    ('0.46', '-')
    """
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _head(report: Report) -> str:
    seconds = sum(report.seconds.values())
    return f"""# Scores in the simulated world

Made by `{report.command}` in {seconds / 60:.0f} minutes; every number below is in the file that
`--json` writes. {report.n_scenes} scenes that neither the language model nor the encoder has seen.
Bundle `{report.bundle[:12]}`, language model `{report.model}`.

Each scene is scored on one window: of those that no cut between scenes falls into, the one that
describes the frame nearest to the scene's middle. *True patches* are of that same frame.

Square brackets hold 95 % intervals: bootstrap over scenes, 10,000 draws, but Wilson's for the rates
of the controlled clips. *Chance* is the same score of the same sentences against the facts of other
scenes (mean of 1,000 orders in which no scene stays in its place); *corrected* is
(score - chance) / (1 - chance). A sentence counts as right about direction, count or distance only
if it names the subject's kind with it; direction is scored where the subject moves. Scenes last one
second. The controlled clips differ in the subject's *kind*, count, heading or distance, in the
light, or in whether there is a *second* thing, so many pairs for each."""


def _targets(report: Report) -> str:
    rows = [
        [
            each.name,
            each.wanted,
            f"{each.found:.3f}" if math.isfinite(each.found) else "-",
            "yes" if each.is_met else f"**no**, by {each.missed_by:.3f}",
        ]
        for each in report.targets
    ]
    return table(["target", "wanted", "found", "met"], rows)


def _narrators(report: Report) -> dict[str, NarratorScores]:
    return {"true patches": report.true_patches, **report.spikes}


def _scores(report: Report) -> str:
    rows = [
        [name, _n(each), *(_with_interval(each.scores[score]) for score in COLUMNS)]
        for name, each in _narrators(report).items()
    ]
    return table(["heard", "units", *COLUMNS.values()], rows)


def _corrected(report: Report) -> str:
    rows = []
    for name, each in _narrators(report).items():
        cells = [
            f"{number(each.scores[score].corrected)} (chance {number(each.scores[score].chance)})"
            for score in SCORES
            if score in COLUMNS
        ]
        rows.append([name, *cells])
    return table(["heard", *(COLUMNS[score] for score in SCORES)], rows)


def _units(report: Report) -> str:
    rows = [
        [
            str(n_units),
            str(each.n_sentences),
            *(_with_interval(each.scores[score]) for score in COLUMNS),
        ]
        for n_units, each in sorted(report.units.items())
    ]
    return table(["visual units", "sentences", *COLUMNS.values()], rows)


def _pairs(report: Report) -> str:
    rows = [
        [
            group.source.replace("_", " "),
            each.feature,
            str(each.n_pairs),
            f"{number(each.present)} [{number(each.present_low)}, {number(each.present_high)}]",
            f"{number(each.absent)} [{number(each.absent_low)}, {number(each.absent_high)}]",
            f"{each.p_mcnemar_holm:.2g}",
            f"{each.p_fisher_holm:.2g}",
        ]
        for group in report.pairs
        for each in group.results
    ]
    head = ["source", "feature", "pairs", "said when present", "said when absent"]
    return (
        "The two scenes of a pair look the same but for one feature. p: two-sided, exact, "
        "corrected for the number of features after Holm.\n\n"
        + table([*head, "p, McNemar", "p, Fisher"], rows)
    )


def _sbert(report: Report) -> str:
    if not report.sbert:
        return "Left out of this run."
    rows = [
        [
            name.replace("_", " "),
            *(_with_interval(each) for each in (found.matched, found.shuffled, found.floor)),
            f"{number(found.matched_less_shuffled.value)} "
            f"[{number(found.matched_less_shuffled.low)}, "
            f"{number(found.matched_less_shuffled.high)}]",
        ]
        for name, found in report.sbert.items()
    ]
    return (
        "Cosine of all-MiniLM-L6-v2: with the caption of the scene, with those of other scenes, "
        "and with 30 sentences of random words.\n\n"
        + table(["heard", "matched", "shuffled", "floor", "matched less shuffled"], rows)
    )


def _same_tokens(report: Report) -> str:
    rows = [
        [each.way, str(each.n_compared), str(each.n_equal), str(each.n_dropped)]
        for each in report.same_tokens
    ]
    return (
        "Narrations of the same window and population, against those of the sequential mode.\n\n"
        + table(["way", "compared", "equal", "windows not narrated"], rows)
    )


def _examples(report: Report) -> str:
    names = list(report.examples[0].said) if report.examples else []
    rows = [
        [each.caption, *(each.said.get(name, "") for name in names)] for each in report.examples
    ]
    return "The first scenes, whatever was said of them.\n\n" + table(
        ["true", *(name.replace("_", " ") for name in names)], rows
    )


def _n(scored: NarratorScores) -> str:
    return "-" if scored.n_units is None else str(scored.n_units)


def _with_interval(score: Score) -> str:
    return f"{number(score.value)} [{number(score.low)}, {number(score.high)}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
