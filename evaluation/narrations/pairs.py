"""Controlled clips: a feature must be mentioned when it is shown, and not when it is absent.

The two scenes of a pair look the same except for one feature (`simulation.scenes.pairs`). The value
under test is the first scene's: its subject's kind, number, heading or distance, its light, or its
second thing. It is *present* in the first scene and *absent* from the second. A sentence mentions
it under the rules of `evaluation.narrations.facts_score`.

References
----------
McNemar, Psychometrika 12, 1947; exact form: binomial test on the discordant pairs.
Holm, Scandinavian Journal of Statistics 6, 1979: correction for the number of features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import MisuseError
from evaluation.scores import rate_interval
from simulation.captions import parse
from simulation.scenes.facts import Facts
from simulation.scenes.pairs import FEATURES


@dataclass(frozen=True, slots=True)
class NarratedPair:
    """Two scenes that differ in one feature, and the sentence for each."""

    feature: str  # One of `FEATURES`
    # With the value under test, and without it
    present: Facts
    absent: Facts
    text_present: str
    text_absent: str


@dataclass(frozen=True, slots=True)
class PairResult:
    """One feature."""

    feature: str  # One of `FEATURES`
    n_pairs: int
    # Rate of mention where it is present, and where it is absent, with 95 % Wilson intervals
    present: float
    present_low: float
    present_high: float
    absent: float
    absent_low: float
    absent_high: float
    # Two-sided: exact test on the pairs, exact test that ignores the pairing, and both corrected
    # for the number of features
    p_mcnemar: float
    p_fisher: float
    p_mcnemar_holm: float
    p_fisher_holm: float


def pair_results(pairs: Sequence[NarratedPair]) -> tuple[PairResult, ...]:
    """Test each feature that has pairs, in the order of `FEATURES`."""
    by_feature = {
        feature: [
            (
                mentions(pair.feature, pair.present, pair.absent, pair.text_present),
                mentions(pair.feature, pair.present, pair.absent, pair.text_absent),
            )
            for pair in pairs
            if pair.feature == feature
        ]
        for feature in FEATURES
    }
    tested = {feature: mentioned for feature, mentioned in by_feature.items() if mentioned}
    mcnemar = [mcnemar_exact(mentioned) for mentioned in tested.values()]
    fisher = [fisher_exact(mentioned) for mentioned in tested.values()]
    p_values = zip(mcnemar, fisher, holm(mcnemar), holm(fisher), strict=True)
    results = []
    for (feature, mentioned), p_of_feature in zip(tested.items(), p_values, strict=True):
        n = len(mentioned)
        present, absent = map(rate_interval, np.array(mentioned, np.float64).T)
        results.append(
            PairResult(
                feature, n, present.value, present.low, present.high,
                absent.value, absent.low, absent.high, *p_of_feature,
            )
        )  # fmt: skip
    return tuple(results)


def mentions(feature: str, present: Facts, absent: Facts, text: str) -> bool:
    """Return whether a sentence mentions the value of a feature that only the first facts have.

    The sentence may be for either scene.

    Raises
    ------
    MisuseError
        If the facts do not differ in that feature.
    """
    sentence, subject = parse(text), present.subject
    if feature == "second":
        missing = present.kinds - absent.kinds
        if len(missing) != 1:
            raise MisuseError(f"one thing must be missing from the second facts, got {absent}")
        return bool(missing & sentence.kinds)
    values = _value(feature, present), _value(feature, absent)
    if values[0] == values[1]:
        raise MisuseError(f"the scenes of a pair must differ in {feature!r}, got {values[0]} twice")
    if feature == "kind":
        return subject.kind in sentence.kinds
    if feature == "light":
        return sentence.light == present.light
    thing = sentence.thing(subject.kind)
    return thing is not None and getattr(thing, feature) == values[0]


def mcnemar_exact(mentioned: Sequence[tuple[bool, bool]]) -> float:
    """Return the two-sided p of McNemar's exact test; 1 if no pair is discordant.

    `mentioned` holds for each pair: where present, where absent.
    """
    from scipy.stats import binomtest

    n_present = sum(present and not absent for present, absent in mentioned)
    n = sum(present != absent for present, absent in mentioned)
    return float(binomtest(n_present, n).pvalue) if n else 1.0


def fisher_exact(mentioned: Sequence[tuple[bool, bool]]) -> float:
    """Return the two-sided p of Fisher's exact test on mentions where present and where absent."""
    from scipy import stats

    table = [[sum(row), len(row) - sum(row)] for row in zip(*mentioned, strict=True)]
    return float(stats.fisher_exact(table).pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p values for their number.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values)[order] * steps)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(adjusted.tolist())


def _value(feature: str, facts: Facts) -> object:
    if feature == "light":
        return facts.light
    if feature in {"kind", "count", "heading", "distance"}:
        return getattr(facts.subject, feature)
    raise MisuseError(f"a pair differs in one of {', '.join(FEATURES)}, got {feature!r}")
