"""The step with fixed sizes, as a GPU runs it, says the same words."""

from __future__ import annotations

import pytest
import torch

from daemon.narrators.llava import fixed_sizes
from daemon.narrators.llava.decoder import LlamaDecoder
from daemon.narrators.llava.fixed_sizes import FixedSizes, buckets
from tests.daemon.narrators.llava.small_models import (
    decoder_of,
    engine_of,
    plain_tokens,
    say_all,
    small_model,
    some_grids,
)

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.parametrize(("max_rows", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_buckets(max_rows, sizes):
    """Powers of two, and the largest number of rows."""
    assert buckets(max_rows) == sizes


def test_joins_and_leaves_at_fixed_sizes():
    """Rows that are not there are computed and change nothing, as one graph without a break."""
    model, grids = small_model("qwen2"), some_grids(9)
    decoder = FixedSizes(decoder_of(model, max_rows=3), backend="eager")
    assert decoder.sizes == [1, 2, 3]
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids[:3])
    for _ in range(5):
        engine.step()
    rows += engine.begin(1, grids[3:])
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)


class FullDecoder(LlamaDecoder):
    """A decoder whose device has no room for the prompt of a sixth row."""

    def prefill(self, prompts, first_row):
        if first_row + len(prompts) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return super().prefill(prompts, first_row)


def test_idle_rows_write_where_nothing_is_read():
    """Five rows are said, three at once from now on: the fourth of the step is a live row's."""
    model, grids = small_model(), some_grids(6)
    decoder = FixedSizes(decoder_of(model, max_rows=8, kind=FullDecoder), backend="eager")
    assert decoder.sizes == [1, 2, 4, 8]
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids[:5])
    engine.step()
    engine.step()
    rows += engine.begin(1, grids[5:])
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a C++ compiler runs for each kernel
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own, as it loads
def test_inductor_says_the_same_words(monkeypatch):
    """What the compiler makes of a step is the step."""
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)  # its threads would stay
    monkeypatch.setattr(config.cpp, "simdlen", 1)  # vector headers take half of a compilation
    monkeypatch.setattr(fixed_sizes, "buckets", lambda _: [2])  # one size, one compilation
    model, grids = small_model(n_layers=1), some_grids(2)
    decoder = FixedSizes(decoder_of(model, max_rows=2))
    assert decoder.sizes == [2]
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
    assert decoder.sizes == []
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids)
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)


def _broken(graph, inputs):
    raise RuntimeError("no compiler here")


def _twice(graph, inputs):
    """Return a step whose scores are twice what they should be."""
    return lambda *found: tuple(2 * each for each in graph.forward(*found))


def _unmasked(graph, inputs):
    """Return a step that attends to all of the cache."""
    attention = torch.nn.functional.scaled_dot_product_attention
    for node in graph.graph.nodes:
        if node.target is attention:
            node.kwargs = {**node.kwargs, "attn_mask": None}
    graph.recompile()
    return graph.forward


@pytest.mark.parametrize("backend", [_twice, _unmasked], ids=["scores", "mask"])
def test_compiler_that_is_wrong_is_found(caplog, backend):
    """Scores that differ from the plain step's are never used."""
    decoder = FixedSizes(decoder_of(small_model(), max_rows=2), backend=backend)
    assert "scores differ by" in caplog.records[-1].reason
    assert decoder.sizes == []


def test_model_whose_scores_are_zero_is_compiled():
    """Where nothing differs, the largest score does not matter."""
    model = small_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert FixedSizes(decoder_of(model, max_rows=1), backend="eager").sizes == [1]


def test_check_leaves_nothing_behind():
    """The cache is as clean after the check as before it."""
    decoder = decoder_of(small_model(), max_rows=2)
    FixedSizes(decoder, backend="eager")
    assert not decoder.cache.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_recorded_graphs_say_the_same_words():
    """Compiled and recorded on a GPU, in float32, the words are those of ``generate``."""
    model, grids = small_model("llama, shared keys"), some_grids(7)
    decoder = FixedSizes(decoder_of(model, max_rows=4, device="cuda"))
    assert decoder.sizes == [1, 2, 4]
    engine = engine_of(model, decoder=decoder)
    rows = engine.begin(0, grids)
    say_all(engine)
    assert [row.tokens for row in rows] == plain_tokens(model, grids)
