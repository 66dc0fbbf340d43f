"""The narrator in a process of its own, as the fast loop sees it.

Theory of operation
-------------------
The worker requests windows; the daemon sends one per request: after `ReadyForNext` it sends one at
once, or as soon as there is one. So no window queues in a socket buffer behind a busy worker, and
under the policy ``newest`` the worker always gets the newest complete window.

A worker sends a heartbeat twice a second, busy or not, from a thread of its own. When it stops (the
process was stopped, the machine swaps), the windows it holds fail and are cancelled, and it is sent
nothing until its heartbeat resumes: then it drops what was cancelled, says that it has room, and
gets the newest window. It is not killed: loading a model takes minutes, and most stops end. Only a
window beyond `batch_timeout_s` has the worker killed, and a dead worker is replaced after a pause.

Messages without this socket's secret are dropped (`daemon.worker.connection`). Replies are accepted
by sender: a reply by the identity of its socket, which `ModelLoaded`
introduces, and a heartbeat, which has a socket of its own, by its process id. Replies of a worker
that has been replaced are discarded.

Invariants (``tests/daemon/worker/``, in ``test_client.py`` and ``test_client_processes.py``):

1. A worker without room is sent no window: ``test_busy_worker_gets_nothing_more``
2. Every window offered is narrated, replaced or failed: ``test_every_batch_is_accounted_for``
3. A worker that dies fails its windows and is replaced: ``test_killed_worker_is_replaced``
4. Replies of a dead worker are discarded: ``test_replies_of_a_dead_worker_are_discarded``
5. A worker that was stopped continues with the newest window:
   ``test_stopped_worker_continues_with_the_newest``
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import zmq

from contracts.clock import NS_PER_S, Clock
from contracts.errors import DependencyError, UserError, WireError
from contracts.narration import Provenance, Status
from daemon.handover import EncodeWindow, Handover, NarrationBatch
from daemon.narrators.protocol import EndedRow
from daemon.worker.connection import WorkerSocket
from daemon.worker.messages import (
    Cancel,
    Failed,
    Heartbeat,
    ModelLoaded,
    Narrate,
    NarratorOutput,
    Order,
    ReadyForNext,
    Reply,
    pack_order,
    unpack_reply,
)
from daemon.worker.narrator_client import FailureStreak, NarratedPopulation, PartialText, failed
from daemon.worker.process import WorkerProcess

SOCKET_NAME = "narrator"

SILENT_AFTER_S = 3.0
"""A worker without a message for so long does not run: it missed six heartbeats."""

SILENT_LOADING_AFTER_S = 30.0
"""The same while it loads its model, when one import or copy may hold the interpreter for long."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker that has loaded its model."""

    identity: bytes
    provenance: Provenance


@dataclass(slots=True)
class _Outstanding:
    """A window that the worker is narrating, and the rows that have not ended."""

    narration_batch: NarrationBatch
    pending_rows: set[int]
    sent_host_ns: int
    has_text: bool = False


