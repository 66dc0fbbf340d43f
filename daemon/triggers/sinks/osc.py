"""Triggers as OSC messages in UDP datagrams, for programs of stimuli, sound and light.

References
----------
Open Sound Control 1.0 (opensoundcontrol.org): an address, a string of types, and the arguments.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from contracts.trigger import Trigger
from daemon.triggers.sinks.thread import Delivery, DeliveryError
from daemon.triggers.tables import OscSinkTable


class OscOutlet:
    """Sends one datagram a trigger; nobody answers, so that only a closed port can be noticed."""

    def __init__(self, table: OscSinkTable) -> None:
        self._host, self._port, self._address = table.host, table.port, table.address
        # Here and not in the thread: a package that is missing must stop the start of the daemon.
        self._pack = _packer(table.address)

    def open(self) -> None:
        """Make the socket. It is connected, so that the system reports a port without a program."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def deliver(self, delivery: Delivery) -> None:
        """Send one trigger.

        Raises
        ------
        DeliveryError
            If the system could not send it, or says that nobody listens there. Of another machine
            that answer comes later, and is a failure of the next trigger.
        """
        try:
            self._socket.connect((self._host, self._port))
            earlier = self._error()
            self._socket.send(self._pack(delivery.trigger))
        except OSError as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from error
        if number := self._error() or earlier:
            name = "ConnectionRefusedError" if number == errno.ECONNREFUSED else "OSError"
            raise DeliveryError(f"{name}: {os.strerror(number)} ({self._host} port {self._port})")

    def tend(self) -> None:
        """Nothing to keep alive."""

    def close(self, *, deadline_s: float) -> None:
        """Close the socket; returns at once."""
        self._socket.close()

    def _error(self) -> int:
        """Return what the system has found out since it was asked last, and forget it."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _packer(address: str) -> Callable[[Trigger], bytes]:
    from pythonosc.osc_message_builder import OscMessageBuilder

    def pack(trigger: Trigger) -> bytes:
        builder = OscMessageBuilder(address)
        for kind, value in (
            ("s", trigger.name),
            ("s", trigger.population),
            ("f", trigger.score),
            ("f", trigger.threshold),
            ("d", trigger.window.stop_s),
            ("d", trigger.window.frame_s),
            ("s", trigger.id),
        ):
            builder.add_arg(value, kind)
        return bytes(builder.build().dgram)

    return pack
