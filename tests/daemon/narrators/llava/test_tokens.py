"""The next token by the model's own rules, and text as it grows."""

from __future__ import annotations

import pytest

from daemon.narrators.llava.tokens import GreedyChoice, Transcript
from simulation.tiny_llava import build_tokenizer
from tests.daemon.narrators.llava.small_models import (
    engine_of,
    plain_tokens,
    say_all,
    small_model,
    some_grids,
)


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")  # of words alone, as here
@pytest.mark.parametrize(
    "rules",
    [{"min_new_tokens": 9}, {"repetition_penalty": 1.7}, {"eos_token_id": [2, 7, 11]}],
    ids=lambda rules: next(iter(rules)),
)
def test_rules_of_the_model_are_followed(rules):
    """What a model's folder says of its sentences changes them as it does with ``generate``."""
    model = small_model()
    grids = some_grids(8)
    before = plain_tokens(model, grids)
    model.generation_config.update(**rules)
    expected = plain_tokens(model, grids)
    end_ids = GreedyChoice(model.generation_config, "cpu").end_ids
    expected = [_to_the_end(tokens, end_ids) for tokens in expected]
    engine = engine_of(model)
    rows = engine.begin(0, grids)
    say_all(engine)
    assert [row.tokens for row in rows] == expected
    assert expected != before


def _to_the_end(tokens, end_ids):
    ends = [place for place, token in enumerate(tokens) if token in end_ids]
    return tokens[: ends[0] + 1] if ends else tokens


@pytest.mark.parametrize(
    ("rule", "value"), [("no_repeat_ngram_size", 3), ("min_length", 9), ("stop_strings", ["."])]
)
def test_rule_that_is_not_followed_is_logged(caplog, rule, value):
    """A rule that would change the words is named, not passed over."""
    model = small_model()
    GreedyChoice(model.generation_config, "cpu")
    assert not caplog.records
    setattr(model.generation_config, rule, value)
    GreedyChoice(model.generation_config, "cpu")
    assert caplog.records[-1].rules == rule


def test_transcript_grows_by_whole_words():
    """Each part begins what is said in the end; letters of several bytes come whole."""
    tokenizer = build_tokenizer(["dog", "tree", "sits"])
    text = " dog sits na\u00efve \u72d7 \U0001f415 tree dog"
    tokens = tokenizer(text)["input_ids"]
    transcript = Transcript(tokenizer)
    parts = [transcript.add(token) for token in tokens]
    whole = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert all(whole.startswith(part) and "\ufffd" not in part for part in parts)
    assert parts[-1] == whole.removesuffix(" dog")
    assert sorted(parts, key=len) == parts
    assert len(set(parts)) > 5


def test_tokenizer_without_a_backend_is_silent_until_the_end():
    """No text is better than wrong text."""
    assert Transcript(object()).add(5) == ""
