"""The narrator worker: a process that owns the language model.

``python -m daemon.worker --address ipc://... --bundle DIR --narrator JSON``, started by the
daemon. It says that it is ready, narrates what it is given, and ends when its standard input
closes: the daemon holds the other end.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq

from contracts.errors import DependencyError, UserError, WireError
from contracts.manifest import load_manifest
from daemon.logs import configure_logging
from daemon.narrators.from_settings import narrator_from
from daemon.narrators.protocol import Narrator
from daemon.settings import LogSettings, NarratorSettings
from daemon.worker_wire import Failed, Ready, Reply, Said, pack_reply, unpack_batch

logger = logging.getLogger(__name__)

USER_EXIT_CODE = 2
DEPENDENCY_EXIT_CODE = 3
"""As for every command of this project; see docs/exit-codes.md."""


def main(arguments: Sequence[str]) -> int:
    """Run the worker until its standard input closes; return its exit code."""
    parser = argparse.ArgumentParser(prog="daemon.worker", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--narrator", required=True, type=NarratorSettings.model_validate_json)
    parser.add_argument("--log", default=LogSettings(), type=LogSettings.model_validate_json)
    options = parser.parse_args(arguments)
    # Ctrl-C reaches the whole process group; the daemon decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(options.log.level, options.log.format)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 1000)
        socket.connect(options.address)
        try:
            manifest = load_manifest(options.bundle, check_hashes=False)
            narrator = narrator_from(options.narrator, manifest)
        except (UserError, DependencyError) as error:
            code = USER_EXIT_CODE if isinstance(error, UserError) else DEPENDENCY_EXIT_CODE
            socket.send_multipart(pack_reply(Failed(-1, str(error), exit_code=code)))
            return code
        socket.send_multipart(pack_reply(Ready(os.getpid(), narrator.provenance)))
        return _serve(socket, narrator)


def _serve(socket: zmq.Socket[bytes], narrator: Narrator) -> int:
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if sys.stdin.fileno() in ready:  # nothing is ever written to it: it has closed
            return 0
        socket.send_multipart(pack_reply(_narrate(socket.recv_multipart(), narrator)))


def _narrate(parts: list[bytes], narrator: Narrator) -> Reply:
    batch_id, embeddings = unpack_batch(parts)
    try:
        return Said(batch_id, tuple(narrator.narrate(embeddings)))
    except WireError:
        raise
    except Exception as error:  # the top of the worker's loop: one batch must not end it
        logger.exception("narration failed", extra={"batch_id": batch_id})
        return Failed(batch_id, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
