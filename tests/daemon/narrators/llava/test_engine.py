"""Rows are said together, and each says what ``generate`` says of it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from daemon.narrators.llava.decoder import LlamaDecoder
from daemon.narrators.llava.engine import DecodingRow, EndReason
from daemon.narrators.llava.fixed_sizes import FixedSizes
from daemon.narrators.llava.onnx_decoder import OnnxDecoder
from tests.daemon.narrators.llava.small_models import (
    KINDS,
    MAX_NEW_TOKENS,
    PROMPT_LENGTH,
    WIDTH,
    decoder_of,
    engine_of,
    plain_tokens,
    say_all,
    small_model,
    some_grids,
)
from tests.support.manual_clock import ManualClock


@pytest.fixture(scope="module")
def model():
    """Return the plainest kind."""
    return small_model()


@pytest.fixture(scope="module")
def grids():
    """Return sixteen prompts."""
    return some_grids(16)


@pytest.fixture(scope="module")
def expected(model, grids):
    """Return what ``generate`` says of them."""
    return plain_tokens(model, grids)


@pytest.fixture(params=[OnnxDecoder, LlamaDecoder], ids=["onnx", "torch"])
def decoder_class(request):
    """Return the decoder of a CPU, and that of a GPU, which runs on a CPU too."""
    return request.param


@pytest.mark.parametrize("n", range(1, 17))
def test_same_tokens_as_generate(model, grids, n, decoder_class):
    """Of one to sixteen rows, token for token, up to each row's end."""
    engine = engine_of(model, kind=decoder_class)
    rows = engine.begin(0, grids[:n])
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids[:n])


@pytest.mark.parametrize("kind", KINDS)
def test_same_tokens_for_every_kind(kind, grids, decoder_class):
    """Shared keys, biases, tied words, other heads, other angles and other families."""
    model = small_model(kind)
    engine = engine_of(model, kind=decoder_class)
    rows = engine.begin(0, grids[:6])
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids[:6])


def test_prompts_cover_both_ends(expected):
    """Some sentences of these tests end and others are cut, at different lengths."""
    lengths = {len(tokens) for tokens in expected}
    assert len(lengths) > 3
    assert MAX_NEW_TOKENS in lengths
    assert {tokens[-1] == 2 for tokens in expected} == {True, False}


@pytest.mark.parametrize("seed", range(8))
def test_joins_and_leaves_change_no_word(model, grids, expected, seed, decoder_class):
    """Windows come in the middle of others, some are given up, and every row says its own."""
    rng = np.random.default_rng(seed)
    engine = engine_of(model, max_rows=int(rng.integers(1, 9)), kind=decoder_class)
    begun: dict[DecodingRow, int] = {}
    given_up: set[int] = set()
    ended = 0
    for batch_id in range(12):
        chosen = rng.choice(16, size=rng.integers(1, 6), replace=False)
        rows = engine.begin(batch_id, [grids[index] for index in chosen])
        begun |= dict(zip(rows, chosen, strict=True))
        for _ in range(rng.integers(0, 12)):
            ended += sum(row.end is not None for row in engine.step())
        if rng.random() < 0.2:
            given_up.add(int(rng.integers(batch_id + 1)))
            engine.cancel(max(given_up))
    ended += len(say_all(engine))
    assert engine.n_free > 0
    assert ended >= 12
    for row, index in begun.items():
        if row.end:
            assert row.tokens == expected[index]
        else:
            assert row.batch_id in given_up
            assert row.tokens == expected[index][: len(row.tokens)]


def test_scores_are_the_models(model, grids, expected, decoder_class):
    """The log-probability of each token is the one that the model gives it."""
    engine = engine_of(model, kind=decoder_class)
    (row,) = engine.begin(0, grids[:1])
    say_all(engine)
    words = model.get_input_embeddings()(torch.tensor([expected[0][:-1]]))
    whole = torch.cat([torch.from_numpy(grids[0])[None], words], dim=1)
    with torch.inference_mode():
        scores = model(inputs_embeds=whole).logits[0, PROMPT_LENGTH - 1 :].log_softmax(-1)
    plain = scores.gather(1, torch.tensor(expected[0])[:, None])[:, 0]
    assert row.logprobs == pytest.approx(plain.tolist(), abs=1e-4)