class WorkerClient:
    """Hands windows to one worker process and keeps it alive.

    `worker_arguments` are those of ``python -m daemon.worker``, but for the address. A worker busy
    for longer than `batch_timeout_s` with one window is killed and replaced. `wants_partials` tells
    whether anybody subscribes to unfinished sentences; it is called for each window.

    Raises
    ------
    UserError
        If there is no folder for the socket between the two.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        worker_arguments: Sequence[str],
        *,
        batch_timeout_s: float,
        failures_before_problem: int,
        clock: Clock,
        handover: Handover | None = None,
        wants_partials: Callable[[], bool] = lambda: False,
    ) -> None:
        self._timeout_ns = round(batch_timeout_s * NS_PER_S)
        self._failures = FailureStreak(failures_before_problem)
        self._clock = clock
        self._wants_partials = wants_partials
        self._handover = Handover() if handover is None else handover
        self._lost: Counter[str] = Counter()
        # None from a worker's death until the next one has loaded its model: windows wait, and
        # under `newest` replace each other, as they do behind a busy one.
        self._worker: _Worker | None = None
        self._has_room = False
        self._last_alive_ns = 0
        self._is_silent = False
        # Several: with `narrator.joins` a second window may begin before the first has ended.
        self._outstanding: dict[int, _Outstanding] = {}
        self._finished: deque[NarratedPopulation | PartialText] = deque()
        # Never used twice, by no worker: a late reply cannot be taken for another window's.
        self._next_batch_id = 0
        self._has_been_ready = False
        self._start_problem = ""
        self._socket = WorkerSocket(context, SOCKET_NAME, what="the narrator")
        self._process = WorkerProcess(
            ["daemon.worker", "--address", self._socket.address, *worker_arguments],
            clock,
            secret=self._socket.secret.line,
        )
        self._process.start()

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """The socket to the worker."""
        return (self._socket.socket,)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Windows that were offered and not narrated, or not whole, by reason."""
        return {"narrator_busy": self._handover.n_replaced, **self._lost}

    @property
    def n_restarts(self) -> int:
        """Times that a dead worker was replaced."""
        return self._process.n_restarts

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, or None while there is none."""
        return self._process.pid

    @property
    def n_waiting(self) -> int:
        """Windows that wait for the worker."""
        return len(self._handover)

    @property
    def n_unfinished(self) -> int:
        """Windows that wait, are being narrated or have not been collected."""
        return len(self._outstanding) + len(self._handover) + bool(self._finished)

    @property
    def is_full(self) -> bool:
        """Whether the loop should read no more spikes until a window has been taken."""
        return self._handover.is_full

    @property
    def problem(self) -> str:
        """Why nothing can be narrated now; empty if all is well."""
        if self._worker is None:
            if self._start_problem:
                return self._start_problem
            if self._process.start_problem:
                return f"the narrator worker cannot be started: {self._process.start_problem}"
            # Between two workers there is no process that could be silent.
            if self._process.pid is None or self._silent_s < SILENT_LOADING_AFTER_S:
                return "the narrator worker is loading its model"
            return (
                f"the narrator worker missed its heartbeat for {self._silent_s:.0f} s as it loads"
            )
        if self._is_silent:
            return f"the narrator worker has missed its heartbeat for {self._silent_s:.0f} s"
        return self._failures.problem

    @property
    def _silent_s(self) -> float:
        """Seconds since the worker's newest message, or since its start."""
        alive_ns = max(self._last_alive_ns, self._process.started_ns)
        return (self._clock.now_ns() - alive_ns) / NS_PER_S

    def offer(self, encode: EncodeWindow) -> None:
        """Leave one window; under ``newest`` it replaces one that still waits."""
        self._handover.offer(encode)
        self._dispatch()

    def collect(self) -> Iterator[NarratedPopulation | PartialText]:
        """Yield what has been narrated or has failed since, and look after the worker.

        Called on the fast loop; never waits.

        Raises
        ------
        UserError, DependencyError
            If the first worker cannot load its model. When a later one cannot, that is the
            `problem`, and it is tried again.
        """
        while (received := self._socket.receive()) is not None:
            identity, parts = received
            # It has the secret of a worker: this is an internal error. The path goes on.
            try:
                reply = unpack_reply(parts)
            except WireError:
                logger.exception("worker reply not understood")
                continue
            self._take(identity, reply)
        # After the replies, so that what a dead worker finished before it died still counts; and
        # before the dispatch, so that no window goes to a worker that is known to be gone.
        if self._process.check() is not None:
            self._forget_worker("the narrator worker died")
        self._check_timeouts()
        self._check_heartbeat()
        while self._finished:
            yield self._finished.popleft()
        self._dispatch()  # encodes a window, for which no narration should wait

    def close(self, *, deadline_s: float) -> None:
        """Stop the worker, by force after the deadline, and remove the socket."""
        self._process.stop(deadline_s=deadline_s)
        self._socket.close()

    def _take(self, identity: bytes, reply: Reply) -> None:
        match reply:
            case ModelLoaded() | Heartbeat() if reply.pid != self._process.pid:
                # It was on its way when its sender died; believing it would send windows to nobody.
                logger.info("ignored a message of a dead worker", extra={"pid": reply.pid})
            case ModelLoaded():
                # Also if this process had said so before: what it held then is lost.
                self._forget_worker("the narrator worker restarted")
                self._worker, self._has_room = _Worker(identity, reply.provenance), True
                self._has_been_ready, self._start_problem = True, ""
                self._note_alive()
            case Heartbeat():
                self._note_alive()
            case Failed(exit_code=code) if code:
                self._take_start_failure(reply)
            # Anything else must come from the socket that sent `ModelLoaded`: a new worker has a
            # new one, and what its predecessor left in the queue is discarded here.
            case _ if self._worker and identity == self._worker.identity:
                self._note_alive()
                self._take_reply(self._worker, reply)

    def _take_start_failure(self, failure: Failed) -> None:
        self._start_problem = f"the narrator cannot start: {failure.reason}"
        # At start-up the user is there to read it. In the middle of a session whatever is wrong
        # (a disk, a GPU, a server) may pass, and spikes are to be recorded and triggers to fire.
        if not self._has_been_ready:
            is_missing = failure.exit_code == DependencyError.exit_code
            raise (DependencyError if is_missing else UserError)(self._start_problem)
        logger.error("narrator worker cannot start", extra={"reason": failure.reason})

    def _take_reply(self, worker: _Worker, reply: Reply) -> None:
        match reply:
            case ReadyForNext():
                self._has_room = True
            case Failed():
                self._give_up(reply.batch_id, reply.reason, dropped_as="narration_failed")
            case NarratorOutput():
                for partial in reply.partials:
                    if window := self._outstanding.get(partial.batch_id):
                        embedding = window.narration_batch[partial.row]
                        self._finished.append(
                            PartialText(embedding, partial.text, partial.n_tokens)
                        )
                for ended in reply.ended:
                    self._take_ended(worker, ended)

    def _take_ended(self, worker: _Worker, ended: EndedRow) -> None:
        window = self._outstanding.get(ended.batch_id)
        # Given up meanwhile, and published as failed: a narration now would be a second one.
        if window is None or ended.row not in window.pending_rows:
            return
        window.pending_rows.remove(ended.row)
        window.has_text |= ended.utterance.status is not Status.FAILED
        # The embedding that was kept here, not what the worker got: gaps and stamps are on it.
        embedding = window.narration_batch[ended.row]
        self._finished.append(NarratedPopulation(embedding, ended.utterance, worker.provenance))
        if window.pending_rows:
            return
        del self._outstanding[ended.batch_id]
        # One sentence is proof that the narrator works; some rows may fail on their own.
        if window.has_text:
            self._failures.n = 0
        else:
            self._count_failure("narration_failed")

    def _give_up(self, batch_id: int, reason: str, *, dropped_as: str) -> None:
        """Fail the rows of a window that have not ended, if it is being narrated."""
        window = self._outstanding.pop(batch_id, None)
        if window is None or self._worker is None:
            return
        self._count_failure(dropped_as)
        pending = [window.narration_batch[row] for row in sorted(window.pending_rows)]
        self._finished += failed(pending, reason, self._worker.provenance, self._clock)

    def _count_failure(self, dropped_as: str) -> None:
        self._failures.n += 1
        self._lost[dropped_as] += 1

    def _forget_worker(self, reason: str) -> None:
        for batch_id in list(self._outstanding):
            self._give_up(batch_id, reason, dropped_as="worker_died")
        self._worker, self._has_room, self._is_silent = None, False, False

    def _check_timeouts(self) -> None:
        now_ns = self._clock.now_ns()
        for window in self._outstanding.values():
            # Also while its heartbeat goes on: a step that never ends does not stop the thread.
            if now_ns - window.sent_host_ns > self._timeout_ns:
                logger.error("narrator worker timed out", extra={"pid": self._process.pid})
                # Killed once, not at every step until it is found dead.
                window.sent_host_ns = now_ns
                self._process.kill()

    def _note_alive(self) -> None:
        self._last_alive_ns = self._clock.now_ns()
        if self._is_silent:
            self._is_silent = False
            logger.info("narrator worker heartbeat resumed", extra={"pid": self._process.pid})

    def _check_heartbeat(self) -> None:
        if self._worker is None or self._is_silent or self._silent_s < SILENT_AFTER_S:
            return
        self._is_silent = True
        logger.error("narrator worker has no heartbeat", extra={"pid": self._process.pid})
        reason = f"the narrator worker missed its heartbeat for {SILENT_AFTER_S:.0f} s"
        for batch_id in list(self._outstanding):
            self._give_up(batch_id, reason, dropped_as="worker_stopped")
            # It waits in the socket's buffer until the worker resumes, which then drops the window
            # before its next step. Sending may find the worker gone, and forget it.
            if self._worker:
                self._send(self._worker, Cancel(batch_id))

    def _dispatch(self) -> None:
        """Encode and send the window that waits, if the worker has room."""
        if self._worker is None or not self._has_room or self._is_silent:
            return
        narration_batch: NarrationBatch = ()
        while not narration_batch:
            encode = self._handover.take()
            if encode is None:
                return
            narration_batch = encode()
        batch_id, self._next_batch_id = self._next_batch_id, self._next_batch_id + 1
        self._has_room = False  # until it says so again
        self._outstanding[batch_id] = _Outstanding(
            narration_batch, set(range(len(narration_batch))), self._clock.now_ns()
        )
        # Asked for each window: subscribers come and go, and partials cost a message a token.
        order = Narrate(batch_id, tuple(narration_batch), self._wants_partials())
        self._send(self._worker, order)

    def _send(self, worker: _Worker, order: Order) -> None:
        try:
            self._socket.send(worker.identity, pack_order(order))
        except zmq.ZMQError as error:  # its end of the socket is gone: it is dead, or will be
            self._process.kill()
            self._forget_worker(f"the narrator worker cannot be reached: {error}")
