"""libzmq sockets that other processes reach through a guard alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import zmq

from contracts.address import IpcAddress, TcpAddress, leaves_machine
from contracts.allow_list import ServerKeys
from peer_guard.guard import inner_path
from peer_guard.listening import ListeningSocket
from peer_guard.subscriber_guard import MAX_CONNECTIONS, SubscriberGuard

logger = logging.getLogger(__name__)


def bind_guarded(
    socket: zmq.Socket[bytes],
    wanted: TcpAddress | IpcAddress,
    *,
    setting: str,
    keys: ServerKeys | None = None,
    on_ping: Callable[[int, bytes], None] | None = None,
) -> SubscriberGuard:
    """Bind an XPUB socket behind a guard that listens at an address, with or without keys.

    Without, an address that other machines can reach is warned of. `on_ping` as for the guard.

    Raises
    ------
    UserError
        If the address is taken or cannot be bound.
    """
    listening = ListeningSocket(wanted, setting=setting)
    if keys is None and leaves_machine(wanted):
        fields = {"setting": setting, "address": listening.address}
        logger.warning("insecure: other machines can read it, without keys", extra=fields)
    inner = inner_path()
    socket.set(zmq.IPC_FILTER_PID, os.getpid())
    socket.set(zmq.BACKLOG, MAX_CONNECTIONS)
    socket.bind(f"ipc://{inner}")
    return SubscriberGuard(listening, inner, what=setting, keys=keys, on_ping=on_ping)
