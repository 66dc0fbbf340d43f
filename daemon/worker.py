"""The narrator worker: a process that owns the language model.

``python -m daemon.worker --address ipc://... --bundle DIR --narrator JSON``, started by the
daemon. It says that it is ready, narrates what it is given, and ends when its standard input
closes: the daemon holds the other end.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq

from contracts.errors import DependencyError, UserError
from contracts.manifest import load_manifest
from daemon.logs import configure_logging
from daemon.narration_port import narrate
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Narrator
from daemon.settings import LogSettings, NarratorSettings
from daemon.worker_wire import Failed, Ready, Reply, Said, pack_reply, unpack_batch


def main(arguments: Sequence[str]) -> int:
    """Run the worker until its standard input closes; return its exit code."""
    parser = argparse.ArgumentParser(prog="daemon.worker", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--narrator", required=True, type=NarratorSettings.model_validate_json)
    parser.add_argument("--log", default=LogSettings(), type=LogSettings.model_validate_json)
    options = parser.parse_args(arguments)
    configure_logging(options.log.level, options.log.format)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 1000)
        socket.connect(options.address)
        try:
            manifest = load_manifest(options.bundle, check_hashes=False)
            narrator = load_narrator(options.narrator, manifest)
        except (UserError, DependencyError) as error:
            failure = Failed(-1, str(error), exit_code=error.exit_code)
            socket.send_multipart(pack_reply(failure))
            return error.exit_code
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
    utterances, reason = narrate(narrator, embeddings)
    return Failed(batch_id, reason) if reason else Said(batch_id, tuple(utterances))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
