"""What every Narrator must do. To check a new one, add it to `BACKENDS`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from contracts.narration import Status
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Narrator, PartialRow, narrate
from daemon.service.settings import NarratorSettings, VllmSettings
from tests.support.daemon_components import embeddings_of
from tests.support.feature_files import write_feature_file
from tests.support.recorded_vllm import recorded_vllm
from tests.support.tiny_bundle import TINY_GRID, tiny_windows

BACKENDS = ("llava", "retrieval", "vllm", "with features")
"""The last is of retrieval, and names the features of each decoding."""


def made(stack: ExitStack, backend: str, manifest: Manifest, model: Path) -> Narrator:
    """Return one implementation, with what it needs."""
    server = stack.enter_context(recorded_vllm())
    server.preflight = "sentence"  # of another model's prompt, which is not to be compared
    has_features = backend == "with features"
    features = stack.enter_context(TemporaryDirectory()) if has_features else ""
    settings = NarratorSettings.model_validate(
        {
            "backend": "retrieval" if has_features else backend,
            "features": (
                write_feature_file(Path(features) / "f", manifest) if has_features else None
            ),
            "model": str(model),
            "max_new_tokens": 12,
            "device": "cpu",
            "max_rows": 1 if backend == "vllm" else 16,  # one connection for all tests
        }
    )
    vllm = VllmSettings(urls=(server.url,), model="tiny-llava")
    narrator = load_narrator(settings, manifest, vllm=vllm)
    stack.callback(narrator.close)
    # A thread that it keeps begins with its first window, and belongs to no test.
    narrate(narrator, embeddings_of(tiny_windows(1)[0]))
    return narrator


@pytest.fixture(scope="module", params=BACKENDS)
def narrator(request, stub_bundle, tiny_llava) -> Iterator[Narrator]:
    """Return each implementation."""
    with ExitStack() as stack:
        yield made(stack, request.param, stub_bundle, tiny_llava)


@pytest.fixture(scope="module")
def embeddings():
    """Return four grids of random patches."""
    rng = np.random.default_rng(5)
    shape = (TINY_GRID.n_patches, TINY_GRID.dim)
    return [
        PatchEmbedding(window, "all", 12, TINY_GRID, rng.normal(size=shape).astype(np.float32))
        for window in tiny_windows(4)
    ]


def test_provenance_names_bundle_and_back_end(narrator, stub_bundle):
    """Every narration can say what made it."""
    assert narrator.provenance.bundle == stub_bundle.sha256
    assert narrator.provenance.backend in BACKENDS


def test_one_utterance_for_each_embedding(narrator, embeddings):
    """As many come out as went in; each has text, or a reason that it has none."""
    said = narrate(narrator, embeddings)
    assert len(said) == len(embeddings)
    for each in said:
        assert bool(each.text) == (each.status != Status.FAILED)
        assert bool(each.reason) == (each.status != Status.OK)
        assert each.text == each.text.strip()


def test_stamps_are_in_order(narrator, embeddings):
    """Called, started, first word, last word, returned: on the host clock, in this order."""
    called = time.monotonic_ns()
    said = narrate(narrator, embeddings)
    returned = time.monotonic_ns()
    for each in said:
        ordered = [
            called,
            each.start_host_ns,
            each.first_token_host_ns,
            each.last_token_host_ns,
            returned,
        ]
        assert ordered == sorted(ordered)


def test_order_is_kept(narrator, embeddings):
    """An embedding gets its own words wherever it stands in the batch."""
    forward = [each.text for each in narrate(narrator, embeddings)]
    backward = [each.text for each in narrate(narrator, embeddings[::-1])]
    assert backward == forward[::-1]


def test_same_patches_same_words(narrator, embeddings):
    """A narrator is repeatable."""
    texts = [[each.text for each in narrate(narrator, embeddings)] for _ in range(2)]
    assert texts[0] == texts[1]


def test_nothing_in_nothing_out(narrator):
    """No embedding, no utterance."""
    assert list(narrate(narrator, [])) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_window_says_no_more(backend, stub_bundle, tiny_llava, embeddings):
    """Its rows leave at once, and the next window has the words that it always has."""
    with ExitStack() as stack:
        narrator = made(stack, backend, stub_bundle, tiny_llava)
        whole = [each.text for each in narrate(narrator, embeddings)]
        narrator.begin(7, embeddings)
        narrator.step()
        narrator.cancel(7)
        narrator.cancel(7)
        assert (narrator.n_rows, narrator.has_room(1)) == (0, True)
        assert [each.text for each in narrate(narrator, embeddings)] == whole


def test_sentences_grow_to_what_is_said(narrator, embeddings):
    """Each piece begins as the one before it, and the sentence begins as the last piece."""
    heard: dict[int, str] = {}
    said: dict[int, str] = {}
    narrator.begin(3, embeddings, with_partials=True)
    while narrator.n_rows:
        for event in narrator.step():
            assert event.batch_id == 3
            if isinstance(event, PartialRow):
                assert event.text.startswith(heard.get(event.row, ""))
                heard[event.row] = event.text
            else:
                said[event.row] = event.utterance.text
    assert set(said) == set(range(len(embeddings)))
    assert all(said[row].startswith(text.strip()) for row, text in heard.items())
