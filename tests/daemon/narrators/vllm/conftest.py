"""Narrators on servers that repeat a recording, and a bundle that fits the tiny LLaVA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from contracts.manifest import Manifest, PatchGridModel
from daemon.narrators.vllm.narrator import VllmNarrator
from tests.support.recorded_vllm import RecordedVllm, recorded_vllm
from tests.support.vllm_narrators import GRID, narrator_settings, vllm_settings
from tests.support.vllm_server import TINY_LLAVA

MakeNarrator = Callable[..., VllmNarrator]


@pytest.fixture(scope="session")
def fitting(stub_bundle: Manifest) -> Manifest:
    """Return a bundle whose patches the tiny LLaVA takes."""
    grid = PatchGridModel(rows=GRID.rows, cols=GRID.cols, dim=GRID.dim)
    model = stub_bundle.model.model_copy(update={"patch_grid": grid, "sha256": {}})
    return Manifest(model, stub_bundle.folder, stub_bundle.sha256)


@pytest.fixture
def make_narrator(
    fitting: Manifest, server: RecordedVllm, other: RecordedVllm
) -> Iterator[MakeNarrator]:
    """Return a function that makes narrators, which are closed before the servers."""
    with ExitStack() as stack:

        def make(*urls: str, vllm: dict[str, Any] | None = None, **narrator: Any) -> VllmNarrator:
            made = VllmNarrator(
                str(TINY_LLAVA),
                revision="",
                manifest=fitting,
                settings=narrator_settings(**narrator),
                vllm=vllm_settings(*urls, **vllm or {}),
            )
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def server() -> Iterator[RecordedVllm]:
    """Return a server that repeats a recording."""
    with recorded_vllm() as made:
        yield made


@pytest.fixture
def other() -> Iterator[RecordedVllm]:
    """Return another."""
    with recorded_vllm() as made:
        yield made
