"""The narrator worker: a process that owns the language model.

``python -m daemon.worker --address ipc://... --bundle DIR --narrator JSON``, started by the
daemon. It says that it is ready, narrates what it is given, says what rows have said as they
say it, and ends when its standard input closes: the daemon holds the other end.

A thread of its own says twice a second that the process runs, so that the daemon can tell a
worker that is busy from one that has been stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import zmq

from contracts.errors import DependencyError, UserError
from contracts.manifest import load_manifest
from daemon.narrators.auto import load_narrator
from daemon.service.logs import configure_logging
from daemon.service.settings import LogSettings, NarratorSettings, VllmSettings
from daemon.worker.loop import WorkerLoop
from daemon.worker.messages import Failed, Heartbeat, ModelLoaded, pack_reply, unpack_order

ALIVE_EVERY_S = 0.5

BEATS_QUEUED = 4
"""For a daemon that does not read; what it hears later should be of late."""

Socket = zmq.Socket[bytes]


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
        socket.send_multipart(pack_reply(ModelLoaded(os.getpid(), narrator.provenance)))
        with closing(narrator), _pulse(context, options.address):
            return _serve(socket, WorkerLoop(narrator))


def _serve(socket: Socket, desk: WorkerLoop) -> int:
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


def _socket(context: zmq.Context[Socket], address: str, *, queue: int = 0) -> Socket:
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 1000)
    # Sending never waits, or a daemon that is stopped and then killed would leave a worker that
    # hears of no end. What can queue is what a window or two have to say.
    socket.set(zmq.SNDHWM, queue)
    socket.connect(address)
    return socket


@contextmanager
def _pulse(context: zmq.Context[Socket], address: str) -> Iterator[None]:
    """Say `Heartbeat` while the body runs; a thread, since a step of the narrator may take long."""
    done = Event()

    def beat() -> None:
        with _socket(context, address, queue=BEATS_QUEUED) as socket:
            socket.set(zmq.LINGER, 0)
            while not done.wait(ALIVE_EVERY_S):
                if socket.poll(0, zmq.POLLOUT):  # a daemon that is stopped misses no beat
                    socket.send_multipart(pack_reply(Heartbeat(os.getpid())))

    thread = Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
