"""The likeness worker: a process that owns the sentence model.

``python -m daemon.triggers.likeness_worker --address ipc://... --model DIR --sentence TEXT ...``,
started by the daemon. It reports that it is ready, compares the texts that it gets with the
sentences of the rules, and ends when its standard input closes.

References
----------
Reimers and Gurevych, Sentence-BERT, EMNLP 2019: cosine of sentence embeddings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import msgpack
import zmq

from contracts.errors import UserError
from contracts.garbage import collector_paused
from daemon.service.logs import configure_logging
from daemon.service.settings import LogSettings
from daemon.triggers.sentence_model import SentenceModel, model_problem
from daemon.worker.connection import DaemonSocket, WorkerSecret
from daemon.worker.stdin import exit_when_stdin_closes

NICENESS = 5
"""That of the narrator by default: the fast loop goes first where they share a core."""

MAX_CACHED = 1000
"""Texts whose cosines are kept: neighbouring windows are often described in the same words."""


class _Comparer:
    """Compares texts with the sentences of the rules."""

    def __init__(self, model: str, sentences: Sequence[str]) -> None:
        if problem := model_problem(model):  # again, because the folder may have gone since
            raise UserError(problem)
        with collector_paused():
            import torch

            torch.set_num_threads(1)
            self._model = SentenceModel(model)
        self._cosines: dict[str, list[float]] = {}
        self._directions = self._model.encode(sentences)
        self._model.encode(["a sentence to warm up, since the first one takes longer"])

    def cosines(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the cosines of each text with every sentence."""
        new = [text for text in dict.fromkeys(texts) if text not in self._cosines]
        if new:
            if len(self._cosines) + len(new) > MAX_CACHED:
                self._cosines.clear()
                new = list(dict.fromkeys(texts))
            cosines = self._model.encode(new) @ self._directions.T
            self._cosines.update(zip(new, cosines.tolist(), strict=True))
        return [self._cosines[text] for text in texts]


def main(arguments: Sequence[str]) -> int:
    """Run the worker until its standard input closes; return its exit code."""
    parser = argparse.ArgumentParser(prog="daemon.triggers.likeness_worker", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sentence", action="append", required=True)
    parser.add_argument("--log", default=LogSettings(), type=LogSettings.model_validate_json)
    options = parser.parse_args(arguments)
    configure_logging(options.log.level, options.log.format)
    os.nice(NICENESS)
    secret = WorkerSecret.read(sys.stdin.fileno())
    if secret is None:  # the daemon is gone
        return 0
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, DaemonSocket(context, options.address, secret) as daemon:
        try:
            with exit_when_stdin_closes():
                comparer = _Comparer(options.model, options.sentence)
        except Exception as error:  # whatever a model folder can do to the library
            reason = f"{options.model}: {type(error).__name__}: {error}"[:1000]
            daemon.send([b"failed", msgpack.packb({"reason": reason})])
            return 2
        daemon.send([b"ready", msgpack.packb({"pid": os.getpid()})])
        return _serve(daemon, comparer)


def _serve(daemon: DaemonSocket, comparer: _Comparer) -> int:
    poller = zmq.Poller()
    poller.register(daemon.socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if sys.stdin.fileno() in ready:  # the daemon writes no more to it, so it has closed
            return 0
        while (parts := daemon.receive()) is not None:
            batch_id, texts = msgpack.unpackb(parts[1])
            answer = {"id": batch_id, "cosines": comparer.cosines(texts)}
            daemon.send([b"like", msgpack.packb(answer)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
