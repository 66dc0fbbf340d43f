"""Cosines of narrations and captions: against values by hand, and with a real sentence model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from contracts.errors import MisuseError
from encoder_training.evaluation.bootstrap import draw_groups
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.caption_scores.scoring import caption_scores
from evaluation.narrations.sbert import load_sentence_model, sentence_vectors
from evaluation.scores import derangements
from tests.support.sentence_models import write_tiny_bert

CAPTIONS = tuple(
    f"A {kind} {does} {where}."
    for kind in ("car", "dog", "tree", "bus")
    for does in ("waits", "moves")
    for where in ("near", "far", "left")
)
GROUPS = draw_groups(np.arange(len(CAPTIONS)) // 2, seed=0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Return the folder of a BERT without modules of sentence-transformers."""
    folder = tmp_path_factory.mktemp("bert")
    write_tiny_bert(folder, CAPTIONS)
    return folder


@pytest.fixture(scope="module")
def encoder(bert):
    """Return that BERT as a sentence model."""
    return load_sentence_model(str(bert))


def _scores(encoder, texts, **options):
    everyone = {TRUE_PATCHES: CAPTIONS, **texts}
    return caption_scores(
        everyone, CAPTIONS, encoder, GROUPS, controls=["silent"] * ("silent" in texts), **options
    )


def test_a_bert_alone_has_its_tokens_averaged(bert, encoder):
    """The vectors are SBERT's: the mean of the token vectors, padding left out, of length one."""
    sentences = ["A car waits near.", "A dog."]
    tokens = AutoTokenizer.from_pretrained(bert)(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(bert).eval()(**tokens).last_hidden_state
    weight = tokens["attention_mask"].unsqueeze(-1)
    means = ((states * weight).sum(1) / weight.sum(1)).numpy()
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(sentences), expected, atol=1e-5)


def test_captions_as_narrations_match_with_one(encoder):
    """The true captions have matched 1, a lead, and the normalised score 1."""
    scores = _scores(encoder, {"all": CAPTIONS, "silent": ["A tree."] * len(CAPTIONS)})
    found = scores["all"]
    assert found.matched.value == pytest.approx(1, abs=1e-6)
    assert found.lead.value > 0.05
    assert found.lead.low > 0
    assert found.normalised.value == pytest.approx(1)
    assert found.verdict == "above controls"
    assert found.over["silent"].value == pytest.approx(found.lead.value, abs=1e-6)


@pytest.mark.parametrize("sentence", ["A car waits near.", "Far."])
def test_a_sentence_for_every_window_is_at_chance(encoder, sentence):
    """Whatever it says, a narrator that never changes has matched equal to chance."""
    found = _scores(encoder, {"silent": [sentence] * len(CAPTIONS)})["silent"]
    assert found.matched.value > 0.2
    assert found.lead.value == pytest.approx(0, abs=1e-6)
    assert found.verdict == "at chance"
    assert found.n_different == 1


def test_true_captions_in_another_order_are_at_chance(encoder):
    """Captions of other windows, drawn many times, have no lead on average."""
    orders = derangements(len(CAPTIONS), seed=1, n_draws=200)
    leads = [
        _scores(encoder, {"all": [CAPTIONS[row] for row in order]})["all"].lead.value
        for order in orders[:20]
    ]
    # Less than zero: no sentence stays in its place, while chance has that place among others.
    assert np.mean(leads) < 0.02
    assert max(leads) < 0.5 * _scores(encoder, {})[TRUE_PATCHES].lead.value


def test_chance_is_the_mean_over_derangements(encoder):
    """The exact value is what many drawn orders without a fixed place come near to."""
    texts = [f"A {CAPTIONS[row].split()[1]}." for row in range(len(CAPTIONS))]
    found = _scores(encoder, {"all": texts})["all"]
    vectors = sentence_vectors([*texts, *CAPTIONS], encoder)
    cosines = np.array([[vectors[text] @ vectors[c] for c in CAPTIONS] for text in texts])
    orders = derangements(len(CAPTIONS), n_draws=4000)
    drawn = cosines[np.arange(len(CAPTIONS)), orders].mean()
    assert found.chance.value == pytest.approx(drawn, abs=2e-3)
    assert found.matched.value > drawn + 0.02


def test_repeated_captions_leave_the_normalised_score(encoder):
    """Where windows share captions, lead and ceiling shrink alike."""
    captions = [CAPTIONS[row] for row in (0, 0, 0, 7, 7, 14)]
    texts = {TRUE_PATCHES: captions, "all": [*captions[:5], captions[0]]}
    draws = draw_groups(np.arange(6), seed=0)
    found = caption_scores(texts, captions, encoder, draws, controls=())
    assert found[TRUE_PATCHES].normalised.value == pytest.approx(1)
    assert 0 < found["all"].normalised.value < 1
    assert found["all"].normalised.low < found["all"].normalised.value


def test_failed_narrations_are_like_nothing(encoder):
    """An empty text has cosine 0 with the captions and random words, and is counted."""
    found = _scores(encoder, {"all": [""] * len(CAPTIONS)})["all"]
    assert (found.matched.value, found.chance.value, found.floor.value) == (0, 0, 0)
    assert found.n_failed == len(CAPTIONS)


def test_nothing_is_normalised_without_a_ceiling(encoder):
    """Where the true patches are at chance, the share of their lead means nothing."""
    texts = {TRUE_PATCHES: ["A dog."] * len(CAPTIONS), "all": CAPTIONS}
    found = caption_scores(texts, CAPTIONS, encoder, GROUPS, controls=())
    assert np.isnan(found["all"].normalised.value)
    assert found["all"].lead.value > 0


def test_one_group_has_no_interval_and_no_verdict(encoder):
    """What is drawn as a whole and stands alone gives a value only."""
    draws = draw_groups(np.zeros(len(CAPTIONS), np.int64), seed=0)
    texts = {TRUE_PATCHES: CAPTIONS}
    found = caption_scores(texts, CAPTIONS, encoder, draws, controls=())[TRUE_PATCHES]
    assert not found.lead.is_known
    assert found.verdict == "no verdict"
    assert found.normalised.value == pytest.approx(1)


def test_one_sentence_for_each_caption():
    """Unequal lists, or a single caption, are our own mistake."""
    for texts, captions in ((["a"], ["a", "b"]), (["a"], ["a"])):
        with pytest.raises(MisuseError, match="one sentence for each"):
            caption_scores({TRUE_PATCHES: texts}, captions, None, GROUPS, controls=())  # type: ignore[arg-type]
