"""Where the fast loop leaves its embeddings and finds them narrated.

Two ports: `InlinePort` narrates in the same thread, window by window (the plain sequential
mode: the specification, and the debugger's friend); `daemon.worker_port.WorkerPort` hands over
to a process of its own and never waits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from contracts.clock import Clock, HostClock
from contracts.embedding import PatchEmbedding
from contracts.narration import Provenance, Status, Utterance
from daemon.handover import NarrationBatch
from daemon.narrators.protocol import Narrator

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Narrated:
    """A narration batch and its words, one utterance for each embedding."""

    embeddings: Sequence[PatchEmbedding]
    utterances: Sequence[Utterance]
    provenance: Provenance


class NarrationPort(Protocol):
    """What the fast loop asks of a narrator, wherever it runs."""

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """Sockets to be polled by the loop."""
        ...

    @property
    def n_unfinished(self) -> int:
        """Windows that wait, are being narrated or have not been collected."""
        ...

    @property
    def problem(self) -> str:
        """Why nothing can be narrated now; empty if all is well."""
        ...

    @property
    def n_replaced(self) -> int:
        """Windows that gave way to newer ones."""
        ...

    @property
    def n_failed(self) -> int:
        """Batches that failed, for whatever reason."""
        ...

    @property
    def n_died(self) -> int:
        """Those of the failed batches that went down with their worker."""
        ...

    @property
    def n_restarts(self) -> int:
        """Times that a dead worker was replaced."""
        ...

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Leave one window's embeddings; called on the fast loop."""
        ...

    def collect(self) -> Iterator[Narrated]:
        """Yield what has been narrated since; called on the fast loop, never waits."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Let go of the narrator, by force after the deadline."""
        ...


class InlinePort:
    """Narrates at once, in the caller's thread: every window, in order.

    Parameters
    ----------
    narrator : Narrator
    clock : Clock, optional
        For the failures.

    Attributes
    ----------
    n_failed : int
        Batches that failed. None is ever replaced, and there is no worker that could die.
    """

    sockets: Sequence[zmq.Socket[bytes]] = ()
    problem = ""
    n_replaced = 0
    n_died = 0
    n_restarts = 0

    def __init__(self, narrator: Narrator, clock: Clock | None = None) -> None:
        self.n_failed = 0
        self._narrator = narrator
        self._clock = clock or HostClock()
        self._narrated: deque[Narrated] = deque()

    @property
    def n_unfinished(self) -> int:
        """Windows narrated and not yet collected."""
        return len(self._narrated)

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Narrate one window's embeddings now."""
        utterances, reason = narrate(self._narrator, narration_batch)
        provenance = self._narrator.provenance
        if reason:
            self.n_failed += 1
            self._narrated.append(failed(narration_batch, reason, provenance, self._clock))
        else:
            self._narrated.append(Narrated(narration_batch, utterances, provenance))

    def collect(self) -> Iterator[Narrated]:
        """Yield what has been narrated since."""
        while self._narrated:
            yield self._narrated.popleft()

    def close(self, *, deadline_s: float) -> None:
        """Nothing to let go of."""


def narrate(narrator: Narrator, narration_batch: NarrationBatch) -> tuple[Sequence[Utterance], str]:
    """Let a narrator speak; one batch that it cannot narrate does not end it.

    Returns
    -------
    utterances : sequence of Utterance
        None of them if it failed.
    reason : str
        Why it failed; empty if it did not.
    """
    try:
        utterances = narrator.narrate(narration_batch)
    except Exception as error:  # the top of a narrator's loop
        logger.exception("narration failed")
        return (), f"{type(error).__name__}: {error}"
    problem = count_problem(utterances, narration_batch)
    return (() if problem else utterances), problem


def count_problem(utterances: Sequence[Utterance], narration_batch: NarrationBatch) -> str:
    """Return what is wrong if there is not one utterance for each embedding, else nothing."""
    n_said, n_asked = len(utterances), len(narration_batch)
    return "" if n_said == n_asked else f"{n_said} utterances for {n_asked} populations"


def failed(
    narration_batch: NarrationBatch, reason: str, provenance: Provenance, clock: Clock
) -> Narrated:
    """Return the narrations of a batch that came to nothing, with the reason."""
    now_ns = clock.now_ns()
    utterance = Utterance(
        text="",
        status=Status.FAILED,
        reason=reason,
        start_host_ns=now_ns,
        first_token_host_ns=now_ns,
        last_token_host_ns=now_ns,
    )
    return Narrated(narration_batch, [utterance] * len(narration_batch), provenance)
