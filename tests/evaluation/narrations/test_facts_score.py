"""Scores of sentences against facts, by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from contracts.errors import MisuseError
from evaluation.narrations.facts_score import SCORES, tallies
from simulation.captions import caption, parse
from simulation.scenes.facts import KINDS, Facts, Thing
from simulation.scenes.scene import random_scene

CAR = Thing("car", 1, "left", "near")
DOGS = Thing("dog", 2, "towards", "far")
TREE = Thing("tree", 1, "", "far")
FACTS = (
    Facts("day", (CAR,)),
    Facts("night", (DOGS, TREE)),
    Facts("shadow", (TREE,)),
)
"""Three scenes: a car; two dogs and a tree; a tree."""


def _values(facts, texts):
    return {name: tally.value for name, tally in tallies(facts, texts).items()}


def test_scores_by_hand():
    """Three sentences with one mistake of each kind give the fractions on paper."""
    texts = (
        "A car drives to the left far off, by day.",  # distance wrong
        "Two dogs run to the right in the distance, by day.",  # heading, light, no tree
        "A bird stands in the distance, in the shade.",  # a bird for a tree
    )
    found = _values(FACTS, texts)
    # Named: car; dog; bird. There: car; dog, tree; tree. Two of three named are there, of four.
    assert found["object_precision"] == pytest.approx(2 / 3)
    assert found["object_recall"] == pytest.approx(2 / 4)
    assert found["object_f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["direction"] == pytest.approx(1 / 2)  # the tree's scene does not ask
    assert found["count"] == pytest.approx(2 / 3)
    assert found["distance"] == pytest.approx(1 / 3)
    assert found["light"] == pytest.approx(2 / 3)
    assert found["tree_f1"] == 0
    assert found["car_f1"] == 1
    assert np.isnan(found["lamp_f1"])


def test_true_captions_are_perfect():
    """Every fact of every phrasing is read back: each score of 60 scenes is one."""
    facts = [random_scene(seed).facts for seed in range(60)]
    found = _values(facts, [caption(one, seed) for seed, one in enumerate(facts)])
    assert {name: found[name] for name in SCORES} == dict.fromkeys(SCORES, 1.0)


def test_saying_nothing_is_wrong():
    """A narration that failed is the empty text: no precision, and zero of everything else."""
    found = tallies(FACTS, ["", "", ""])
    assert np.isnan(found["object_precision"].value)
    for name in ("object_recall", "object_f1", "direction", "count", "distance", "light"):
        assert found[name].value == 0
        assert found[name].chance == 0


def test_heading_of_another_thing_does_not_count():
    """A sentence that gives the right heading to the wrong kind has no direction right."""
    found = _values(FACTS, ["A dog runs to the left.", "A car comes towards us.", ""])
    assert found["direction"] == 0


def _brute_force_chance(facts, texts, name):
    """Average over every derangement, each scored scene by scene in words."""
    n = len(facts)
    values = []
    for order in itertools.permutations(range(n)):
        if any(order[at] == at for at in range(n)):
            continue
        other = [facts[at] for at in order]
        said = [parse(text) for text in texts]
        if name == "object_f1":
            tp = sum(len(s.kinds & f.kinds) for s, f in zip(said, other, strict=True))
            total = sum(len(s.kinds) + len(f.kinds) for s, f in zip(said, other, strict=True))
            values.append(2 * tp / total)
            continue
        asked = [f for f in other if name != "direction" or f.subject.heading]
        right = 0
        for s, f in zip(said, other, strict=True):
            thing = s.thing(f.subject.kind)
            if name == "light":
                right += s.light == f.light
            elif thing and (name != "direction" or f.subject.heading):
                wanted = "heading" if name == "direction" else name
                right += getattr(thing, wanted) == getattr(f.subject, wanted)
        values.append(right / len(asked))
    return np.mean(values)


@pytest.mark.parametrize("name", ["object_f1", "direction", "count", "distance", "light"])
def test_chance_is_the_mean_over_derangements(name):
    """Chance agrees with a plain loop over all orders in which no scene stays in its place."""
    facts = [random_scene(seed).facts for seed in range(200, 206)]
    facts[2:4] = [FACTS[0]] * 2  # two scenes of the same facts: chance cannot be zero
    texts = [caption(one, seed) for seed, one in enumerate(facts)]
    expected = _brute_force_chance(facts, texts, name)
    assert expected > 0
    assert tallies(facts, texts, seed=1)[name].chance == pytest.approx(expected, abs=0.02)


def test_a_constant_sentence_is_corrected_to_nothing():
    """A sentence that is always the same is exactly as good as chance, up to the drawing."""
    facts = [random_scene(seed).facts for seed in range(120)]
    found = tallies(facts, ["A car drives to the left close by, by day."] * 120)
    for name in SCORES:
        assert found[name].value == pytest.approx(found[name].chance, abs=1e-9)


def test_every_kind_has_its_f1():
    """Each kind is scored, and the pooled score lies between the best and the worst."""
    facts = [random_scene(seed).facts for seed in range(200)]
    wrong = [facts[(at + 1) % 200] if at % 3 == 0 else one for at, one in enumerate(facts)]
    found = _values(facts, [caption(one) for one in wrong])
    kinds = [found[f"{kind}_f1"] for kind in KINDS]
    assert min(kinds) < found["object_f1"] < max(kinds)


def test_a_sentence_for_each_scene():
    """Too few sentences are our own mistake."""
    with pytest.raises(MisuseError, match="one sentence for each scene"):
        tallies(FACTS, ["A car."])
