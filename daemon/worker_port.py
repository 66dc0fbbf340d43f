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
4. What a dead worker said is not believed             ``test_dead_worker_is_not_believed``
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from contracts.clock import NS_PER_S, Clock
from contracts.errors import DependencyError, UserError, WireError
from contracts.narration import Provenance
from daemon.handover import Handover, NarrationBatch
from daemon.narration_port import Narrated, count_problem, failed
from daemon.worker_process import WorkerProcess
from daemon.worker_wire import Failed, Ready, Reply, Said, pack_batch, unpack_reply

SOCKET_NAME = "narrator"

FOLDER_PREFIX = "neurrate-"

MAX_FOLDER_BYTES = zmq.IPC_PATH_MAX_LEN - len(f"/{FOLDER_PREFIX}12345678/{SOCKET_NAME}")
"""Of TMPDIR: the path of a Unix socket fits in ``sun_path``, which is short (man 7 unix)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker that has said what it is."""

    identity: bytes
    provenance: Provenance


@dataclass(slots=True)
class _Outstanding:
    """The batch that the worker is narrating."""

    batch_id: int
    narration_batch: NarrationBatch
    worker: _Worker
    sent_host_ns: int


class WorkerPort:
    """Hands narration batches to one worker process and keeps it alive.

    Parameters
    ----------
    context : zmq.Context
    worker_arguments : sequence of str
        Arguments of ``python -m daemon.worker``, but for the address.
    batch_timeout_s : float
        A worker busy for longer with one batch is killed and replaced.
    failures_before_problem : int
        So many failed batches in a row are a problem.
    clock : Clock

    Attributes
    ----------
    n_died, n_failed : int
        Batches that went down with a worker, and batches that failed in all: those, and the
        ones of which a living worker said that they failed.

    Raises
    ------
    UserError
        If there is no place for the socket between the two.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        worker_arguments: Sequence[str],
        *,
        batch_timeout_s: float,
        failures_before_problem: int,
        clock: Clock,
    ) -> None:
        self.n_died = 0
        self.n_failed = 0
        self._timeout_ns = round(batch_timeout_s * NS_PER_S)
        self._failures_before_problem = failures_before_problem
        self._clock = clock
        self._handover = Handover()
        self._outstanding: _Outstanding | None = None
        self._finished: deque[Narrated] = deque()
        self._free_worker: _Worker | None = None
        self._next_batch_id = 0
        self._n_failures = 0
        self._has_been_ready = False
        self._start_problem = ""
        self._folder, self._socket = _bind(context)
        address = f"ipc://{self._folder}/{SOCKET_NAME}"
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
        """Windows that wait, are being narrated or have not been collected."""
        is_outstanding = self._outstanding is not None
        return is_outstanding + self._handover.is_waiting + len(self._finished)

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
            self._take(identity, reply)
        if self._process.check() is not None:
            self._free_worker = None
            self._give_up("the narrator worker died", is_death=True)
        self._check_time()
        self._dispatch()
        while self._finished:
            yield self._finished.popleft()

    def close(self, *, deadline_s: float) -> None:
        """Stop the worker and let go of the line."""
        self._process.stop(deadline_s=deadline_s)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, identity: bytes, reply: Reply) -> None:
        match reply:
            case Ready():
                if reply.pid != self._process.pid:  # it died after it had said so
                    logger.info("ready of a dead worker passed over", extra={"pid": reply.pid})
                    return
                self._give_up("the narrator worker began anew", is_death=True)
                self._free_worker = _Worker(identity, reply.provenance)
                self._has_been_ready, self._start_problem = True, ""
            case Failed(exit_code=code) if code:
                self._start_problem = f"the narrator cannot start: {reply.reason}"
                if not self._has_been_ready:
                    kind = DependencyError if code == DependencyError.exit_code else UserError
                    raise kind(self._start_problem)
                logger.error("narrator worker cannot start", extra={"reason": reply.reason})
            case Said() | Failed() if (
                self._outstanding and reply.batch_id == self._outstanding.batch_id
            ):
                self._take_words(self._outstanding, reply)

    def _take_words(self, outstanding: _Outstanding, reply: Said | Failed) -> None:
        self._free_worker = outstanding.worker
        embeddings = outstanding.narration_batch
        if isinstance(reply, Failed):
            self._give_up(reply.reason)
        elif problem := count_problem(reply.utterances, embeddings):
            self._give_up(problem)
        else:
            self._outstanding = None
            self._n_failures = 0
            self._finished.append(
                Narrated(embeddings, reply.utterances, outstanding.worker.provenance)
            )

    def _give_up(self, reason: str, *, is_death: bool = False) -> None:
        """Fail the batch that is being narrated, if one is."""
        if self._outstanding is None:
            return
        outstanding, self._outstanding = self._outstanding, None
        self._n_failures += 1
        self.n_failed += 1
        self.n_died += is_death
        self._finished.append(
            failed(outstanding.narration_batch, reason, outstanding.worker.provenance, self._clock)
        )

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
        worker, self._free_worker = self._free_worker, None
        self._outstanding = _Outstanding(batch_id, narration_batch, worker, self._clock.now_ns())
        parts = [worker.identity, *pack_batch(batch_id, narration_batch)]
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.ZMQError as error:  # its end of the line is gone, and it is or will be dead
            self._give_up(f"the narrator worker cannot be reached: {error}", is_death=True)
            self._process.kill()


def _bind(context: zmq.Context[zmq.Socket[bytes]]) -> tuple[Path, zmq.Socket[bytes]]:
    """Make a folder of our own and a socket in it.

    Raises
    ------
    UserError
        If there is no folder for it, or its path is too long.
    """
    problem = (
        f"the narrator's socket needs a temporary folder that can be written to, with a path of "
        f"at most {MAX_FOLDER_BYTES} bytes. Set TMPDIR to one"
    )
    try:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))  # mode 0700: ours alone
    except OSError as error:
        raise UserError(f"{problem}: {error}") from error
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.ROUTER_MANDATORY, 1)  # a batch for a worker that is gone is not swallowed
    try:
        socket.bind(f"ipc://{folder}/{SOCKET_NAME}")
    except zmq.ZMQError as error:
        socket.close()
        shutil.rmtree(folder, ignore_errors=True)
        found = f"{zmq.strerror(error.errno or 0)} in {folder.parent}"
        raise UserError(f"{problem}: {found}") from error
    return folder, socket
