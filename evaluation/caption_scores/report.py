"""The report of ``neurrate score``: its JSON, the rows of its table, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from encoder_training.data_set.training_set import thinned
from encoder_training.evaluation.bootstrap import Interval
from encoder_training.evaluation.movie_runs import FEWEST_GROUPS
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.caption_scores.scoring import CaptionScores
from evaluation.narrations.page import table
from evaluation.scores import json_values, number

REPORT_VERSION = 1  # Raised when a key of the JSON changes its meaning or is removed

MEASURES = ("matched", "chance", "floor", "lead", "normalised")  # Of `CaptionScores`, in order

N_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """One window: its frame, the caption, and what each narrator wrote."""

    frame: str
    caption: str
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """Everything that was measured."""

    command: str
    bundle: str  # sha256 of the bundle's manifest
    dataset: str  # sha256 of the data set
    recording: str
    narrator: str
    model: str
    sentence_model: str
    n_test: int  # Held-out windows in all
    n_without: int  # Of these, those without a caption
    n_truncated: int  # Narrations cut at the limit of tokens
    n_groups: int  # What the bootstrap draws from
    drawn: str  # What they are
    n_units: Mapping[str, int]  # By population
    labels: Mapping[str, str]  # By population, its name for display
    scores: Mapping[str, CaptionScores]  # By narrator, `TRUE_PATCHES` first
    windows: tuple[ScoredWindow, ...]

    @property
    def n_captions(self) -> int:
        """Different captions among the windows."""
        return len({window.caption for window in self.windows})

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes null."""
        scores = {
            name: {"n_units": self.n_units.get(name), "verdict": one.verdict, **_flat(one)}
            for name, one in self.scores.items()
        }
        described = asdict(self)
        for key in ("scores", "windows", "n_units", "labels"):
            del described[key]
        tree = {
            "version": REPORT_VERSION,
            **described,
            "n_windows": len(self.windows),
            "n_captions": self.n_captions,
            "true_patches": scores.pop(TRUE_PATCHES),
            "populations": scores,
            "windows": [asdict(window) for window in self.windows],
        }
        return dict(json_values(tree))

    def rows(self) -> list[dict[str, str]]:
        """Return a row for each narrator, every measure with its interval."""
        return [
            {
                "narrated": self.labels.get(name, name),
                "units": str(self.n_units.get(name, "-")),
                **{measure: _shown(getattr(scores, measure)) for measure in MEASURES},
                "verdict": scores.verdict,
            }
            for name, scores in self.scores.items()
        ]

    def short_rows(self) -> list[dict[str, str]]:
        """Return the same in fewer columns, for a terminal; the lead alone has its interval."""
        return [
            {
                "narrated": self.labels.get(name, name),
                "units": str(self.n_units.get(name, "-")),
                "matched": number(scores.matched.value),
                "chance": number(scores.chance.value),
                "lead": _shown(scores.lead),
                "normalised": number(scores.normalised.value),
                "verdict": scores.verdict,
            }
            for name, scores in self.scores.items()
        ]

    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know."""
        notes = [
            f"{len(self.windows)} of {self.n_test:,} held-out windows, {self.n_captions} different "
            f"captions"
        ]
        if self.n_groups < 2:
            notes.append("all windows depend on each other, so there is no interval: hold out more")
        else:
            rough = ", so few that they are rough: hold out more"
            notes.append(
                f"intervals draw {self.n_groups} {self.drawn}"
                f"{rough if self.n_groups < FEWEST_GROUPS else ''}"
            )
        if self.n_without:
            notes.append(f"{self.n_without:,} held-out windows show frames without a caption")
        if self.n_truncated:
            notes.append(f"{self.n_truncated} narrations were cut at the limit of tokens")
        notes += [
            f"{one.n_failed} narrations of {self.labels.get(name, name)} have no text"
            for name, one in self.scores.items()
            if one.n_failed
        ]
        if self.scores[TRUE_PATCHES].verdict == "at chance":
            notes.append(
                "narrations of the true patches are at chance too: the language model does not "
                "write what the captions say, and nothing can be normalised"
            )
        return notes


def caption_page(report: CaptionReport) -> str:
    """Return the report as Markdown."""
    rows = report.rows()
    scores = table(list(rows[0]), [list(row.values()) for row in rows])
    over = [
        [report.labels.get(name, name), control, _shown(lead)]
        for name, one in report.scores.items()
        for control, lead in one.over.items()
    ]
    notes = "\n".join(f"- {note}." for note in report.notes())
    return f"""# Narrations against captions

Made by `{report.command}`. Recording `{report.recording}`, data set `{report.dataset[:12]}`,
bundle `{report.bundle[:12]}`, narrator `{report.narrator}` `{report.model}`, sentence model
`{report.sentence_model}`.

{notes}

## Scores

Mean cosines of sentence embeddings. *Matched*: with the caption of the frame that was shown.
*Chance*: with the captions of other windows, the mean over all orders in which no sentence stays in
its place. *Floor*: with sentences of random words. *Lead*: matched less chance. *Normalised*: lead
over that of the true patches, 0 at chance and 1 as good as the language model that sees the frame.
Square brackets hold 95 % intervals. *Above controls*: the lead is larger than those of `shuffled`
(units permuted) and `silent` (every unit at its mean).

{scores}

## Lead over the controls

{table(["narrated", "control", "lead less that of the control"], over)}

## Examples

Evenly spaced windows, unselected.

{_examples(report)}
"""


def _examples(report: CaptionReport) -> str:
    names = list(report.windows[0].texts)
    rows = thinned(np.arange(len(report.windows)), N_EXAMPLES).tolist()
    shown = [report.windows[row] for row in rows]
    return table(
        ["frame", "caption", *(report.labels.get(name, name) for name in names)],
        [
            [window.frame, window.caption, *(window.texts[name] for name in names)]
            for window in shown
        ],
    )


def _flat(scores: CaptionScores) -> dict[str, Any]:
    flat: dict[str, Any] = {"n_different": scores.n_different, "n_failed": scores.n_failed}
    for measure in MEASURES:
        found: Interval = getattr(scores, measure)
        flat |= {measure: found.value, f"{measure}_ci": [found.low, found.high]}
    flat["over"] = {
        control: {"lead": lead.value, "lead_ci": [lead.low, lead.high]}
        for control, lead in scores.over.items()
    }
    return flat


def _shown(found: Interval) -> str:
    if not found.is_known:
        return number(found.value)
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"