def test_broken_row_leaves_nothing_behind(model, grids, expected, decoder_class):
    """A grid that is no number fails alone, and its place is clean for the next."""
    engine = engine_of(model, max_rows=2, kind=decoder_class)
    broken = np.full((PROMPT_LENGTH, WIDTH), np.nan, np.float32)
    bad, good = engine.begin(0, [broken, grids[0]])
    engine.step()
    late = engine.begin(1, [grids[1]])[0]
    say_all(engine)
    assert (bad.end, len(bad.tokens)) == (EndReason.NO_NUMBERS, 1)
    assert [good.tokens, late.tokens] == expected[:2]


def test_turns_rotate(model, grids):
    """Of three rows with room for two, another is last each time."""
    engine = engine_of(model, max_rows=2)
    last = []
    for batch_id in range(3):
        engine.begin(batch_id, grids[:3])
        started = [row.index for row in engine.step()]
        last += sorted({0, 1, 2} - set(started))
        say_all(engine)
    assert sorted(last) == [0, 1, 2]


class Crowded(LlamaDecoder):
    """A decoder whose device holds so many rows at once."""

    holds = 16

    def prefill(self, prompts, first_row):
        self._check(first_row + len(prompts))
        return super().prefill(prompts, first_row)

    def step(self, tokens, positions, first_row):
        self._check(len(tokens))
        return super().step(tokens, positions, first_row)

    def _check(self, n):
        if n > self.holds:
            raise torch.OutOfMemoryError("out of memory")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("holds", [1, 3])
@pytest.mark.parametrize("is_fixed", [False, True], ids=["any size", "fixed sizes"])
def test_memory_runs_out(model, grids, expected, caplog, holds, is_fixed):
    """Before the first word or in the middle: fewer rows at once, said in the log, none lost."""
    decoder = decoder_of(model, max_rows=8, kind=Crowded)
    fixed = FixedSizes(decoder, backend="eager") if is_fixed else decoder
    engine = engine_of(model, decoder=fixed)
    rows = engine.begin(0, grids[:4])
    engine.step()
    engine.step()
    decoder.holds = holds
    rows += engine.begin(1, grids[4:8])
    say_all(engine)
    assert [row.tokens for row in rows] == expected[:8]
    assert "out of memory, fewer rows at once" in caplog.text
    assert engine.n_free <= holds


def test_row_that_does_not_fit_alone_fails(model, grids, expected):
    """Where even one is too much, each ends with that reason, and later ones may fit again."""
    decoder = decoder_of(model, max_rows=4, kind=Crowded)
    engine = engine_of(model, decoder=decoder)
    decoder.holds = 0
    rows = engine.begin(0, grids[:2])
    say_all(engine)
    assert [row.end for row in rows] == [EndReason.NO_MEMORY] * 2
    decoder.holds = 1
    (row,) = engine.begin(1, grids[:1])
    engine.step()
    decoder.holds = 0
    say_all(engine)
    assert (row.end, row.tokens) == (EndReason.NO_MEMORY, expected[0][:1])


def test_deadline_cuts_what_is_said_and_what_waits(model, grids, expected):
    """A row ends at its own deadline, also one that has not had its turn; a later one goes on."""
    clock = ManualClock()
    engine = engine_of(model, max_rows=1, deadline_s=1.0, clock=clock.now_ns)
    first, waits = engine.begin(0, grids[:2])
    engine.step()
    clock.sleep_ns(600_000_000)
    later = engine.begin(1, grids[2:3])[0]
    engine.step()
    clock.sleep_ns(600_000_000)
    assert {first, waits} <= set(engine.step())
    say_all(engine)
    assert [first.end, waits.end] == [EndReason.AT_DEADLINE] * 2
    assert first.tokens == expected[0][:2]
    assert waits.tokens == []
    assert waits.last_token_host_ns >= waits.start_host_ns
    assert later.tokens == expected[2]


def test_one_step_reads_few_prompts(model, grids, monkeypatch):
    """However many rows wait, a step returns after so many tokens of prompts."""
    monkeypatch.setattr(
        "daemon.narrators.llava.engine.PREFILL_TOKENS", {"cpu": 2 * PROMPT_LENGTH + 1}
    )
    engine = engine_of(model)
    engine.begin(0, grids[:5])
    assert [len(engine.step()) for _ in range(4)] == [2, 2, 1, 5]
