"""Captions hold every fact, in several phrasings, and the parser gets the facts back."""

from __future__ import annotations

import numpy as np
import pytest

from simulation.captions import caption, parse, vocabulary
from simulation.captions.phrases import N_PHRASINGS, phrase
from simulation.scenes.scene import random_scene


def check(facts, text):
    """Assert that a sentence says these facts."""
    said = parse(text)
    assert said.light == facts.light, text
    assert [thing.kind for thing in said.things] == [thing.kind for thing in facts.things], text
    assert [thing.count for thing in said.things] == [thing.count for thing in facts.things], text
    assert (said.things[0].heading or "") == facts.subject.heading, text
    assert said.things[0].distance == facts.subject.distance, text


def test_parser_reads_every_phrasing_of_many_facts():
    """Six phrasings of 500 random sets of facts, word for word back to the facts."""
    rng = np.random.default_rng(0)
    for seed in range(500):
        facts = random_scene(seed).facts
        for phrasing in range(N_PHRASINGS):
            check(facts, phrase(facts, phrasing, rng))


def test_each_set_of_facts_has_five_phrasings_or_more():
    """Seeds give many different sentences for one set of facts."""
    for seed in range(20):
        facts = random_scene(seed).facts
        assert len({caption(facts, each) for each in range(60)}) >= 5


def test_vocabulary_is_small_and_holds_every_word():
    """A few hundred words at most, and no caption uses another."""
    words = set(vocabulary())
    assert len(words) < 300
    for seed in range(300):
        text = caption(random_scene(seed).facts, seed)
        assert set(text.lower().replace(",", "").replace(".", "").replace(":", "").split()) <= words


def test_caption_is_a_sentence():
    """A capital in front, a full stop at the end, single spaces, the same for the same seed."""
    for seed in range(200):
        text = caption(random_scene(seed).facts, seed)
        assert text[0].isupper()
        assert text.endswith(".")
        assert "  " not in text
        assert text == caption(random_scene(seed).facts, seed)


@pytest.mark.parametrize(
    ("text", "kinds", "light", "heading", "distance", "count"),
    [
        ("", set(), None, None, None, None),
        ("The the of and.", set(), None, None, None, None),
        ("A man walks his dog far away.", {"pedestrian", "dog"}, None, None, "far", 1),
        ("Two men on bikes approaching", {"pedestrian", "cyclist"}, None, "towards", None, 2),
        ("vehicles heading LEFT; a lantern", {"car", "lamp"}, None, "left", None, None),
        ("A dark cartoon of a catalogue", set(), "night", None, None, None),
    ],
)
def test_parser_takes_any_sentence(text, kinds, light, heading, distance, count):
    """Sentences of other models are read as far as they can be, and nothing is made up."""
    said = parse(text)
    assert said.kinds == kinds
    assert said.light == light
    first = said.things[0] if said.things else None
    assert (first and first.heading) == heading
    assert (first and first.distance) == distance
    assert (first and first.count) == count


def test_number_belongs_to_its_own_noun():
    """The number of one thing is not taken for that of the next."""
    said = parse("Three dogs beside trees and a house")
    assert [(thing.kind, thing.count) for thing in said.things] == [
        ("dog", 3),
        ("tree", None),
        ("building", 1),
    ]
