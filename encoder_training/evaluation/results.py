"""The results of an evaluation, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from encoder_training.evaluation.bootstrap import Interval
from encoder_training.files import plain

METRICS = {
    "patch_mse": "patch MSE",
    "skill": "skill",
    "raw_cosine": "raw cosine",
    "cosine": "cosine",
    "rank": "median rank / n",
    "top1": "top-1",
    "top5": "top-5",
    "within_1s": "within 1 s",
    "within_1s_by_patches": "within 1 s by patches",
    "within_1s_above_chance": "within 1 s less chance",
}
"""Every score, with the name that tables use. Docs: docs/training-report.md."""

MEAN_PATCHES, SHUFFLED_UNITS = "mean patches", "shuffled units"
"""Names of the controls."""

LOWER_IS_BETTER = ("patch_mse", "rank")

FEWEST_DRAWN = 2
"""Groups that a bootstrap draws from, at the least: all draws from one are alike."""

HEADLINES = ("cosine", "skill", "within_1s")
"""The scores that decide the verdict."""


@dataclass(frozen=True, slots=True)
class MethodScores:
    """One method through one population."""

    name: str
    population: str
    n_units: int
    chosen: str
    scores: dict[str, Interval]  # One for each of `METRICS`
    # Of the scores that have one. ``within_1s`` is for a frame drawn at random from the movie;
    # ``within_1s_answers`` for this method's answers in a random order, which
    # ``within_1s_above_chance`` is less.
    chance: dict[str, float]

    @property
    def is_above_chance(self) -> bool:
        """Whether decoded frames are right more often than the same answers in any order."""
        return self.scores["within_1s_above_chance"].low > 0

    @property
    def against_chance(self) -> str:
        """``above chance``, ``at chance`` or, without an interval, ``no verdict``."""
        if not self.scores["within_1s_above_chance"].is_known:
            return "no verdict"
        return "above chance" if self.is_above_chance else "at chance"


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The encoder less another method, through the same units, window by window."""

    other: str
    population: str
    differences: dict[str, Interval]  # One for each of `METRICS`, the encoder's score first

    def verdict(self, metric: str) -> str:
        """Return ``ahead``, ``behind`` or ``not told apart``; ``no verdict`` without interval."""
        difference = self.differences[metric]
        if not difference.is_known:
            return "no verdict"
        sign = -1 if metric in LOWER_IS_BETTER else 1
        if sign * difference.value > 0 and not difference.holds(0):
            return "ahead"
        return (
            "behind"
            if sign * difference.value < 0 and not difference.holds(0)
            else "not told apart"
        )


@dataclass(frozen=True, slots=True)
class OverTime:
    """Decoding over the time of one movie, all units selected."""

    movie: str  # The one with most windows
    edge_s: tuple[float, ...]
    n: tuple[int, ...]  # Windows in each bin
    accuracy: dict[str, tuple[float, ...]]  # Within 1 s, by method; NaN in an empty bin
    # Windows by bin of the true time and bin of the decoded time
    decoded: dict[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True)
class EncoderResults:
    """All results of an evaluation."""

    n_windows: int
    n_test_windows: int
    n_population_windows: int
    n_frames: int  # Different frames among them: the candidates of the ranks
    n_unseen: int  # Of these, frames that no training window shows
    # What the bootstrap draws, and how much of it there is
    n_drawn: int
    drawn: str
    lag_ms: float
    seed: int
    # Frame period of each movie; a stimulus without one has no "within 1 s", only the frame
    period_s: dict[str, float]
    methods: tuple[MethodScores, ...]
    populations: tuple[MethodScores, ...]
    ahead: tuple[PairedDifference, ...]
    over_time: OverTime | None  # None where no movie has a time

    def method(self, name: str, population: str = "all") -> MethodScores:
        """Return one method's scores."""
        return next(
            method
            for method in (*self.methods, *self.populations)
            if (method.name, method.population) == (name, population)
        )

    def against(self, other: str, population: str = "all") -> PairedDifference:
        """Return the encoder's lead over one method."""
        return next(
            difference
            for difference in self.ahead
            if (difference.other, difference.population) == (other, population)
        )

    @property
    def has_intervals(self) -> bool:
        """Whether there was enough to draw from, and so a verdict on anything."""
        return self.n_drawn >= FEWEST_DRAWN

    def text(self, score: Interval) -> str:
        """Return a score for a table, with its interval if this evaluation has intervals."""
        return str(score) if self.has_intervals else f"{score.value:.3f}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is no number is null."""
        tree: dict[str, Any] = plain(asdict(self))
        return tree


def verdict(results: EncoderResults, others: tuple[str, ...]) -> list[str]:
    """Return one sentence for each comparison with a baseline, the encoder's defeats first.

    None if too little was held out for a verdict.
    """
    if not results.has_intervals:
        return []
    words = {
        "behind": "LOSES to",
        "ahead": "is ahead of",
        "not told apart": "cannot be told from",
        "no verdict": "has no verdict against",
    }
    by_verdict: dict[str, list[str]] = {what: [] for what in words}
    encoder = results.method("encoder")
    for other in others:
        against, theirs = results.against(other), results.method(other)
        for metric in HEADLINES:
            what = against.verdict(metric)
            own, score = encoder.scores[metric], theirs.scores[metric]
            by_verdict[what].append(
                f"The encoder {words[what]} {other} in {METRICS[metric]}: {own.value:.3f} against "
                f"{score.value:.3f}, difference {against.differences[metric]}."
            )
    return [sentence for sentences in by_verdict.values() for sentence in sentences]


def summary(results: EncoderResults, others: tuple[str, ...]) -> str:
    """Return one paragraph: the encoder against baselines and controls, or why there is no verdict.

    Where too little was held out, this is the one place that says so.
    """
    if not results.has_intervals:
        return (
            "**Too little was held out for a verdict.** Intervals are drawn from "
            f"{results.drawn}, and there is only {results.n_drawn}, so the scores below stand "
            "without: which method is better, and which areas are at chance, is not known. Hold "
            "out more."
        )
    words = {
        "behind": "**loses to**",
        "ahead": "**is ahead of**",
        "not told apart": "**ties with**",
        "no verdict": "has no verdict against",
    }
    clauses = []
    for what, word in words.items():
        metrics_of = {
            other: [
                METRICS[metric]
                for metric in HEADLINES
                if results.against(other).verdict(metric) == what
            ]
            for other in others
        }
        named = [
            f"{other} ({', '.join(metrics)})" for other, metrics in metrics_of.items() if metrics
        ]
        if named:
            clauses.append(f"{word} {', '.join(named)}")
    against_controls = "".join(
        f" In skill it {words[results.against(method.name).verdict('skill')]} the control "
        f"{method.name}, difference {results.against(method.name).differences['skill']}."
        for method in results.methods
        if method.name != "encoder" and method.name not in others
    )
    return f"On windows that it never saw, the encoder {'; it '.join(clauses)}.{against_controls}"
