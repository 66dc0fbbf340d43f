"""How like a sentence a narration is: the fast loop's end of the line to a process of its own.

The sentence model takes tens of milliseconds and torch; neither may touch the fast loop. A worker
that is free gets all narrations that wait, as one batch, so that none waits for more than two. At
most `MAX_WAITING` do: a newer one takes the place of the oldest, which is counted. So is all that
waits when a worker dies, cannot load its model or does not answer, and what comes until another one
has loaded it.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgpack
import zmq

from contracts.clock import Clock, second_to_ns
from contracts.narration import Narration
from daemon.worker.connection import bind_worker_socket
from daemon.worker.process import WorkerProcess

SOCKET_NAME = "likeness"

MAX_WAITING = 16
"""Narrations that wait: two windows of eight populations. Older ones would be too late."""

ANSWER_S = 10.0
"""A batch takes tens of milliseconds: a worker that is silent for so long does not run."""

logger = logging.getLogger(__name__)


class Likeness(Protocol):
    """What the trigger desk asks of a sentence model, wherever it runs."""

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]: ...  # noqa: D102 - to be polled by the loop
    @property
    def n_dropped(self) -> int: ...  # noqa: D102 - narrations that were never compared
    @property
    def n_unfinished(self) -> int: ...  # noqa: D102 - asked, and neither answered nor dropped
    @property
    def problem(self) -> str: ...  # noqa: D102 - why nothing can be compared now, or empty

    def ask(self, narration: Narration) -> None:
        """Have a narration compared; called on the fast loop, never waits."""
        ...

    def collect(self) -> Iterator[tuple[Narration, Mapping[str, float]]]:
        """Yield narrations and their cosines by sentence; on the fast loop, never waits."""
        ...

    def close(self, *, deadline_s: float) -> None:
        """Let go of the model, by force after the deadline."""
        ...


class LikenessClient:
    """Sends narrations to a worker with a sentence model, and keeps it alive.

    Parameters
    ----------
    context : zmq.Context
    sentences : sequence of str
        Of the rules.
    model : str
        Folder or hub id.
    log : str
        The log settings, as JSON.
    clock : Clock

    Attributes
    ----------
    n_dropped : int
        Narrations that were never compared.

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
        self._asked: tuple[Narration, ...] = ()
        self._batch_id = 0
        self._worker: bytes | None = None
        self._asked_ns = 0
        self._clock = clock
        self._loss = ""
        self._folder, self._socket = bind_worker_socket(
            context, SOCKET_NAME, what="the sentence model"
        )
        self._process = WorkerProcess(
            [
                "daemon.triggers.likeness_worker",
                "--address", f"ipc://{self._folder}/{SOCKET_NAME}",
                "--model", model,
                "--log", log,
                *(f"--sentence={each}" for each in self._sentences),
            ],
            clock,
            name="likeness worker",
        )  # fmt: skip
        try:
            self._process.start()
        except BaseException:
            self._let_go()
            raise

    @property
    def sockets(self) -> Sequence[zmq.Socket[bytes]]:
        """The line to the worker."""
        return (self._socket,)

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
        """Narrations that have been asked for, and neither answered nor dropped."""
        return len(self._waiting) + len(self._asked)

    @property
    def problem(self) -> str:
        """Why nothing can be compared now; empty if all is well, or the first model is loading."""
        return f"rules with 'like' hear nothing: {self._loss}" if self._loss else ""

    def ask(self, narration: Narration) -> None:
        """Have a narration compared; the oldest that waits may give way."""
        if self._loss:  # loading takes seconds: it would be too late
            self.n_dropped += 1
            return
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            self.n_dropped += 1
        self._waiting.append(narration)
        self._send()

    def collect(self) -> Iterator[tuple[Narration, Mapping[str, float]]]:
        """Yield what has been compared since, and look after the worker.

        Yields
        ------
        narration : Narration
        cosines : mapping of str to float
            By sentence.
        """
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            identity, kind, payload = self._socket.recv_multipart()
            message = msgpack.unpackb(payload)
            if kind == b"ready" and message["pid"] == self._process.pid:
                self._worker, self._loss = identity, ""
                logger.info("likeness ready", extra={"pid": message["pid"]})
            elif kind == b"like" and self._asked and message["id"] == self._batch_id:
                asked, self._asked = self._asked, ()
                for narration, cosines in zip(asked, message["cosines"], strict=True):
                    yield narration, dict(zip(self._sentences, cosines, strict=True))
            elif kind == b"failed":
                logger.error("likeness cannot start", extra={"reason": message["reason"]})
                self._lose(f"the sentence model cannot be loaded: {message['reason']}")
        if self._asked and self._clock.now_ns() - self._asked_ns > second_to_ns(ANSWER_S):
            logger.error("likeness does not answer", extra={"pid": self._process.pid})
            self._lose(f"the worker gave no answer for {ANSWER_S:g} s")
            self._process.kill()
        exit_code = self._process.check()
        if exit_code is not None:
            self._lose(self._loss or f"the worker ended with exit code {exit_code}")
        self._send()

    def close(self, *, deadline_s: float) -> None:
        """Stop the worker and let go of the line."""
        self._drop()
        if not self.is_ready:  # while it loads its model, it does not see that its input closes
            self._process.kill()
        self._process.stop(deadline_s=deadline_s)
        self._let_go()

    def _send(self) -> None:
        if self._asked or not self._waiting or self._worker is None:
            return
        self._asked = tuple(self._waiting)
        self._waiting.clear()
        self._batch_id += 1
        self._asked_ns = self._clock.now_ns()
        texts = [narration.said.text for narration in self._asked]
        parts = [self._worker, b"ask", msgpack.packb((self._batch_id, texts))]
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.ZMQError:  # its end of the line is gone; it is or will be found dead
            self._lose("the worker cannot be reached")

    def _lose(self, reason: str) -> None:
        """Do without a worker until the next one is ready."""
        self._worker, self._loss = None, reason
        self._drop()

    def _let_go(self) -> None:
        """Close the line, and remove its folder."""
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _drop(self) -> None:
        self.n_dropped += self.n_unfinished
        self._asked = ()
        self._waiting.clear()
