"""How like a sentence a narration is: the fast loop's client of the sentence model's process.

Theory of operation
-------------------
The sentence model takes tens of milliseconds and torch, and neither may touch the fast loop. So a
worker process owns the model, and this client owns the worker: it starts it, sends it narrations
over an ipc socket, and starts another one when it dies.

::

    submit ──► waiting (at most MAX_WAITING) ──► in progress (one batch) ──► collect

One batch is in progress at a time. A worker that is free gets all narrations that wait, so none
waits for more than two batches. Where the queue is full, the newest narration takes the place of
the oldest, because a trigger that comes late is worth nothing.

Every narration that is submitted is either yielded by `collect` or counted in ``n_dropped``: those
that found the queue full, all that are waiting or in progress when the worker is lost, and those
that come until the next worker has loaded its model, which takes seconds.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgpack
import zmq

from contracts.clock import Clock, second_to_ns
from contracts.narration import Narration
from daemon.worker.connection import WorkerSocket
from daemon.worker.process import WorkerProcess

SOCKET_NAME = "likeness"

MAX_WAITING = 16
"""Narrations that wait: two windows of eight populations. Older ones would be too late."""

ANSWER_S = 10.0
"""Seconds until a worker that has not answered is replaced: a batch takes tens of milliseconds."""

logger = logging.getLogger(__name__)


class Likeness(Protocol):
    """A sentence model, wherever it runs, as the evaluator uses it."""

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]: ...  # noqa: D102 - to be polled by the loop
    @property
    def n_dropped(self) -> int: ...  # noqa: D102 - narrations that were never compared
    @property
    def n_unfinished(self) -> int: ...  # noqa: D102 - submitted, and neither compared nor dropped
    @property
    def problem(self) -> str: ...  # noqa: D102 - why nothing can be compared now, or empty

    def submit(self, narration: Narration) -> None:
        """Queue a narration to be compared; called on the fast loop, never waits."""
        ...

    def collect(self) -> Iterator[tuple[Narration, Mapping[str, float]]]:
        """Yield narrations and their cosines by sentence; on the fast loop, never waits."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Stop the model's process, by force after the deadline."""
        ...


class LikenessClient:
    """Sends narrations to a worker with a sentence model, and keeps it alive.

    `log` are the log settings, as JSON.

    Raises
    ------
    UserError
        If there is no place for the socket between the two.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sentences: Sequence[str],
        *,
        model: str,
        log: str,
        clock: Clock,
    ) -> None:
        self.n_dropped = 0
        self._sentences = tuple(dict.fromkeys(sentences))
        self._waiting: deque[Narration] = deque()
        self._in_progress: tuple[Narration, ...] = ()
        self._batch_id = 0
        # The socket's identity of the worker that is ready; None while it loads its model.
        self._worker: bytes | None = None
        self._sent_ns = 0
        self._clock = clock
        self._problem = ""
        self._socket = WorkerSocket(context, SOCKET_NAME, what="the sentence model")
        self._process = WorkerProcess(
            [
                "daemon.triggers.likeness_worker",
                "--address", self._socket.address,
                "--model", model,
                "--log", log,
                *(f"--sentence={sentence}" for sentence in self._sentences),
            ],
            clock,
            name="likeness worker",
            secret=self._socket.secret.line,
        )  # fmt: skip
        try:
            self._process.start()
        except BaseException:
            self._socket.close()
            raise

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """The connection to the worker."""
        return (self._socket.socket,)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, or None while there is none."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether a worker has loaded its model."""
        return self._worker is not None

    @property
    def n_unfinished(self) -> int:
        """Narrations submitted, and neither compared nor dropped."""
        return len(self._waiting) + len(self._in_progress)

    @property
    def problem(self) -> str:
        """Why nothing can be compared now; empty if all is well, or the first model is loading."""
        return f"rules with 'like' are not evaluated: {self._problem}" if self._problem else ""

    def submit(self, narration: Narration) -> None:
        """Queue a narration; the oldest in the queue may give way."""
        if self._problem:  # the next worker loads for seconds: the answer would be too late
            self.n_dropped += 1
            return
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            self.n_dropped += 1
        self._waiting.append(narration)
        self._send()

    def collect(self) -> Iterator[tuple[Narration, Mapping[str, float]]]:
        """Yield what has been compared since, and replace a worker that is lost.

        Yields
        ------
        narration : Narration
        cosines : mapping of str to float
            By sentence.
        """
        while (received := self._socket.receive()) is not None:
            identity, (kind, payload) = received
            message = msgpack.unpackb(payload)
            # A message of a worker that has been replaced may still be in the socket: its process
            # id, or the number of its batch, tells it from the present one's.
            if kind == b"ready" and message["pid"] == self._process.pid:
                self._worker, self._problem = identity, ""
                logger.info("likeness ready", extra={"pid": message["pid"]})
            elif kind == b"like" and self._in_progress and message["id"] == self._batch_id:
                compared, self._in_progress = self._in_progress, ()
                for narration, cosines in zip(compared, message["cosines"], strict=True):
                    yield narration, dict(zip(self._sentences, cosines, strict=True))
            elif kind == b"failed":
                logger.error("likeness cannot start", extra={"reason": message["reason"]})
                self._lose(f"the sentence model cannot be loaded: {message['reason']}")
        if self._in_progress and self._clock.now_ns() - self._sent_ns > second_to_ns(ANSWER_S):
            logger.error("likeness does not answer", extra={"pid": self._process.pid})
            self._lose(f"the worker gave no answer for {ANSWER_S:g} s")
            self._process.kill()  # it may hang in a library; `check` starts the next one
        exit_code = self._process.check()
        if exit_code is not None:
            # A reason that is known, such as a model that cannot be loaded, says more.
            self._lose(self._problem or f"the worker ended with exit code {exit_code}")
        self._send()

    def close(self, *, deadline_s: float) -> None:
        """Stop the worker and close the connection."""
        self._drop()
        if not self.is_ready:  # while it loads its model, it does not see that its input closes
            self._process.kill()
        self._process.stop(deadline_s=deadline_s)
        self._socket.close()

    def _send(self) -> None:
        if self._in_progress or not self._waiting or self._worker is None:
            return
        self._in_progress = tuple(self._waiting)
        self._waiting.clear()
        # The answer must carry this number: one to an older batch belongs to narrations that have
        # been dropped.
        self._batch_id += 1
        self._sent_ns = self._clock.now_ns()
        texts = [narration.utterance.text for narration in self._in_progress]
        try:
            self._socket.send(self._worker, [b"ask", msgpack.packb((self._batch_id, texts))])
        except zmq.ZMQError:  # its end of the socket is closed; `check` finds its death
            self._lose("the worker cannot be reached")

    def _lose(self, reason: str) -> None:
        """Drop everything, and refuse narrations until the next worker is ready."""
        self._worker, self._problem = None, reason
        self._drop()

    def _drop(self) -> None:
        self.n_dropped += self.n_unfinished
        self._in_progress = ()
        self._waiting.clear()
