"""What judging found, as values."""

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

HEADLINES = ("cosine", "skill", "within_1s")
"""The scores that say who wins."""


@dataclass(frozen=True, slots=True)
class MethodScores:
    """One method through one population.

    Attributes
    ----------
    name : str
        ``encoder``, ``naive Bayes``, ``mean patches``, ...
    population : str
        Expression that selects the units: ``all``, ``area:VISp``.
    n_units : int
        Units that are heard.
    chosen : str
        What validation chose for a baseline, in words.
    scores : dict of str to Interval
        One for each of `METRICS`.
    chance : dict of str to float
        Of the scores that have one. ``within_1s`` is for a frame drawn at random from the movie;
        ``within_1s_answers`` for this method's answers in a random order, which
        ``within_1s_above_chance`` is less.
    """

    name: str
    population: str
    n_units: int
    chosen: str
    scores: dict[str, Interval]
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
    """The encoder less another method, through the same units, window by window.

    Attributes
    ----------
    other : str
        Name of the method.
    population : str
        As in `MethodScores`.
    differences : dict of str to Interval
        One for each of `METRICS`, the encoder's score first.
    """

    other: str
    population: str
    differences: dict[str, Interval]

    def verdict(self, metric: str) -> str:
        """Return ``ahead``, ``behind`` or ``not told apart``; ``no verdict`` without interval."""
        found = self.differences[metric]
        if not found.is_known:
            return "no verdict"
        sign = -1 if metric in LOWER_IS_BETTER else 1
        if sign * found.value > 0 and not found.holds(0):
            return "ahead"
        return "behind" if sign * found.value < 0 and not found.holds(0) else "not told apart"


@dataclass(frozen=True, slots=True)
class OverTime:
    """Decoding over the time of one movie, all units heard.

    Attributes
    ----------
    movie : str
        The one with most windows.
    edge_s : tuple of float
        Of the bins of movie time, one more than bins.
    n : tuple of int
        Windows in each bin.
    accuracy : dict of str to tuple of float
        Within 1 s, by method; NaN in an empty bin.
    decoded : dict of str to tuple of tuples of int
        Windows by bin of the true time and bin of the decoded time.
    """

    movie: str
    edge_s: tuple[float, ...]
    n: tuple[int, ...]
    accuracy: dict[str, tuple[float, ...]]
    decoded: dict[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True)
class EncoderResults:
    """Everything that judging found.

    Attributes
    ----------
    n_windows, n_test_windows : int
        That judged, of how many there are.
    n_population_windows : int
        Of these, the ones that judged each area and cell type.
    n_frames : int
        Different frames among them: the candidates of the ranks.
    n_unseen : int
        Of these, frames that no training window shows.
    n_drawn, drawn : int, str
        What the bootstrap draws, and how much of it there is.
    lag_ms : float
        Of the windows.
    seed : int
        Of the bootstrap.
    period_s : dict of str to float
        Frame period of each movie; a stimulus without one has no "within 1 s", only the frame.
    methods : tuple of MethodScores
        All units: the encoder, the baselines, the controls.
    populations : tuple of MethodScores
        The encoder and the baselines, each area's and each cell type's units alone.
    ahead : tuple of PairedDifference
        The encoder against each of them.
    over_time : OverTime or None
        None where no movie has a time.
    """

    n_windows: int
    n_test_windows: int
    n_population_windows: int
    n_frames: int
    n_unseen: int
    n_drawn: int
    drawn: str
    lag_ms: float
    seed: int
    period_s: dict[str, float]
    methods: tuple[MethodScores, ...]
    populations: tuple[MethodScores, ...]
    ahead: tuple[PairedDifference, ...]
    over_time: OverTime | None

    def method(self, name: str, population: str = "all") -> MethodScores:
        """Return one method's scores."""
        return next(
            each
            for each in (*self.methods, *self.populations)
            if (each.name, each.population) == (name, population)
        )

    def against(self, other: str, population: str = "all") -> PairedDifference:
        """Return the encoder's lead over one method."""
        return next(
            each for each in self.ahead if (each.other, each.population) == (other, population)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is no number is null."""
        tree: dict[str, Any] = plain(asdict(self))
        return tree


def verdict(judged: EncoderResults, others: tuple[str, ...]) -> list[str]:
    """Say in plain words who wins, the encoder's defeats first.

    Parameters
    ----------
    judged : EncoderResults
        What was found.
    others : tuple of str
        The baselines to speak of.

    Returns
    -------
    sentences : list of str
    """
    words = {
        "behind": "LOSES to",
        "ahead": "is ahead of",
        "not told apart": "cannot be told from",
        "no verdict": "has no verdict against",
    }
    by_verdict: dict[str, list[str]] = {what: [] for what in words}
    encoder = judged.method("encoder")
    for other in others:
        against, theirs = judged.against(other), judged.method(other)
        for metric in HEADLINES:
            what = against.verdict(metric)
            own, found = encoder.scores[metric], theirs.scores[metric]
            by_verdict[what].append(
                f"The encoder {words[what]} {other} in {METRICS[metric]}: {own.value:.3f} against "
                f"{found.value:.3f}, difference {against.differences[metric]}."
            )
    return [sentence for sentences in by_verdict.values() for sentence in sentences]


def summary(judged: EncoderResults, others: tuple[str, ...]) -> str:
    """Say in one paragraph whom the encoder loses to, whom it beats, and how the controls do.

    Parameters
    ----------
    judged : EncoderResults
        What was found.
    others : tuple of str
        The baselines to speak of.

    Returns
    -------
    str
    """
    words = {
        "behind": "**loses to**",
        "ahead": "**is ahead of**",
        "not told apart": "**ties with**",
        "no verdict": "has no verdict against",
    }
    said = []
    for what, word in words.items():
        found = {
            other: [
                METRICS[metric]
                for metric in HEADLINES
                if judged.against(other).verdict(metric) == what
            ]
            for other in others
        }
        named = [f"{other} ({', '.join(metrics)})" for other, metrics in found.items() if metrics]
        if named:
            said.append(f"{word} {', '.join(named)}")
    against_controls = "".join(
        f" In skill it {words[judged.against(each.name).verdict('skill')]} the control "
        f"{each.name}, difference {judged.against(each.name).differences['skill']}."
        for each in judged.methods
        if each.name != "encoder" and each.name not in others
    )
    return f"On windows that it never saw, the encoder {'; it '.join(said)}.{against_controls}"
