"""Controlled clips and their tests."""

from __future__ import annotations

import pytest

from contracts.errors import MisuseError
from evaluation.narrations.pairs import (
    NarratedPair,
    fisher_exact,
    holm,
    mcnemar_exact,
    mentions,
    pair_results,
)
from simulation.captions import caption
from simulation.scenes.facts import Facts, Thing
from simulation.scenes.pairs import FEATURES, controlled_pair

TREE = Thing("tree", 1, "", "far")


def _pairs(feature, n, *, say):
    for seed in range(n):
        one, other = (scene.facts for scene in controlled_pair(feature, seed))
        yield NarratedPair(feature, one, other, *say(one, other))


@pytest.mark.parametrize("feature", FEATURES)
def test_true_captions_mention_what_is_there_and_nothing_else(feature):
    """With perfect sentences each feature is said in every first scene, in no second one."""
    (result,) = pair_results(
        list(_pairs(feature, 20, say=lambda one, other: (caption(one, 1), caption(other, 2))))
    )
    assert (result.feature, result.n_pairs) == (feature, 20)
    assert (result.present, result.absent) == (1, 0)
    assert result.p_mcnemar == pytest.approx(2 * 0.5**20)
    assert result.p_fisher < 1e-9
    assert 0.8 < result.present_low < 1
    assert 0 < result.absent_high < 0.2


@pytest.mark.parametrize("feature", FEATURES)
def test_same_sentence_for_both_scenes_is_no_evidence(feature):
    """A narrator that does not see the feature says it as often where it is not: p is one."""
    (result,) = pair_results(
        list(_pairs(feature, 20, say=lambda one, _: (caption(one), caption(one))))
    )
    assert result.present == result.absent == 1
    assert result.p_mcnemar == result.p_fisher == 1


def test_mcnemar_by_hand():
    """Eight pairs for and one against: twice the tail of nine fair coins."""
    said = [(True, False)] * 8 + [(False, True)] + [(True, True)] * 5 + [(False, False)] * 3
    assert mcnemar_exact(said) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar_exact([(True, True)]) == 1


def test_fisher_by_hand():
    """Three of three against none of three: one table in twenty, on either side."""
    assert fisher_exact([(True, False)] * 3) == pytest.approx(2 / 20)


def test_holm_by_hand():
    """The smallest p is multiplied by all, the next by one less, and none falls below another."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)


def test_p_values_are_corrected_over_the_features():
    """Two features tested at once: the smaller p is doubled."""
    say = {"light": lambda one, other: (caption(one), caption(other))}
    pairs = [
        *_pairs("light", 10, say=say["light"]),
        *_pairs("count", 10, say=lambda one, _: (caption(one), caption(one))),
    ]
    count, light = pair_results(pairs)
    assert (count.feature, light.feature) == ("count", "light")
    assert light.p_mcnemar_holm == pytest.approx(2 * light.p_mcnemar)
    assert count.p_mcnemar_holm == 1


def test_a_number_of_the_wrong_kind_is_no_mention():
    """The number belongs to the kind: two cars do not mention the two dogs."""
    two, three = (Facts("day", (Thing("dog", n, "left", "near"), TREE)) for n in (2, 3))
    assert mentions("count", two, three, "Two dogs run to the left.")
    assert not mentions("count", two, three, "Two cars drive to the left.")
    assert not mentions("count", two, three, "Three dogs run to the left.")
    assert not mentions("count", two, three, "")


def test_pair_must_differ_in_its_feature():
    """Two scenes that do not differ cannot tell anything about a feature."""
    facts = Facts("day", (TREE,))
    for feature in FEATURES:
        with pytest.raises(MisuseError):
            mentions(feature, facts, facts, "A tree.")
    with pytest.raises(MisuseError, match="differs in one of"):
        mentions("colour", facts, facts, "A tree.")
