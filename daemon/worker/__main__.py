"""The narrator worker: a process that owns the language model.

``python -m daemon.worker --address ipc://... --bundle DIR --narrator JSON``, started by the
daemon. It reads the secret of that socket from its standard input, loads its model, says so,
narrates the windows that it is sent, and ends when its standard input closes: the daemon holds the
other end.

A thread sends a heartbeat twice a second, from before the model is loaded, so that the daemon can
tell a worker that is busy from one that has been stopped.
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

from contracts.errors import DependencyError, ManifestError, UserError
from contracts.manifest import Manifest, load_manifest
from daemon.cores import keep_to_cores
from daemon.narrators.auto import load_narrator
from daemon.service.logs import configure_logging
from daemon.service.settings import LogSettings, NarratorSettings, VllmSettings
from daemon.worker.connection import DaemonSocket, WorkerSecret
from daemon.worker.loop import WorkerLoop
from daemon.worker.messages import Failed, Heartbeat, ModelLoaded, pack_reply, unpack_order
from daemon.worker.stdin import exit_when_stdin_closes

HEARTBEAT_EVERY_S = 0.5

HEARTBEATS_QUEUED = 4
"""For a daemon that does not read; those that it reads later should be recent."""

Socket = zmq.Socket[bytes]


def main(arguments: Sequence[str]) -> int:
    """Run the worker until its standard input closes; return its exit code."""
    parser = argparse.ArgumentParser(prog="daemon.worker", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--bundle-sha256", default="")
    parser.add_argument("--narrator", required=True, type=NarratorSettings.model_validate_json)
    parser.add_argument("--vllm", default=VllmSettings(), type=VllmSettings.model_validate_json)
    parser.add_argument("--log", default=LogSettings(), type=LogSettings.model_validate_json)
    options = parser.parse_args(arguments)
    configure_logging(options.log.level, options.log.format)
    os.nice(options.narrator.nice)
    keep_to_cores(options.narrator.cores)  # which the daemon has checked
    secret = WorkerSecret.read(sys.stdin.fileno())
    if secret is None:  # the daemon is gone
        return 0
    context: zmq.Context[Socket] = zmq.Context()
    with (
        context,
        _socket(context, options.address, secret) as daemon,
        _heartbeat(context, options.address, secret),
    ):
        try:
            with exit_when_stdin_closes():
                # Its files too: a later worker loads what may have been written over since.
                manifest = load_manifest(options.bundle)
                _check_same_bundle(manifest, options.bundle_sha256)
                narrator = load_narrator(options.narrator, manifest, vllm=options.vllm)
        except (UserError, DependencyError) as error:
            failure = Failed(-1, str(error), exit_code=error.exit_code)
            daemon.send(pack_reply(failure))
            return error.exit_code
        daemon.send(pack_reply(ModelLoaded(os.getpid(), narrator.provenance)))
        with closing(narrator):
            return _serve(daemon, WorkerLoop(narrator))


def _check_same_bundle(manifest: Manifest, sha256: str) -> None:
    """Refuse a bundle that is not the one that the daemon encodes with.

    Raises
    ------
    ManifestError
        If it is another one.
    """
    if sha256 not in {"", manifest.sha256}:
        raise ManifestError(
            str(manifest.folder),
            f"its manifest has the sha256 {manifest.sha256[:12]}, and the daemon encodes with "
            f"{sha256[:12]}; it was replaced since the daemon started. Restart the daemon",
        )


def _serve(daemon: DaemonSocket, loop: WorkerLoop) -> int:
    poller = zmq.Poller()
    poller.register(daemon.socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        # Busy: only look, and continue with the next token. Idle: sleep until an order comes.
        ready = dict(poller.poll(0 if loop.is_busy else None))
        if sys.stdin.fileno() in ready:  # nothing more is written to it: it has closed
            return 0
        orders = []
        while (parts := daemon.receive()) is not None:
            orders.append(unpack_order(parts))
        for reply in loop.work(orders):
            daemon.send(pack_reply(reply))


def _socket(
    context: zmq.Context[Socket], address: str, secret: WorkerSecret, *, queue: int = 0
) -> DaemonSocket:
    daemon = DaemonSocket(context, address, secret)
    # Without a limit (0) sending never waits: a worker blocked on a daemon that is stopped and then
    # killed would not notice the end of its standard input. Only the replies of a window or two can
    # queue.
    daemon.socket.set(zmq.SNDHWM, queue)
    return daemon


@contextmanager
def _heartbeat(context: zmq.Context[Socket], address: str, secret: WorkerSecret) -> Iterator[None]:
    """Send `Heartbeat` while the body runs, from a thread: one step of the narrator may be long."""
    done = Event()

    def beat() -> None:
        with _socket(context, address, secret, queue=HEARTBEATS_QUEUED) as daemon:
            daemon.socket.set(zmq.LINGER, 0)
            while not done.wait(HEARTBEAT_EVERY_S):
                if daemon.socket.poll(0, zmq.POLLOUT):  # the queue is full while it is stopped
                    daemon.send(pack_reply(Heartbeat(os.getpid())))

    thread = Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
