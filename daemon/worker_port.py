"""The narrator in a process of its own: the fast loop's end of the line.

Theory of operation
-------------------
The worker asks, the daemon answers: a worker that is free has said so, and gets the newest batch
at once or as soon as there is one. So nothing queues behind a busy worker, in no socket buffer
either, and what it gets is never older than the newest complete window.

Invariants (``tests/daemon/test_worker_port.py``):

1. A busy worker is never sent a second batch          ``test_busy_worker_gets_nothing_more``
2. Every batch offered is narrated, replaced or failed ``test_every_batch_is_accounted_for``
3. A worker that dies fails its batch and is replaced  ``test_killed_worker_is_replaced``
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from contracts.clock import NS_PER_S, Clock
from contracts.errors import DependencyError, UserError, WireError
from contracts.narration import Provenance
from daemon.handover import Handover, NarrationBatch
from daemon.narration_port import Narrated, failed
from daemon.worker_process import WorkerProcess
from daemon.worker_wire import Failed, Ready, Reply, Said, pack_batch, unpack_reply

logger = logging.getLogger(__name__)

DEPENDENCY_EXIT_CODE = 3
"""What a worker ends with when something is not installed."""


@dataclass(slots=True)
class _Outstanding:
    """The batch that the worker is narrating."""

    batch_id: int
    narration_batch: NarrationBatch
    sent_host_ns: int


class WorkerPort:
    """Hands narration batches to one worker process and keeps it alive.

    Parameters
    ----------
    context : zmq.Context
    worker_arguments : sequence of str
        Arguments of ``python -m daemon.worker``, but for the address.
    provenance : Provenance
        For the failures of a worker that has not yet said what it is.
    batch_timeout_s : float
        A worker busy for longer with one batch is killed and replaced.
    failures_before_problem : int
        So many failed batches in a row are a problem.
    clock : Clock

    Attributes
    ----------
    n_replaced, n_failed : int
        Windows that gave way to newer ones, and that failed.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        worker_arguments: Sequence[str],
        provenance: Provenance,
        *,
        batch_timeout_s: float,
        failures_before_problem: int,
        clock: Clock,
    ) -> None:
        self.n_failed = 0
        self._provenance = provenance
        self._timeout_ns = round(batch_timeout_s * NS_PER_S)
        self._failures_before_problem = failures_before_problem
        self._clock = clock
        self._handover = Handover()
        self._outstanding: _Outstanding | None = None
        self._free_worker: bytes | None = None
        self._next_batch_id = 0
        self._n_failures = 0
        self._has_been_ready = False
        self._start_problem = ""
        self._folder = Path(tempfile.mkdtemp(prefix="neurrate-"))  # mode 0700: ours alone
        self._socket = context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        address = f"ipc://{self._folder}/narrator"
        self._socket.bind(address)
        self._process = WorkerProcess(
            ["daemon.worker", "--address", address, *worker_arguments], clock
        )
        self._process.start()

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """The line to the worker."""
        return (self._socket,)

    @property
    def n_replaced(self) -> int:
        """Windows that gave way to newer ones."""
        return self._handover.n_replaced

    @property
    def n_restarts(self) -> int:
        """Times that a dead worker was replaced."""
        return self._process.n_restarts

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, or None while there is none."""
        return self._process.pid

    @property
    def n_unfinished(self) -> int:
        """Windows that wait or are being narrated."""
        return (self._outstanding is not None) + self._handover.is_waiting

    @property
    def problem(self) -> str:
        """Why nothing can be narrated now; empty if all is well."""
        if self._free_worker is None and self._outstanding is None:
            return self._start_problem or "the narrator worker is loading its model"
        if self._n_failures >= self._failures_before_problem:
            return f"the last {self._n_failures} narration batches failed"
        return ""

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Leave one window's embeddings; a window that still waits gives way."""
        self._handover.offer(narration_batch)
        self._dispatch()

    def collect(self) -> Iterator[Narrated]:
        """Yield what has been narrated or has failed since, and look after the worker.

        Yields
        ------
        Narrated

        Raises
        ------
        UserError, DependencyError
            If the first worker says that its model cannot be loaded. When a later one says so,
            that is the `problem`, and it is tried again.
        """
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            identity, *parts = self._socket.recv_multipart()
            try:
                reply = unpack_reply(parts)
            except WireError:
                logger.exception("worker reply not understood")
                continue
            yield from self._take(identity, reply)
        if self._process.check() is not None:
            self._free_worker = None
            yield from self._give_up("the narrator worker died")
        self._check_time()
        self._dispatch()

    def close(self, *, deadline_s: float) -> None:
        """Stop the worker and let go of the line."""
        self._process.stop(deadline_s=deadline_s)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, identity: bytes, reply: Reply) -> Iterator[Narrated]:
        match reply:
            case Ready():
                self._provenance = reply.provenance
                self._free_worker = identity
                self._has_been_ready, self._start_problem = True, ""
            case Failed(exit_code=code) if code:
                self._start_problem = f"the narrator cannot start: {reply.reason}"
                if not self._has_been_ready:
                    kind = DependencyError if code == DEPENDENCY_EXIT_CODE else UserError
                    raise kind(self._start_problem)
                logger.error("narrator worker cannot start", extra={"reason": reply.reason})
            case Said() | Failed() if (
                self._outstanding and reply.batch_id == self._outstanding.batch_id
            ):
                self._free_worker = identity
                embeddings = self._outstanding.narration_batch
                if isinstance(reply, Failed):
                    yield from self._give_up(reply.reason)
                elif len(reply.utterances) != len(embeddings):
                    n_said, n_asked = len(reply.utterances), len(embeddings)
                    yield from self._give_up(f"{n_said} utterances for {n_asked} populations")
                else:
                    self._outstanding = None
                    self._n_failures = 0
                    yield Narrated(embeddings, reply.utterances, self._provenance)

    def _give_up(self, reason: str) -> Iterator[Narrated]:
        if self._outstanding is None:
            return
        narration_batch = self._outstanding.narration_batch
        self._outstanding = None
        self._n_failures += 1
        self.n_failed += 1
        yield failed(narration_batch, reason, self._provenance, self._clock)

    def _check_time(self) -> None:
        if (
            self._outstanding
            and self._clock.now_ns() - self._outstanding.sent_host_ns > self._timeout_ns
        ):
            logger.error("narrator worker timed out", extra={"pid": self._process.pid})
            self._outstanding.sent_host_ns = self._clock.now_ns()  # ask once, not every step
            self._process.kill()

    def _dispatch(self) -> None:
        """Send the waiting batch if the worker is free."""
        if self._free_worker is None:
            return
        narration_batch = self._handover.take()
        if narration_batch is None:
            return
        batch_id, self._next_batch_id = self._next_batch_id, self._next_batch_id + 1
        identity, self._free_worker = self._free_worker, None
        self._outstanding = _Outstanding(batch_id, narration_batch, self._clock.now_ns())
        self._socket.send_multipart([identity, *pack_batch(batch_id, narration_batch)])
