"""The narrator in a process of its own: the fast loop's end of the line.

Theory of operation
-------------------
The worker asks, the daemon answers: a worker that has room has said so, and gets a window at once
or as soon as there is one. So nothing queues behind a busy worker, in no socket buffer either,
and what it gets is never older than the newest complete window.

A worker that is busy beats like one that is idle. When the beat stops (the process was stopped,
the machine swaps), the windows it holds are given up and cancelled, and it is sent nothing, until
it stirs: then it drops what was cancelled, says that it has room, and gets the newest window.

Invariants (``tests/daemon/worker/test_client.py``):

1. A worker without room is sent no window             ``test_busy_worker_gets_nothing_more``
2. Every window offered is narrated, replaced or failed ``test_every_batch_is_accounted_for``
3. A worker that dies fails its windows and is replaced ``test_killed_worker_is_replaced``
4. What a dead worker said is not believed             ``test_dead_worker_is_not_believed``
5. A worker that was stopped goes on with the newest    ``test_stopped_worker_goes_on_with_newest``
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import zmq

from contracts.clock import NS_PER_S, Clock
from contracts.errors import DependencyError, UserError, WireError
from contracts.narration import Provenance, Status
from daemon.handover import Handover, NarrationBatch
from daemon.narrators.protocol import EndedRow
from daemon.worker.connection import bind_line
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
from daemon.worker.narrator_client import NarratedPopulation, PartialText, failed
from daemon.worker.process import WorkerProcess

SOCKET_NAME = "narrator"

STILL_AFTER_S = 3.0
"""A worker not heard of for so long does not run: six beats were missed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker that has said what it is."""

    identity: bytes
    provenance: Provenance


@dataclass(slots=True)
class _Outstanding:
    """A window that the worker is narrating, and the rows that have not ended."""

    narration_batch: NarrationBatch
    unsaid: set[int]
    sent_host_ns: int
    has_words: bool = False


class WorkerClient:
    """Hands windows to one worker process and keeps it alive.

    Parameters
    ----------
    context : zmq.Context
    worker_arguments : sequence of str
        Arguments of ``python -m daemon.worker``, but for the address.
    batch_timeout_s : float
        A worker busy for longer with one window is killed and replaced.
    failures_before_problem : int
        So many failed windows in a row are a problem.
    clock : Clock
    handover : Handover, optional
        ``newest`` if omitted.
    wants_partials : callable, optional
        Asked for each window whether somebody listens to sentences as they grow.

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
        handover: Handover | None = None,
        wants_partials: Callable[[], bool] = lambda: False,
    ) -> None:
        self._timeout_ns = round(batch_timeout_s * NS_PER_S)
        self._failures_before_problem = failures_before_problem
        self._clock = clock
        self._wants_partials = wants_partials
        self._handover = Handover() if handover is None else handover
        self._lost: Counter[str] = Counter()
        self._worker: _Worker | None = None
        self._has_room = False
        self._last_heard_ns = 0
        self._is_still = False
        self._outstanding: dict[int, _Outstanding] = {}
        self._finished: deque[NarratedPopulation | PartialText] = deque()
        self._next_batch_id = 0
        self._n_failures = 0
        self._has_been_ready = False
        self._start_problem = ""
        self._folder, self._socket = bind_line(context, SOCKET_NAME, what="the narrator")
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
    def dropped(self) -> Mapping[str, int]:
        """Windows that were offered and came to nothing, or not to all their words, by reason."""
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
            return self._start_problem or "the narrator worker is loading its model"
        if self._is_still:
            still_s = (self._clock.now_ns() - self._last_heard_ns) / NS_PER_S
            return f"the narrator worker has not stirred for {still_s:.0f} s"
        if self._n_failures >= self._failures_before_problem:
            return f"the last {self._n_failures} windows could not be narrated"
        return ""

    def offer(self, narration_batch: NarrationBatch) -> None:
        """Leave one window's embeddings; under ``newest`` a window that still waits gives way."""
        self._handover.offer(narration_batch)
        self._dispatch()

    def collect(self) -> Iterator[NarratedPopulation | PartialText]:
        """Yield what has been said or has failed since, and look after the worker.

        Yields
        ------
        NarratedPopulation or PartialText

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
            self._forget_worker("the narrator worker died")
        self._check_time()
        self._check_pulse()
        self._dispatch()
        while self._finished:
            yield self._finished.popleft()

    def close(self, *, deadline_s: float) -> None:
        """Stop the worker and let go of the line."""
        self._process.stop(deadline_s=deadline_s)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- what the worker says --------------------------------------------------------------

    def _take(self, identity: bytes, reply: Reply) -> None:
        match reply:
            case ModelLoaded() | Heartbeat() if reply.pid != self._process.pid:
                logger.info("word of a dead worker passed over", extra={"pid": reply.pid})
            case ModelLoaded():
                self._forget_worker("the narrator worker began anew")
                self._worker, self._has_room = _Worker(identity, reply.provenance), True
                self._has_been_ready, self._start_problem = True, ""
                self._stir()
            case Heartbeat():
                self._stir()
            case Failed(exit_code=code) if code:
                self._take_start_failure(reply)
            case _ if self._worker and identity == self._worker.identity:
                self._stir()
                self._take_words(self._worker, reply)

    def _take_start_failure(self, failure: Failed) -> None:
        self._start_problem = f"the narrator cannot start: {failure.reason}"
        if not self._has_been_ready:
            is_missing = failure.exit_code == DependencyError.exit_code
            raise (DependencyError if is_missing else UserError)(self._start_problem)
        logger.error("narrator worker cannot start", extra={"reason": failure.reason})

    def _take_words(self, worker: _Worker, reply: Reply) -> None:
        match reply:
            case ReadyForNext():
                self._has_room = True
            case Failed():
                self._give_up(reply.batch_id, reply.reason, dropped_as="narration_failed")
            case NarratorOutput():
                for part in reply.partials:
                    if one := self._outstanding.get(part.batch_id):
                        embedding = one.narration_batch[part.row]
                        self._finished.append(PartialText(embedding, part.text, part.n_tokens))
                for ended in reply.ended:
                    self._take_ended(worker, ended)

    def _take_ended(self, worker: _Worker, ended: EndedRow) -> None:
        one = self._outstanding.get(ended.batch_id)
        if one is None or ended.row not in one.unsaid:  # given up meanwhile
            return
        one.unsaid.remove(ended.row)
        one.has_words |= ended.utterance.status is not Status.FAILED
        embedding = one.narration_batch[ended.row]
        self._finished.append(NarratedPopulation(embedding, ended.utterance, worker.provenance))
        if one.unsaid:
            return
        del self._outstanding[ended.batch_id]
        if one.has_words:
            self._n_failures = 0
        else:
            self._count_failure("narration_failed")

    # -- what has come to nothing ----------------------------------------------------------

    def _give_up(self, batch_id: int, reason: str, *, dropped_as: str) -> None:
        """Fail what has not been said of a window, if it is being narrated."""
        one = self._outstanding.pop(batch_id, None)
        if one is None or self._worker is None:
            return
        self._count_failure(dropped_as)
        unsaid = [one.narration_batch[row] for row in sorted(one.unsaid)]
        self._finished += failed(unsaid, reason, self._worker.provenance, self._clock)

    def _count_failure(self, dropped_as: str) -> None:
        self._n_failures += 1
        self._lost[dropped_as] += 1

    def _forget_worker(self, reason: str) -> None:
        for batch_id in list(self._outstanding):
            self._give_up(batch_id, reason, dropped_as="worker_died")
        self._worker, self._has_room, self._is_still = None, False, False

    def _check_time(self) -> None:
        now_ns = self._clock.now_ns()
        for one in self._outstanding.values():
            if now_ns - one.sent_host_ns > self._timeout_ns:
                logger.error("narrator worker timed out", extra={"pid": self._process.pid})
                one.sent_host_ns = now_ns  # ask once, not every step
                self._process.kill()

    def _stir(self) -> None:
        self._last_heard_ns = self._clock.now_ns()
        if self._is_still:
            self._is_still = False
            logger.info("narrator worker stirs again", extra={"pid": self._process.pid})

    def _check_pulse(self) -> None:
        silent_ns = self._clock.now_ns() - self._last_heard_ns
        if self._worker is None or self._is_still or silent_ns < STILL_AFTER_S * NS_PER_S:
            return
        self._is_still = True
        logger.error("narrator worker does not stir", extra={"pid": self._process.pid})
        reason = f"the narrator worker did not stir for {STILL_AFTER_S:.0f} s"
        for batch_id in list(self._outstanding):
            self._give_up(batch_id, reason, dropped_as="worker_stopped")
            if self._worker:  # it may turn out to be gone
                self._send(self._worker, Cancel(batch_id))

    # -- what the worker is sent -----------------------------------------------------------

    def _dispatch(self) -> None:
        """Send the window that waits, if the worker has room."""
        if self._worker is None or not self._has_room or self._is_still:
            return
        narration_batch = self._handover.take()
        if narration_batch is None:
            return
        batch_id, self._next_batch_id = self._next_batch_id, self._next_batch_id + 1
        self._has_room = False
        self._outstanding[batch_id] = _Outstanding(
            narration_batch, set(range(len(narration_batch))), self._clock.now_ns()
        )
        order = Narrate(batch_id, tuple(narration_batch), self._wants_partials())
        self._send(self._worker, order)

    def _send(self, worker: _Worker, order: Order) -> None:
        try:
            self._socket.send_multipart([worker.identity, *pack_order(order)], zmq.DONTWAIT)
        except zmq.ZMQError as error:  # its end of the line is gone, and it is or will be dead
            self._process.kill()
            self._forget_worker(f"the narrator worker cannot be reached: {error}")
