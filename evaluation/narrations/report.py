"""All that was measured in the simulated world, as one value, and that value as JSON.

The JSON's keys are a contract: ``true_patches.object_f1``, ``spikes.<population>.object_f1``,
``units.<number>.object_f1``; each score has ``_ci``, ``_chance``, ``_corrected`` and
``_corrected_ci`` beside it. What is no number is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from encoder_training.evaluation.bootstrap import Interval
from evaluation.narrations.pairs import PairResult
from evaluation.narrations.sbert import Similarity
from evaluation.scores import Score

REPORT_VERSION = 1
"""Raised when a key changes meaning or goes."""

CONTROLS = ("shuffled", "silent")
"""Populations that hear nothing of the world; a narration must beat both."""


@dataclass(frozen=True, slots=True)
class NarratorScores:
    """One narrator of all scenes: the true patches, or a population of units.

    Attributes
    ----------
    n_units : int or None
        Units that were heard; None for the true patches.
    n_sentences : int
        Sentences that were scored; several for each scene where several subsets were heard.
    scores : mapping of str to Score
        As `evaluation.narrations.facts_score` names them.
    """

    n_units: int | None
    n_sentences: int
    scores: Mapping[str, Score]

    @property
    def object_f1(self) -> Score:
        """The first score of every table."""
        return self.scores["object_f1"]


@dataclass(frozen=True, slots=True)
class PairsOf:
    """Controlled clips of one narrator.

    Attributes
    ----------
    source : str
        ``true_patches`` or ``spikes``.
    results : tuple of PairResult
        One for each feature.
    """

    source: str
    results: tuple[PairResult, ...]


MIN_COMPARED = 20
"""Sentences; fewer could agree by luck."""


@dataclass(frozen=True, slots=True)
class SameTokens:
    """One other way of replaying, compared with the sequential mode.

    Attributes
    ----------
    way : str
        How the same spikes were replayed.
    n_compared : int
        Narrations of the same window and population that came out of both.
    n_equal : int
        Of these, with the same text and the same number of tokens.
    n_dropped : int
        Windows that this way cut and did not narrate.
    """

    way: str
    n_compared: int
    n_equal: int
    n_dropped: int

    @property
    def is_same(self) -> bool:
        """Whether enough was compared and nothing differed."""
        return self.n_compared >= MIN_COMPARED and self.n_equal == self.n_compared


@dataclass(frozen=True, slots=True)
class Example:
    """What was said of one scene.

    Attributes
    ----------
    caption : str
        A sentence that is true of it.
    said : mapping of str to str
        By narrator.
    """

    caption: str
    said: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that the simulated world must show.

    Attributes
    ----------
    name : str
        In words.
    wanted : str
        The number that was set, with its sign.
    found : float
        The number that was measured.
    is_met : bool
        Whether it is.
    missed_by : float
        How far it falls short; 0 if it is met.
    """

    name: str
    wanted: str
    found: float
    is_met: bool
    missed_by: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything.

    Attributes
    ----------
    command : str
        The command that made it.
    n_scenes : int
        Unseen scenes behind each score.
    bundle, model : str
        sha256 of the bundle's manifest, and the name of the language model's folder.
    true_patches : NarratorScores
        What the language model says when it sees the frame itself.
    spikes : mapping of str to NarratorScores
        By population.
    units : mapping of int to NarratorScores
        By number of visual units.
    against : mapping of str to Interval
        Object F1 of a pair of populations, first less second, such as ``all-silent``.
    pairs : tuple of PairsOf
        Controlled clips.
    sbert : mapping of str to Similarity
        By narrator; empty if the model for it was left out.
    same_tokens : tuple of SameTokens
        Other ways of replaying.
    targets : tuple of Target
        Met or missed.
    examples : tuple of Example
        The first scenes, whatever was said.
    seconds : mapping of str to float
        How long each part took.
    """

    command: str
    n_scenes: int
    bundle: str
    model: str
    true_patches: NarratorScores
    spikes: Mapping[str, NarratorScores]
    units: Mapping[int, NarratorScores]
    against: Mapping[str, Interval]
    pairs: tuple[PairsOf, ...]
    sbert: Mapping[str, Similarity]
    same_tokens: tuple[SameTokens, ...]
    targets: tuple[Target, ...]
    examples: tuple[Example, ...]
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the module says which keys there are."""
        tree = {
            "version": REPORT_VERSION,
            "command": self.command,
            "n_scenes": self.n_scenes,
            "bundle": self.bundle,
            "model": self.model,
            "true_patches": _scored(self.true_patches),
            "spikes": {name: _scored(each) for name, each in self.spikes.items()},
            "units": {str(number): _scored(each) for number, each in self.units.items()},
            "against": {
                name: {"object_f1": each.value, "object_f1_ci": [each.low, each.high]}
                for name, each in self.against.items()
            },
            "pairs": [
                {"source": group.source, **asdict(result)}
                for group in self.pairs
                for result in group.results
            ],
            "sbert": {name: _similarity(each) for name, each in self.sbert.items()},
            "same_tokens": {
                each.way: {**asdict(each), "is_same": each.is_same} for each in self.same_tokens
            },
            "targets": [asdict(each) for each in self.targets],
            "examples": [
                {"caption": each.caption, "said": dict(each.said)} for each in self.examples
            ],
            "seconds": dict(self.seconds),
        }
        plain: dict[str, Any] = _plain(tree)
        return plain


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
    for name in ("matched", "shuffled", "floor", "matched_less_shuffled"):
        score = getattr(found, name)
        flat |= {name: score.value, f"{name}_ci": [score.low, score.high]}
    return flat


def _plain(value: Any) -> Any:
    """Return the same tree without what JSON cannot say: not-a-number becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
