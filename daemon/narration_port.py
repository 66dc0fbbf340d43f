"""Where the fast loop leaves its embeddings and finds them narrated.

Two ports: `InlinePort` narrates in the same thread, window by window (the plain sequential
mode: the specification, and the debugger's friend); `daemon.worker_port.WorkerPort` hands over
to a process of its own and never waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from contracts.clock import Clock
from contracts.embedding import PatchEmbedding
from contracts.narration import Provenance, Status, Utterance
from daemon.handover import NarrationBatch
from daemon.narrators.protocol import Narrator


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
    """

    sockets: Sequence[zmq.Socket[bytes]] = ()
    problem = ""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._narrated: deque[Narrated] = deque()

    @property
    def n_unfinished(self) -> int:
        """Windows narrated and not yet collected."""
        return len(self._narrated)

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Narrate one window's embeddings now."""
        utterances = self._narrator.narrate(narration_batch)
        self._narrated.append(Narrated(narration_batch, utterances, self._narrator.provenance))

    def collect(self) -> Iterator[Narrated]:
        """Yield what has been narrated since."""
        while self._narrated:
            yield self._narrated.popleft()

    def close(self, *, deadline_s: float) -> None:
        """Nothing to let go of."""


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
