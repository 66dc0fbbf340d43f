"""The socket to a worker process, in a folder that only its user can enter."""

from __future__ import annotations

import zmq

from contracts.errors import UserError
from contracts.temporary_folder import PREFIX, TemporaryFolder


def bind_worker_socket(
    context: zmq.Context[zmq.Socket[bytes]], name: str, *, what: str
) -> tuple[TemporaryFolder, zmq.Socket[bytes]]:
    """Make a folder and bind a ROUTER socket in it, at ``ipc://FOLDER/NAME``.

    The caller closes the folder. `what` names the socket's owner in the error. The socket raises
    on a message for a worker that is gone.

    Raises
    ------
    UserError
        If there is no folder for it, or its path is too long.
    """
    # The path of a Unix socket fits in sun_path, which is short (man 7 unix).
    max_bytes = zmq.IPC_PATH_MAX_LEN - len(f"/{PREFIX}12345678/{name}")
    problem = (
        f"{what}'s socket needs a temporary folder that can be written to, with a path of "
        f"at most {max_bytes} bytes. Set TMPDIR to one"
    )
    try:
        folder = TemporaryFolder()
    except OSError as error:
        raise UserError(f"{problem}: {error}") from error
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.ROUTER_MANDATORY, 1)  # a message to a worker that is gone raises
    try:
        socket.bind(f"ipc://{folder.path}/{name}")
    except zmq.ZMQError as error:
        socket.close()
        folder.close()
        found = f"{zmq.strerror(error.errno or 0)} in {folder.path.parent}"
        raise UserError(f"{problem}: {found}") from error
    return folder, socket
