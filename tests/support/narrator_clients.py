"""A worker client, and who collects from it: for scripted and for real workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from contracts.clock import HostClock
from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from daemon.service.settings import LogSettings, NarratorSettings
from daemon.worker.client import WorkerClient
from daemon.worker.narrator_client import NarratedPopulation, PartialText
from tests.support.daemon_components import Context, embeddings_of
from tests.support.tiny_bundle import tiny_windows
from tests.support.wait_until import wait_until

POPULATIONS = ("all", "PV")

DEADLINE_S = 120.0
"""A worker imports torch and transformers: a minute where ten programs share two cores."""


def arguments(manifest: Manifest, **narrator: Any) -> list[str]:
    """Return a worker's arguments, but for its address."""
    settings = NarratorSettings(backend="retrieval").model_copy(update=narrator)
    return [
        "--bundle", str(manifest.folder), "--narrator", settings.model_dump_json(),
        "--log", LogSettings(level="ERROR").model_dump_json(),
    ]  # fmt: skip


@contextmanager
def worker_client(
    context: Context, arguments: Sequence[str], *, wants_partials: bool = False, **options: Any
) -> Iterator[WorkerClient]:
    """Start a client and its worker, and close both."""
    settings = {"batch_timeout_s": 60, "clock": HostClock(), **options}
    client = WorkerClient(
        context,
        arguments,
        failures_before_problem=3,
        wants_partials=lambda: wants_partials,
        **settings,
    )
    try:
        yield client
    finally:
        client.close(deadline_s=5)


class Collector:
    """Collects what a client yields."""

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self.narrated: list[NarratedPopulation] = []
        self.partials: list[PartialText] = []

    def collect(self) -> None:
        """Take what there is."""
        for narrated in self.client.collect():
            if isinstance(narrated, NarratedPopulation):
                self.narrated.append(narrated)
            else:
                self.partials.append(narrated)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Collect until a condition holds."""

        def holds() -> bool:
            self.collect()
            return bool(condition())

        wait_until(holds, deadline_s=DEADLINE_S, what=what)

    def ready(self) -> None:
        """Collect until the worker can take a window."""
        self.until(lambda: not self.client.problem, "a worker that is ready")

    @property
    def seqs(self) -> list[int]:
        """Windows whose last population was narrated."""
        return [row.embedding.window.seq for row in self._last_rows() if row.utterance.text]

    @property
    def failures(self) -> list[str]:
        """Why windows failed."""
        return [row.utterance.reason for row in self._last_rows() if not row.utterance.text]

    def _last_rows(self) -> list[NarratedPopulation]:
        return [row for row in self.narrated if row.embedding.population == POPULATIONS[-1]]


def has_narrated(collector: Collector, n: int) -> bool:
    """Whether so many windows have ended, narrated or failed."""
    return len(collector.narrated) == n * len(POPULATIONS)


def windows(n: int) -> list[list[PatchEmbedding]]:
    """Return narration batches."""
    return [embeddings_of(window, POPULATIONS) for window in tiny_windows(n)]
