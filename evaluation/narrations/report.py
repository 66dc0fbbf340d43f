"""The report of `simulate score`, and its JSON.

The keys of the JSON are a contract: ``true_patches.object_f1``, ``spikes.<population>.object_f1``,
``units.<number>.object_f1``; each score has ``_ci``, ``_chance``, ``_corrected`` and
``_corrected_ci`` beside it. NaN becomes null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from encoder_training.evaluation.bootstrap import Interval
from evaluation.narrations.pairs import PairResult
from evaluation.narrations.sbert import MEASURES, Similarity
from evaluation.scores import Score, json_values

REPORT_VERSION = 1  # Raised when a key changes its meaning or is removed


@dataclass(frozen=True, slots=True)
class NarratorScores:
    """One narrator of all scenes: the true patches, or a population of units."""

    n_units: int | None  # Selected units; None for the true patches
    # Sentences scored; several for each scene if there are several subsets
    n_sentences: int
    scores: Mapping[str, Score]  # As `evaluation.narrations.facts_score` names them

    @property
    def object_f1(self) -> Score:
        """The first score of every table."""
        return self.scores["object_f1"]


@dataclass(frozen=True, slots=True)
class ClipResults:
    """Controlled clips of one narrator."""

    source: str  # ``true_patches`` or ``spikes``
    results: tuple[PairResult, ...]  # One for each feature


MIN_COMPARED = 20  # Sentences; fewer could agree by chance


@dataclass(frozen=True, slots=True)
class SameTokens:
    """One other way of replaying, compared with the sequential mode."""

    way: str  # How the same spikes were replayed
    n_compared: int  # Narrations of the same window and population that came out of both
    n_equal: int  # Of these, with the same text and the same number of tokens
    n_dropped: int  # Windows that this way cut and did not narrate

    @property
    def is_same(self) -> bool:
        """Whether enough was compared and nothing differed."""
        return self.n_compared >= MIN_COMPARED and self.n_equal == self.n_compared


@dataclass(frozen=True, slots=True)
class Example:
    """The narrations of one scene, by narrator, beside a true caption."""

    caption: str
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """A target of the simulated world, and the result."""

    name: str
    wanted: str  # Relation and threshold, such as ``>= 0.75``
    found: float
    is_met: bool
    missed_by: float  # Distance to the threshold; 0 if the target is met


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured."""

    command: str  # The command that made it
    n_scenes: int  # Unseen scenes behind each score
    bundle: str  # sha256 of the bundle's manifest
    model: str  # Name of the language model's folder
    true_patches: NarratorScores  # Of the language model given the patches of the frame itself
    spikes: Mapping[str, NarratorScores]  # By population
    units: Mapping[int, NarratorScores]  # By number of visual units
    # Object F1 of a pair of populations, first less second, such as ``all-silent``
    against: Mapping[str, Interval]
    pairs: tuple[ClipResults, ...]  # Controlled clips
    sbert: Mapping[str, Similarity]  # By narrator; empty if sentence similarity was left out
    same_tokens: tuple[SameTokens, ...]  # Other ways of replaying the same spikes
    targets: tuple[Target, ...]
    examples: tuple[Example, ...]  # The first scenes, unselected
    seconds: Mapping[str, float]  # Duration of each part

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the module's docstring describes the keys."""
        tree = {
            "version": REPORT_VERSION,
            "command": self.command,
            "n_scenes": self.n_scenes,
            "bundle": self.bundle,
            "model": self.model,
            "true_patches": _scored(self.true_patches),
            "spikes": {name: _scored(scores) for name, scores in self.spikes.items()},
            "units": {str(number): _scored(scores) for number, scores in self.units.items()},
            "against": {
                name: {"object_f1": lead.value, "object_f1_ci": [lead.low, lead.high]}
                for name, lead in self.against.items()
            },
            "pairs": [
                {"source": clips.source, **asdict(result)}
                for clips in self.pairs
                for result in clips.results
            ],
            "sbert": {name: _similarity(found) for name, found in self.sbert.items()},
            "same_tokens": {
                run.way: {**asdict(run), "is_same": run.is_same} for run in self.same_tokens
            },
            "targets": [asdict(target) for target in self.targets],
            "examples": [
                {"caption": example.caption, "said": dict(example.texts)}
                for example in self.examples
            ],
            "seconds": dict(self.seconds),
        }
        return dict(json_values(tree))


def _scored(scored: NarratorScores) -> dict[str, Any]:
    flat: dict[str, Any] = {"n_units": scored.n_units, "n_sentences": scored.n_sentences}
    for name, score in scored.scores.items():
        flat |= {
            name: score.value,
            f"{name}_ci": [score.low, score.high],
            f"{name}_chance": score.chance,
            f"{name}_corrected": score.corrected,
            f"{name}_corrected_ci": [score.corrected_low, score.corrected_high],
            f"{name}_n": score.n,
        }
    return flat


def _similarity(found: Similarity) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in MEASURES:
        score = getattr(found, name)
        flat |= {name: score.value, f"{name}_ci": [score.low, score.high]}
    return flat
