"""The narrator worker: a process that owns the language model.

``python -m daemon.worker --address ipc://... --bundle DIR --narrator JSON``, started by the
daemon. It says that it is ready, narrates what it is given, says what rows have said as they
say it, and ends when its standard input closes: the daemon holds the other end.

A thread of its own says twice a second that the process runs, so that the daemon can tell a
worker that is busy from one that has been stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import zmq

from contracts.errors import DependencyError, UserError
from contracts.manifest import load_manifest
from daemon.logs import configure_logging
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Ended, Narrator, Partial
from daemon.settings import LogSettings, NarratorSettings, VllmSettings
from daemon.worker_wire import (
    Alive,
    Cancel,
    Failed,
    Narrate,
    Order,
    Ready,
    Reply,
    Room,
    Said,
    pack_reply,
    unpack_order,
)

ALIVE_EVERY_S = 0.5

Socket = zmq.Socket[bytes]

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the worker until its standard input closes; return its exit code."""
    parser = argparse.ArgumentParser(prog="daemon.worker", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--narrator", required=True, type=NarratorSettings.model_validate_json)
    parser.add_argument("--vllm", default=VllmSettings(), type=VllmSettings.model_validate_json)
    parser.add_argument("--log", default=LogSettings(), type=LogSettings.model_validate_json)
    options = parser.parse_args(arguments)
    configure_logging(options.log.level, options.log.format)
    os.nice(options.narrator.nice)
    context: zmq.Context[Socket] = zmq.Context()
    with context, _socket(context, options.address) as socket:
        try:
            manifest = load_manifest(options.bundle, check_hashes=False)
            narrator = load_narrator(options.narrator, manifest, vllm=options.vllm)
        except (UserError, DependencyError) as error:
            failure = Failed(-1, str(error), exit_code=error.exit_code)
            socket.send_multipart(pack_reply(failure))
            return error.exit_code
        socket.send_multipart(pack_reply(Ready(os.getpid(), narrator.provenance)))
        with _pulse(context, options.address):
            return _serve(socket, Desk(narrator))


def _serve(socket: Socket, desk: Desk) -> int:
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        ready = dict(poller.poll(0 if desk.is_busy else None))
        if sys.stdin.fileno() in ready:  # nothing is ever written to it: it has closed
            return 0
        orders = []
        while int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            orders.append(unpack_order(socket.recv_multipart()))
        for reply in desk.work(orders):
            socket.send_multipart(pack_reply(reply))


class Desk:
    """Between the orders and the narrator: values in, values out.

    Parameters
    ----------
    narrator : Narrator
    """

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._unsaid: dict[int, set[int]] = {}
        self._owes_room_for = 0

    @property
    def is_busy(self) -> bool:
        """Whether something is being narrated."""
        return bool(self._unsaid)

    def work(self, orders: Sequence[Order]) -> Iterator[Reply]:
        """Take orders, go on by one step, and yield what there is to say.

        Parameters
        ----------
        orders : sequence of Narrate or Cancel
            Those that have come since; a window that one of them cancels is not begun.

        Yields
        ------
        Said, Failed or Room
        """
        cancelled = {order.batch_id for order in orders if isinstance(order, Cancel)}
        for batch_id in cancelled:
            self._narrator.cancel(batch_id)
            self._unsaid.pop(batch_id, None)
        try:
            for order in orders:
                if isinstance(order, Narrate):
                    self._owes_room_for = len(order.embeddings)
                    if order.batch_id not in cancelled:
                        self._begin(order)
            if self.is_busy:
                yield from self._step()
        except Exception as error:  # the top of a narrator's loop
            logger.exception("narration failed")
            yield from self._give_up(f"{type(error).__name__}: {error}")
        if self._owes_room_for and self._narrator.has_room(self._owes_room_for):
            self._owes_room_for = 0
            yield Room()

    def _begin(self, order: Narrate) -> None:
        self._unsaid[order.batch_id] = set(range(len(order.embeddings)))
        self._narrator.begin(order.batch_id, order.embeddings, with_partials=order.with_partials)

    def _step(self) -> Iterator[Reply]:
        events = self._narrator.step()
        ended = tuple(event for event in events if isinstance(event, Ended))
        if events:
            partials = tuple(event for event in events if isinstance(event, Partial))
            yield Said(partials, ended)
        for event in ended:
            rows = self._unsaid[event.batch_id]
            rows.remove(event.row)
            if not rows:
                del self._unsaid[event.batch_id]
        if self._unsaid and not self._narrator.n_rows:
            n_unsaid = sum(map(len, self._unsaid.values()))
            yield from self._give_up(f"the narrator forgot {n_unsaid} populations")

    def _give_up(self, reason: str) -> Iterator[Failed]:
        unsaid, self._unsaid = self._unsaid, {}
        for batch_id in unsaid:
            self._narrator.cancel(batch_id)
            yield Failed(batch_id, reason)


def _socket(context: zmq.Context[Socket], address: str) -> Socket:
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 1000)
    socket.connect(address)
    return socket


@contextmanager
def _pulse(context: zmq.Context[Socket], address: str) -> Iterator[None]:
    """Say `Alive` while the body runs; a thread, since a step of the narrator may take long."""
    done = Event()

    def beat() -> None:
        with _socket(context, address) as socket:
            socket.set(zmq.LINGER, 0)
            while not done.wait(ALIVE_EVERY_S):
                socket.send_multipart(pack_reply(Alive(os.getpid())))

    thread = Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
