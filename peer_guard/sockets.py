"""libzmq sockets that other processes reach through a guard alone."""

from __future__ import annotations

import os

import zmq

from contracts.address import IpcAddress, TcpAddress
from contracts.allow_list import ServerKeys
from peer_guard.guard import inner_path
from peer_guard.listening import ListeningSocket
from peer_guard.subscriber_guard import MAX_CONNECTIONS, SubscriberGuard


def bind_guarded(
    socket: zmq.Socket[bytes],
    wanted: TcpAddress | IpcAddress,
    *,
    setting: str,
    keys: ServerKeys | None = None,
) -> SubscriberGuard:
    """Bind an XPUB socket behind a guard that listens at an address, with or without keys.

    Raises
    ------
    UserError
        If the address is taken or cannot be bound.
    """
    listening = ListeningSocket(wanted, setting=setting)
    inner = inner_path()
    socket.set(zmq.IPC_FILTER_PID, os.getpid())
    socket.set(zmq.BACKLOG, MAX_CONNECTIONS)
    socket.bind(f"ipc://{inner}")
    return SubscriberGuard(listening, inner, what=setting, keys=keys)
