"""How often a feature is mentioned with it and without it, by feature and narrator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.population import CONTROLS
from encoder_training.evaluation.bootstrap import Interval
from evaluation.clips.experiment import ClipPair
from evaluation.clips.narrations import ClipNarrations
from evaluation.clips.schedule import Presentation
from evaluation.clips.statistics import difference_interval, sign_flip_p
from evaluation.narrations.pairs import holm
from evaluation.questions.chance import is_rejected
from evaluation.scores import rate_interval

N_SWAPS = 200
SWAP_STREAM = 23


@dataclass(frozen=True, slots=True, eq=False)
class Mentions:
    """The rates of mention of one feature by one narrator."""

    feature: str
    narrator: str
    # (n_pairs, 2): with the feature and without it; NaN where a clip has no narration
    rates: NDArray[np.float64]
    n_sentences: int

    @property
    def has_both(self) -> NDArray[np.bool_]:
        """Which pairs can be compared."""
        both: NDArray[np.bool_] = np.logical_not(np.isnan(self.rates).any(axis=1))
        return both

    @property
    def differences(self) -> NDArray[np.float64]:
        """With less without, of the pairs that can be compared."""
        found: NDArray[np.float64] = -np.diff(self.rates[self.has_both], axis=1)[:, 0]
        return found


@dataclass(frozen=True, slots=True)
class Effect:
    """One feature and narrator."""

    mentions: Mentions
    present: Interval
    absent: Interval
    difference: Interval
    p: float  # One-sided
    p_holm: float  # Corrected for all features and narrators
    # The same test of how much larger the differences are than those of a control, pair by pair;
    # the larger one of two controls. NaN for controls, and without any
    p_over_controls: float

    @property
    def is_seen(self) -> bool:
        """Whether the feature is mentioned because it is there, beyond what the controls do."""
        is_above_controls = math.isnan(self.p_over_controls) or is_rejected(self.p_over_controls)
        return bool(is_rejected(self.p_holm) and is_above_controls)


def mentions_of(
    pairs: Sequence[ClipPair],
    schedule: Sequence[Presentation],
    narrations: ClipNarrations,
    narrators: Sequence[str],
) -> list[Mentions]:
    """Average over the windows of a showing, then over the showings of a clip."""
    shown: dict[tuple[str, int], list[int]] = {}
    for one in schedule:
        shown.setdefault((one.pair, one.has_feature), []).append(one.presentation)
    found = []
    for feature in dict.fromkeys(pair.feature for pair in pairs):
        of_feature = [pair for pair in pairs if pair.feature == feature]
        for narrator in narrators:
            texts = narrations.texts.get(narrator, {})
            rates = np.full((len(of_feature), 2), np.nan)
            n_sentences = 0
            for row, pair in enumerate(of_feature):
                for column, has_feature in enumerate((1, 0)):
                    of_clip = [texts.get(n, []) for n in shown.get((pair.name, has_feature), [])]
                    means = [np.mean([pair.mentions(t) for t in some]) for some in of_clip if some]
                    n_sentences += sum(map(len, of_clip))
                    if means:
                        rates[row, column] = np.mean(means)
            found.append(Mentions(feature, narrator, rates, n_sentences))
    return found


def effects_of(mentions: Sequence[Mentions]) -> list[Effect]:
    """Test each; those without a pair that can be compared are left out."""
    usable = [one for one in mentions if one.has_both.any()]
    p_values = [float(sign_flip_p(one.differences[np.newaxis])[0]) for one in usable]
    controls = {(one.feature, one.narrator): one for one in usable if one.narrator in CONTROLS}
    return [
        Effect(
            one,
            rate_interval(one.rates[one.has_both, 0]),
            rate_interval(one.rates[one.has_both, 1]),
            difference_interval(one.differences),
            p,
            corrected,
            _over_controls(one, controls),
        )
        for one, p, corrected in zip(usable, p_values, holm(p_values), strict=True)
    ]


def _over_controls(one: Mentions, controls: Mapping[tuple[str, str], Mentions]) -> float:
    if one.narrator in CONTROLS:
        return float("nan")
    found = [float("nan")]
    for name in CONTROLS:
        control = controls.get((one.feature, name))
        if control is None:
            continue
        both = one.has_both & control.has_both
        more = (one.rates - control.rates)[both]
        if both.any():
            found.append(float(sign_flip_p((more[:, 0] - more[:, 1])[np.newaxis])[0]))
    return float(np.fmax.reduce(found))


@dataclass(frozen=True, slots=True, eq=False)
class SwappedLabels:
    """What the test says when with and without are exchanged at random within the pairs."""

    mean_difference: NDArray[np.float64]  # (n_effects,): over all exchanges
    is_rejected: NDArray[np.bool_]  # (n_effects, n_swaps): p of 0.05 or less
    any_holm: NDArray[np.bool_]  # (n_swaps,): any corrected p of 0.05 or less


def swapped(effects: Sequence[Effect], *, seed: int, n_swaps: int = N_SWAPS) -> SwappedLabels:
    """Exchange labels and test again; the same exchanges for all narrators of a feature."""
    rng = np.random.default_rng([seed, SWAP_STREAM])
    signs: dict[str, NDArray[np.float64]] = {}
    p_values, means = [], []
    for effect in effects:
        one = effect.mentions
        if one.feature not in signs:
            signs[one.feature] = rng.choice([-1.0, 1.0], (n_swaps, len(one.rates)))
        differences = signs[one.feature][:, one.has_both] * one.differences
        p_values.append(sign_flip_p(differences))
        means.append(float(differences.mean()))
    table = np.stack(p_values)
    corrected = np.array([min(holm(column)) for column in table.T.tolist()])
    return SwappedLabels(np.array(means), is_rejected(table), is_rejected(corrected))
