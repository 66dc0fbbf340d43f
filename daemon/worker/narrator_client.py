"""How the fast loop uses a narrator: it offers embeddings and collects their narrations.

Two clients: `InlineClient` narrates in the same thread, window by window (the plain sequential
mode, which is the specification and good for debugging); `daemon.worker.client.WorkerClient`
hands over to a process and never waits.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from contracts.clock import Clock, HostClock
from contracts.embedding import PatchEmbedding
from contracts.narration import Provenance, Status, Utterance
from daemon.handover import EncodeWindow
from daemon.narrators.protocol import Narrator, narrate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NarratedPopulation:
    """One population of one window, and its narration."""

    embedding: PatchEmbedding
    utterance: Utterance
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class PartialText:
    """The unfinished sentence of one population of one window."""

    embedding: PatchEmbedding
    text: str
    n_tokens: int


class NarratorClient(Protocol):
    """What the fast loop needs of a narrator, wherever it runs."""

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """Sockets to be polled by the loop."""

    @property
    def n_waiting(self) -> int:
        """Windows that wait for the narrator."""

    @property
    def n_unfinished(self) -> int:
        """Windows that wait, are being narrated or have not been collected."""

    @property
    def is_full(self) -> bool:
        """Whether the loop should read no more spikes until a window has been taken."""

    @property
    def problem(self) -> str:
        """Why nothing can be narrated now; empty if all is well."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Windows that were offered and not narrated, or not whole, by reason."""

    @property
    def n_restarts(self) -> int:
        """Times that a dead worker was replaced."""

    def offer(self, encode: EncodeWindow) -> None:
        """Leave one window, to be encoded when it is narrated; called on the fast loop."""

    def collect(self) -> Iterator[NarratedPopulation | PartialText]:
        """Yield what has been narrated since; called on the fast loop, never waits."""

    def close(self, *, deadline_s: float) -> None:
        """Close the narrator, by force after the deadline."""


class FailureStreak:
    """Windows in a row that could not be narrated: from `limit` on they are a problem."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.n = 0

    @property
    def problem(self) -> str:
        """The problem in a sentence; empty below the limit."""
        return f"the last {self.n} windows could not be narrated" if self.n >= self._limit else ""


class InlineClient:
    """Narrates at once, in the caller's thread: every window, in order.

    It owns the narrator. `dropped` counts the windows that failed: none is ever replaced, and there
    is no worker that could die.
    """

    sockets: Sequence[zmq.Socket[bytes]] = ()
    n_restarts = 0
    n_waiting = 0
    is_full = False

    def __init__(
        self, narrator: Narrator, clock: Clock | None = None, *, failures_before_problem: int = 3
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self._failures = FailureStreak(failures_before_problem)
        self._narrator = narrator
        self._clock = clock or HostClock()
        self._finished: deque[NarratedPopulation] = deque()

    @property
    def n_unfinished(self) -> int:
        """One window, until all of it has been collected."""
        return int(bool(self._finished))

    @property
    def problem(self) -> str:
        """Why nothing can be narrated now; empty if all is well."""
        return self._failures.problem

    def offer(self, encode: EncodeWindow) -> None:
        """Encode and narrate one window now."""
        narration_batch = encode()
        if not narration_batch:
            return
        provenance = self._narrator.provenance
        try:
            utterances = narrate(self._narrator, narration_batch)
        except Exception as error:  # the top of a narrator's loop
            logger.exception("narration failed")
            self._reset()
            reason = f"{type(error).__name__}: {error}"
            narrated = failed(narration_batch, reason, provenance, self._clock)
        else:
            narrated = [
                NarratedPopulation(embedding, utterance, provenance)
                for embedding, utterance in zip(narration_batch, utterances, strict=True)
            ]
        if any(row.utterance.status is not Status.FAILED for row in narrated):
            self._failures.n = 0
        else:
            self._failures.n += 1
            self.dropped["narration_failed"] += 1
        self._finished += narrated

    def _reset(self) -> None:
        try:
            self._narrator.cancel(0)
        except Exception:  # the top of a narrator's loop
            logger.exception("the narrator cannot drop a window that failed")

    def collect(self) -> Iterator[NarratedPopulation]:
        """Yield what has been narrated since."""
        while self._finished:
            yield self._finished.popleft()

    def close(self, *, deadline_s: float) -> None:
        """Close the narrator."""
        self._narrator.close()


def failed(
    embeddings: Iterable[PatchEmbedding], reason: str, provenance: Provenance, clock: Clock
) -> list[NarratedPopulation]:
    """Return failed narrations of embeddings, with the reason."""
    now_ns = clock.now_ns()
    utterance = Utterance(
        text="",
        status=Status.FAILED,
        reason=reason,
        start_host_ns=now_ns,
        first_token_host_ns=now_ns,
        last_token_host_ns=now_ns,
    )
    return [NarratedPopulation(embedding, utterance, provenance) for embedding in embeddings]
