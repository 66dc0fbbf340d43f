"""What another source publishes, for a source that keeps to its clock."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq

from contracts.address import check_connectable
from contracts.errors import WireError
from contracts.keys import ClientKeys
from contracts.spikes import Hello, Mark, SpikeBatch, StreamEnd
from contracts.wire import MAX_MESSAGE_BYTES, unpack

logger = logging.getLogger(__name__)


class ReferenceStream:
    """Subscribes to the marks and spikes of a source; with keys, encrypted.

    Raises
    ------
    UserError
        If the address is none.
    """

    def __init__(self, address: str, keys: ClientKeys | None = None) -> None:
        self.address = str(check_connectable(address, setting="--sync-to"))
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, 0)  # it is read between two batches of our own
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.set(zmq.LINGER, 0)
        if keys is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
        for kind in (b"mark.", b"spikes."):
            self._socket.subscribe(kind)
        self._socket.connect(self.address)
        self._n_unreadable = 0

    def messages(self) -> Iterator[Mark | SpikeBatch]:
        """Yield what has arrived, without waiting; what breaks the wire format is passed over."""
        while not self._socket.closed:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message: Hello | Mark | SpikeBatch | StreamEnd = unpack(parts, received_host_ns=0)
            except WireError as error:
                self._n_unreadable += 1
                if self._n_unreadable.bit_count() == 1:  # the first, second, fourth, ...
                    fields = {"n": self._n_unreadable, "detail": str(error)}
                    logger.warning("message of the reference not understood", extra=fields)
                continue
            if isinstance(message, Mark | SpikeBatch):
                yield message

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()
