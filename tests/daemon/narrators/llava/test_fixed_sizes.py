"""The step with fixed sizes, as a GPU runs it, says the same words."""

from __future__ import annotations

import pytest
import torch

from daemon.narrators.llava import fixed_sizes
from daemon.narrators.llava.fixed_sizes import FixedSizes, buckets
from tests.daemon.narrators.llava.small_models import (
    decoder_of,
    engine_of,
    plain_tokens,
    say_all,
    small_model,
    some_grids,
)


@pytest.fixture(autouse=True)
def _forget_compiled():
    """Let go of what is compiled for the models of one test."""
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(("max_rows", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_buckets(max_rows, sizes):
    """Powers of two, and the largest number of rows."""
    assert buckets(max_rows) == sizes


def test_joins_and_leaves_at_fixed_sizes(caplog):
    """Rows that are not there are computed and change nothing, as one graph without a break."""
    model, grids = small_model("qwen2"), some_grids(9)
    decoder = FixedSizes(decoder_of(model, max_rows=3), backend="eager")
    assert "cannot be fixed" not in caplog.text
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids[:3])
    for _ in range(5):
        engine.step()
    rows += engine.begin(1, grids[3:])
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_inductor_says_the_same_words():
    """What the compiler makes of a step is the step."""
    model, grids = small_model(), some_grids(2)
    decoder = FixedSizes(decoder_of(model, max_rows=2))
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids)
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)


def test_compiler_that_fails_is_logged(caplog):
    """The plain step takes over, and the log says why."""
    model, grids = small_model(), some_grids(2)
    decoder = FixedSizes(decoder_of(model, max_rows=2), backend=_broken)
    assert "step runs slower" in caplog.text
    assert "no compiler here" in caplog.records[-1].reason
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids)
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)


def _broken(graph, inputs):
    raise RuntimeError("no compiler here")


def test_compiler_that_is_wrong_is_found(caplog, monkeypatch):
    """Scores that differ from the plain step's are never used."""
    monkeypatch.setattr(fixed_sizes, "MAX_DIFFERENCE", -1.0)
    FixedSizes(decoder_of(small_model(), max_rows=1), backend="eager")
    assert "scores differ by" in caplog.records[-1].reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_recorded_graphs_say_the_same_words(caplog):
    """Compiled and recorded on a GPU, in float32, the words are those of ``generate``."""
    model, grids = small_model("llama, shared keys"), some_grids(7)
    decoder = FixedSizes(decoder_of(model, max_rows=4, device="cuda"))
    assert "cannot be fixed" not in caplog.text
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids)
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)
