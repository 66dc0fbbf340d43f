"""A port to the narrator's process, and who collects from it: for scripted and for real workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from contracts.clock import Clock, HostClock
from contracts.embedding import PatchEmbedding
from contracts.manifest import Manifest
from daemon.handover import Handover
from daemon.service.settings import LogSettings, NarratorSettings
from daemon.worker.client import WorkerClient
from daemon.worker.narrator_client import NarratedPopulation, PartialText
from tests.support.daemon_components import Context, embeddings_of
from tests.support.tiny_bundle import tiny_windows
from tests.support.wait_until import wait_until

POPULATIONS = ("all", "PV")


def arguments(manifest: Manifest, **narrator: Any) -> list[str]:
    """Return a worker's arguments, but for its address."""
    settings = NarratorSettings(backend="retrieval").model_copy(update=narrator)
    return [
        "--bundle", str(manifest.folder), "--narrator", settings.model_dump_json(),
        "--log", LogSettings(level="ERROR").model_dump_json(),
    ]  # fmt: skip


@contextmanager
def port_of(
    context: Context,
    words: Sequence[str],
    *,
    clock: Clock | None = None,
    batch_timeout_s: float = 60,
    handover: Handover | None = None,
    wants_partials: bool = False,
) -> Iterator[WorkerClient]:
    """Open a port, and close it."""
    port = WorkerClient(
        context,
        words,
        batch_timeout_s=batch_timeout_s,
        failures_before_problem=3,
        clock=clock or HostClock(),
        handover=handover,
        wants_partials=lambda: wants_partials,
    )
    try:
        yield port
    finally:
        port.close(deadline_s=5)


class Collector:
    """Collects what a port yields."""

    def __init__(self, port: WorkerClient) -> None:
        self.port = port
        self.narrated: list[NarratedPopulation] = []
        self.heard: list[PartialText] = []

    def collect(self) -> None:
        """Take what there is."""
        for said in self.port.collect():
            if isinstance(said, NarratedPopulation):
                self.narrated.append(said)
            else:
                self.heard.append(said)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Collect until a condition holds."""

        def holds() -> bool:
            self.collect()
            return bool(condition())

        wait_until(holds, deadline_s=30, what=what)

    def ready(self) -> None:
        """Collect until the worker can take a window."""
        self.until(lambda: not self.port.problem, "a worker that is ready")

    @property
    def seqs(self) -> list[int]:
        """Windows whose last population came to a good end."""
        return [each.embedding.window.seq for each in self._last_rows() if each.utterance.text]

    @property
    def failures(self) -> list[str]:
        """Why windows failed."""
        return [each.utterance.reason for each in self._last_rows() if not each.utterance.text]

    def _last_rows(self) -> list[NarratedPopulation]:
        return [each for each in self.narrated if each.embedding.population == POPULATIONS[-1]]


def has_narrated(collector: Collector, n: int) -> bool:
    """Whether so many windows have ended, one way or the other."""
    return len(collector.narrated) == n * len(POPULATIONS)


def windows(n: int) -> list[list[PatchEmbedding]]:
    """Return narration batches."""
    return [embeddings_of(window, POPULATIONS) for window in tiny_windows(n)]
